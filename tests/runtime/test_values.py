"""Values of checkpoints, compared in slices."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from archspec.runtime.store import values
from archspec.runtime.store.spectrum import leading
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
    assert [*row.norms, row.sums.cosine] == pytest.approx([e.item() for e in expected])
    assert (row.sums.count, row.sums.changed) == (30, 30)
    assert not row.equal


def test_a_cast_without_loss_is_equal_and_a_flipped_bit_is_not(tmp_path: Path) -> None:
    a = torch.arange(6.0).reshape(2, 3)
    assert compared(tmp_path, a, a.half()).equal
    b = a.clone()
    b[1, 2] = torch.nextafter(b[1, 2], torch.tensor(9.0))
    row = compared(tmp_path, a, b)
    assert not row.equal
    assert row.sums.relative == pytest.approx((b - a).double().norm().item() / a.double().norm().item())


def test_scalars_and_zeros(tmp_path: Path) -> None:
    row = compared(tmp_path, torch.tensor(0.0), torch.tensor(2.0))
    assert row.sums.relative == float("inf")
    assert (row.sums.cosine, row.sums.count) == (0.0, 1)
    assert compared(tmp_path, torch.zeros(3), torch.zeros(3)).sums.cosine == 1.0


@pytest.mark.parametrize(("rows", "columns"), [(60, 40), (40, 60), (5, 90), (90, 5), (1, 7)])
def test_leading_singular_values_are_those_of_the_whole_matrix(rows: int, columns: int) -> None:
    """Falling as 1/i² (as a change of low rank), however the rows are cut."""
    generator = torch.Generator().manual_seed(1)
    u, _, v = torch.linalg.svd(torch.randn(rows, columns, generator=generator), full_matrices=False)
    s = 1 / torch.arange(1, min(rows, columns) + 1) ** 2
    matrix = u @ torch.diag(s) @ v
    wanted = torch.linalg.svdvals(matrix.double())[:3] ** 2
    for size in (1, 7, rows):
        found = leading(lambda size=size: iter(matrix.split(size)), columns, 3)  # type: ignore[misc]
        torch.testing.assert_close(found[: len(wanted)], wanted, rtol=1e-4, atol=1e-9)


def test_of_a_flat_spectrum_no_value_is_overrated() -> None:
    matrix = torch.randn(200, 150, generator=torch.Generator().manual_seed(2))
    found, wanted = leading(lambda: iter([matrix]), 150, 4), torch.linalg.svdvals(matrix.double())[:4] ** 2
    assert bool((found <= wanted * (1 + 1e-5)).all())
    assert bool((found > 0.9 * wanted).all())


def test_sums_of_tensors_are_those_of_the_joined_tensor(tmp_path: Path) -> None:
    a, b = torch.randn(4, 6), torch.randn(4, 6)
    b[0] = a[0]
    parts = [compared(tmp_path, a[i : i + 2].contiguous(), b[i : i + 2].contiguous()).sums for i in (0, 2)]
    whole, joined = compared(tmp_path, a, b).sums, parts[0] + parts[1]
    assert (joined.count, joined.changed) == (whole.count, whole.changed) == (24, 18)
    assert (joined.relative, joined.cosine) == pytest.approx((whole.relative, whole.cosine))
    assert (whole.energy, whole.stable_rank) == (None, None)
