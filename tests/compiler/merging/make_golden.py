"""Makes `golden.safetensors` and `golden_half.safetensors`: what mergekit 0.1.5 gives for the configurations of
`golden_cases.py`.

    python -m venv env && env/bin/pip install torch==2.13.0 mergekit==0.1.5
    env/bin/python tests/compiler/merging/make_golden.py env/bin/mergekit-yaml [CASE ...]

With cases, those alone are made again, the others kept.

Nothing of archspec is imported, nothing of mergekit but its command is used.
"""

import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[3]))

from safetensors.torch import load_file, save_file

from tests.compiler.merging.golden_cases import CASES, HALF_CASES, write_half_models, write_models

HERE = Path(__file__).parent


def main() -> None:
    keep(CASES, write_models, "golden.safetensors")
    keep(HALF_CASES, write_half_models, "golden_half.safetensors")


def keep(cases: Mapping[str, str], models: Callable[[Path], None], out: str) -> None:
    """Keep what mergekit makes of the wanted configurations, and of the others what is there."""
    wanted = [case for case in sys.argv[2:] or cases if case in cases]
    kept = load_file(HERE / out) if sys.argv[2:] else {}
    found: dict[str, Any] = {key: value for key, value in kept.items() if key.partition("/")[0] not in wanted}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        models(folder)
        for case in wanted:
            (folder / "merge.yaml").write_text(cases[case])
            subprocess.run([sys.argv[1], "merge.yaml", case], cwd=folder, check=True)
            for file in sorted((folder / case).glob("*.safetensors")):
                found |= {f"{case}/{key}": value.contiguous() for key, value in load_file(file).items()}
    save_file(found, HERE / out)


if __name__ == "__main__":
    main()
