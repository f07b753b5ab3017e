"""A compiled checkpoint with a plan of every kind of task: tiny host, random latents, a few steps."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

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
