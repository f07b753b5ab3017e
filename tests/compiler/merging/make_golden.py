"""Makes `golden.safetensors`: what mergekit 0.1.5 gives for the configurations of `golden_cases.py`.

    python -m venv env && env/bin/pip install torch==2.13.0 mergekit==0.1.5
    env/bin/python tests/compiler/merging/make_golden.py env/bin/mergekit-yaml [CASE ...]

With cases, those alone are made again, the others kept.

Nothing of archspec is imported, nothing of mergekit but its command is used.
"""

import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[3]))

from safetensors.torch import load_file, save_file

from tests.compiler.merging.golden_cases import CASES, write_models

HERE = Path(__file__).parent


def main() -> None:
    wanted = sys.argv[2:] or list(CASES)
    kept = load_file(HERE / "golden.safetensors") if sys.argv[2:] else {}
    found: dict[str, Any] = {key: value for key, value in kept.items() if key.partition("/")[0] not in wanted}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_models(folder)
        for case in wanted:
            (folder / "merge.yaml").write_text(CASES[case])
            subprocess.run([sys.argv[1], "merge.yaml", case], cwd=folder, check=True)
            for file in sorted((folder / case).glob("*.safetensors")):
                found |= {f"{case}/{key}": value.contiguous() for key, value in load_file(file).items()}
    save_file(found, HERE / "golden.safetensors")


if __name__ == "__main__":
    main()
