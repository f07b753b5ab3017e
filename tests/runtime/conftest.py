"""Compiled checkpoints: `compiled` has a plan of every kind of task; `make` is of any host and edits, unproved."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

Make = Callable[..., Path]
SPEC = """
archspec: 1
name: tiny-grafts
base: {host}
data: {{from: latents.npy, kind: latents}}
edits:
  - replace: blocks[0:3].mlp
    with: {{op: mlp, ratio: 2}}
    init: {{kind: least_squares, samples: 512}}
  - replace: blocks[3].attn
    with: {{op: hyena_x, kernel: 2}}
  - parallelize: blocks[0:2]
    by: 2
    init: {{kind: least_squares, samples: 512}}
distill: {{samples: 32, epochs: 2, batch: 16, lr: 1e-3}}
finetune: {{steps: 12, batch: 8, checkpoint: 3, distill_weight: 0.5, ema: 0.9}}
"""


@pytest.fixture(scope="session")
def compiled_once(tiny_dit: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    import numpy as np

    from archspec.compiler.driver import compile_spec

    home = tmp_path_factory.mktemp("tiny-grafts")
    np.save(home / "latents.npy", np.random.default_rng(0).standard_normal((80, 4, 8, 8)).astype(np.float32))
    (home / "spec.yaml").write_text(SPEC.format(host=tiny_dit))
    compile_spec(home / "spec.yaml", home / "out")
    return home


@pytest.fixture
def compiled(compiled_once: Path, tmp_path: Path) -> Callable[[str], Path]:
    """compiled(name): a fresh copy of the compiled folder, beside its data."""

    def copy(name: str) -> Path:
        return Path(shutil.copytree(compiled_once / "out", tmp_path / name))

    return copy


@pytest.fixture(scope="session")
def make(tmp_path_factory: pytest.TempPathFactory) -> Make:
    """Return make(host folder, text of the edits, link=False, subfolder=None) -> folder of the result."""
    from archspec.compiler.capture.infer import complete
    from archspec.compiler.emission.card import card
    from archspec.compiler.emission.emit import Emission, emit, read_content
    from archspec.host.locate import locate, structure_of
    from archspec.language.parse import load_source
    from archspec.plan import Plan
    from archspec.semantics.lower import lower
    from archspec.semantics.resolve import resolve
    from archspec.source import Source

    def make(host: Path, edits: str, *, link: bool = False, subfolder: str | None = None) -> Path:
        folder = tmp_path_factory.mktemp("compiled")
        base = f"{{from: ./{host.name}, subfolder: {subfolder}}}" if subfolder else f"./{host.name}"
        (folder / host.name).symlink_to(host)
        text = f"archspec: 1\nname: made\nbase: {base}\nedits:\n{edits}"
        spec = load_source(Source(str(folder / "spec.yaml"), text))
        assert spec.base is not None
        located = locate(spec.base, folder)
        resolved = resolve(spec, complete(structure_of(located)))
        program, plan = lower(resolved), Plan(1, spec.name, {"from": spec.base.from_}, None, ())
        text_of_card = card(resolved, program, [], plan)
        content = read_content(resolved.structure)
        emit(Emission(resolved, program, located, folder, content, plan, "0" * 32, text_of_card), folder / "out", link)
        return folder / "out"

    return make
