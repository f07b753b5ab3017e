"""Values of checkpoints, compared in slices."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from archspec.runtime.store import values
from archspec.runtime.store.values import Place, Values, compare_values


def compared(folder: Path, before: torch.Tensor, after: torch.Tensor) -> Values:
    save_file({"w": before}, folder / "a.safetensors")
    save_file({"v": after}, folder / "b.safetensors")
    place = Place(folder / "a.safetensors", "w"), Place(folder / "b.safetensors", "v")
    return next(compare_values([("w", *place)]))


@pytest.mark.parametrize("chunk", [1, 7, 1 << 24])
def test_numbers_do_not_depend_on_the_slices(tmp_path: Path, chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(values, "CHUNK", chunk)
    torch.manual_seed(0)
    a, b = torch.randn(5, 3, 2), torch.randn(5, 3, 2)
    row = compared(tmp_path, a, b)
    x, y = a.double().flatten(), b.double().flatten()
    expected = [x.norm(), y.norm(), (x - y).norm(), torch.nn.functional.cosine_similarity(x, y, dim=0)]
    assert [row.norm_before, row.norm_after, row.change, row.cosine] == pytest.approx([e.item() for e in expected])
    assert row.count == 30
    assert not row.equal


def test_a_cast_without_loss_is_equal_and_a_flipped_bit_is_not(tmp_path: Path) -> None:
    a = torch.arange(6.0).reshape(2, 3)
    assert compared(tmp_path, a, a.half()).equal
    b = a.clone()
    b[1, 2] = torch.nextafter(b[1, 2], torch.tensor(9.0))
    row = compared(tmp_path, a, b)
    assert not row.equal
    assert row.relative == pytest.approx((b - a).double().norm().item() / a.double().norm().item())


def test_scalars_and_zeros(tmp_path: Path) -> None:
    row = compared(tmp_path, torch.tensor(0.0), torch.tensor(2.0))
    assert row.relative == float("inf")
    assert (row.cosine, row.count) == (0.0, 1)
    assert compared(tmp_path, torch.zeros(3), torch.zeros(3)).cosine == 1.0
