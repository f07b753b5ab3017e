"""The results of mergekit 0.1.5, kept by make_golden.py, are ours to float32 rounding."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from archspec.compiler.merging.layout import lay_out
from archspec.compiler.merging.write import write_merge
from archspec.language.merging import load_merge
from tests.compiler.merging.golden_cases import CASES, SHAPES, write_models

GOLDEN = Path(__file__).parent / "golden.safetensors"


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    write_models(folder)
    return folder


@pytest.mark.parametrize("case", CASES)
def test_mergekit_gives_the_same(case: str, models: Path) -> None:
    (models / f"{case}.yaml").write_text(CASES[case])
    write_merge(lay_out(load_merge(models / f"{case}.yaml"), models), models / case)
    ours, golden = load_file(models / case / "model.safetensors"), load_file(GOLDEN)
    assert {f"{case}/{name}" for name in ours} == {key for key in golden if key.startswith(f"{case}/")}
    assert case.startswith("slices") or ours.keys() == SHAPES.keys()
    for name, tensor in ours.items():
        torch.testing.assert_close(tensor, golden[f"{case}/{name}"], rtol=2e-6, atol=2e-6)
