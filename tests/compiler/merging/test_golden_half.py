"""What mergekit 0.1.5 gives for TIES in bfloat16, number by number: where it differs from ours, and why.

`rounded` is mergekit's arithmetic as far as it rounds: weights, deltas, weighted deltas, their sum, the quotient,
lambda and the end are bfloat16. It leaves open which of several equal magnitudes at the cut of a model are kept.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from archspec.compiler.merging.layout import lay_out
from archspec.compiler.merging.write import write_merge
from archspec.language.merging import load_merge
from tests.compiler.merging.golden_cases import HALF_CASES, HALF_SETTINGS, SHAPES, half_tensors, write_half_models

GOLDEN = load_file(Path(__file__).parent / "golden_half.safetensors")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("half")
    write_half_models(folder)
    return folder


def merged(case: str, models: Path) -> dict[str, Tensor]:
    (models / f"{case}.yaml").write_text(HALF_CASES[case])
    write_merge(lay_out(load_merge(models / f"{case}.yaml"), models), models / case)
    found: dict[str, Tensor] = load_file(models / case / "model.safetensors")
    return found


def rounded(base: Tensor, deltas: Sequence[Tensor], weight: float, scale: float) -> Tensor:
    """Return the merge of trimmed deltas, every step rounded to bfloat16 (sums are float32 inside, rounded once)."""
    weights = torch.full((len(deltas), *[1] * base.dim()), weight, dtype=torch.bfloat16)
    parts = torch.stack(list(deltas)) * weights
    elected = torch.where(parts.sum(0) >= 0, 1, -1).to(torch.bfloat16)
    agreeing = (parts.sign() == elected).to(torch.bfloat16)
    divisor = (weights * agreeing).sum(0)
    mixed = (parts * agreeing).sum(0) / divisor.masked_fill(divisor == 0, 1)
    return base + (mixed * scale if scale != 1 else mixed)


def cut(delta: Tensor, density: float) -> tuple[Tensor, Tensor]:
    """Return which numbers lie above the cut, and which at it."""
    sizes = delta.abs().float()
    if density >= 1:
        return torch.ones_like(sizes, dtype=torch.bool), torch.zeros_like(sizes, dtype=torch.bool)
    least = sizes.flatten().sort(descending=True).values[int(density * sizes.numel()) - 1]
    return sizes > least, sizes == least


@pytest.mark.parametrize(("case", "name"), list(itertools.product(HALF_CASES, SHAPES)))
def test_mergekit_rounds_each_step_and_keeps_any_of_equal_magnitudes(case: str, name: str) -> None:
    """Bit by bit: where no delta lies at its cut there is one result, and it is mergekit's; elsewhere mergekit's is the
    result of some choice of what to keep."""
    weight, density, scale = HALF_SETTINGS[case]
    base = half_tensors(0)[name]
    deltas = [half_tensors(number)[name] - base for number in (1, 2, 3)]
    sides = [cut(delta, density) for delta in deltas]
    explained = torch.zeros(base.shape, dtype=torch.bool)
    for chosen in itertools.product((False, True), repeat=3):
        trimmed = [
            delta * (above | (at & kept)).to(torch.bfloat16)
            for delta, (above, at), kept in zip(deltas, sides, chosen, strict=True)
        ]
        explained |= rounded(base, trimmed, weight, scale) == GOLDEN[f"{case}/{name}"]
    assert explained.all()


@pytest.mark.parametrize("case", HALF_CASES)
def test_ours_differs_beyond_rounding_only_at_cuts(case: str, models: Path) -> None:
    """Ours keeps the first of equal magnitudes, mergekit others. Without a cut nothing differs beyond rounding,
    but where kept deltas cancel: there rounding alone elects the sign."""
    _, density, _ = HALF_SETTINGS[case]
    ours, count, beyond, elsewhere = merged(case, models), 0, 0, 0
    for name, tensor in ours.items():
        base, golden = half_tensors(0)[name].float(), GOLDEN[f"{case}/{name}"].float()
        at, total, sizes = torch.zeros(base.shape, dtype=torch.bool), base.double() * 0, base.double() * 0
        for number in (1, 2, 3):
            delta = half_tensors(number)[name] - half_tensors(0)[name]
            above, equal = cut(delta, density)
            at |= equal
            total += delta.double() * above
            sizes += delta.double().abs() * above
        at |= total.abs() <= 1e-6 * sizes
        differs = (tensor.float() - golden).abs() > 2**-7 * golden.abs() + 2**-9 * 0.02
        count, beyond, elsewhere = (
            count + at.numel(),
            beyond + int(differs.sum()),
            elsewhere + int((differs & ~at).sum()),
        )
    assert elsewhere == 0
    assert (beyond == 0) if density == 1 else (0.005 < beyond / count < 0.05)
