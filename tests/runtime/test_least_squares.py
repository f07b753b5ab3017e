from __future__ import annotations

import pytest
import torch

from archspec.runtime.learn.least_squares import GramAccumulator, fit, fit_subset, ridge_solve


def rows(count: int, features: int, outputs: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    h = torch.randn(count, features, generator=generator, dtype=torch.float64) + 2
    y = torch.randn(count, outputs, generator=generator, dtype=torch.float64) + h[:, :1] - 5
    return h, y


def gather(h: torch.Tensor, y: torch.Tensor, weight: torch.Tensor | None = None, step: int = 7) -> GramAccumulator:
    sums = GramAccumulator.empty(h.shape[1], y.shape[1])
    for start in range(0, len(h), step):
        part = slice(start, start + step)
        sums.update(h[part], y[part], None if weight is None else weight[part])
    return sums


def test_with_bias_equals_lstsq() -> None:
    h, y = rows(200, 6, 3)
    weight, bias = fit(gather(h, y), ridge=0)
    expected = torch.linalg.lstsq(torch.cat((h, torch.ones(200, 1, dtype=h.dtype)), 1), y).solution.T
    torch.testing.assert_close(weight, expected[:, :-1], rtol=1e-10, atol=1e-12)
    assert bias is not None
    torch.testing.assert_close(bias, expected[:, -1], rtol=1e-10, atol=1e-12)


def test_without_bias_equals_lstsq() -> None:
    h, y = rows(200, 6, 3)
    weight, bias = fit(gather(h, y), ridge=0, bias=False)
    assert bias is None
    torch.testing.assert_close(weight, torch.linalg.lstsq(h, y).solution.T, rtol=1e-10, atol=1e-12)


def test_ridge_does_not_shrink_the_bias() -> None:
    h, y = rows(50, 4, 2)
    weight, bias = fit(gather(h, y), ridge=1e9)
    assert weight.abs().max() < 1e-6
    assert bias is not None
    torch.testing.assert_close(bias, y.mean(0), rtol=1e-6, atol=1e-6)


def test_ridge_solution_is_stationary() -> None:
    """The gradient of the documented objective vanishes."""
    h, y = rows(60, 5, 2)
    weight, bias = fit(gather(h, y), ridge=0.1)
    centred = h - h.mean(0)
    penalty = 0.1 * (centred.T @ centred).diagonal().mean()
    assert bias is not None
    residual = h @ weight.T + bias - y
    torch.testing.assert_close(residual.T @ h + penalty * weight, torch.zeros_like(weight), rtol=0, atol=1e-9)
    torch.testing.assert_close(residual.sum(0), torch.zeros(2, dtype=h.dtype), rtol=0, atol=1e-9)


def test_row_weights_repeat_rows() -> None:
    h, y = rows(40, 4, 2)
    counts = torch.arange(40) % 3
    weighted = fit(gather(h, y, counts.double()), ridge=1e-4)
    repeated = fit(gather(h.repeat_interleave(counts, 0), y.repeat_interleave(counts, 0)), ridge=1e-4)
    for a, b in zip(weighted, repeated, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


def test_weight_zero_first_batch() -> None:
    h, y = rows(40, 4, 2)
    weight = (torch.arange(40) >= 14).double()
    a, b = fit(gather(h, y, weight), ridge=0), fit(gather(h[14:], y[14:]), ridge=0)
    torch.testing.assert_close(a[0], b[0], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("cut", [0, 1, 33, 100])
def test_merge_equals_one_pass(cut: int) -> None:
    h, y = rows(100, 5, 3)
    left, right = gather(h[:cut], y[:cut]), gather(h[cut:], y[cut:])
    left.merge(right)
    whole = gather(h, y)
    for name in ("raw", "centred", "means"):
        for a, b in zip(getattr(left, name)(), getattr(whole, name)(), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-10)
    w = torch.ones(3, 5, dtype=h.dtype)
    assert left.relative_error(w, None) == pytest.approx(whole.relative_error(w, None), rel=1e-11)


def test_a_large_mean_keeps_the_spread() -> None:
    """Features at 1e6 ± 1: without the shift, float64 products would leave 4 digits of the variance."""
    h, y = rows(500, 4, 2)
    far = gather(h + 1e6, y)
    torch.testing.assert_close(far.centred()[0], gather(h, y).centred()[0], rtol=1e-8, atol=1e-6)
    torch.testing.assert_close(fit(far, 0)[0], fit(gather(h, y), 0)[0], rtol=1e-7, atol=1e-8)


def test_moments() -> None:
    h, y = rows(100, 5, 3)
    sums = gather(h, y)
    torch.testing.assert_close(sums.variance(), h.var(0, correction=0), rtol=1e-11, atol=0)
    torch.testing.assert_close(sums.raw()[0], h.T @ h, rtol=1e-11, atol=0)
    torch.testing.assert_close(sums.raw()[1], h.T @ y, rtol=1e-10, atol=1e-9)
    torch.testing.assert_close(sums.means()[1], y.mean(0), rtol=1e-12, atol=0)


@pytest.mark.parametrize("bias", [True, False])
def test_relative_error_is_that_of_the_rows(bias: bool) -> None:
    h, y = rows(100, 5, 3)
    w = torch.randn(3, 5, dtype=h.dtype, generator=torch.Generator().manual_seed(9))
    b = torch.randn(3, dtype=h.dtype, generator=torch.Generator().manual_seed(8)) if bias else None
    expected = ((h @ w.T + (0 if b is None else b) - y).norm() / y.norm()).item()
    assert gather(h, y).relative_error(w, b) == pytest.approx(expected, rel=1e-12)
    exact, intercept = fit(gather(h, h[:, :2] + 3), 0)
    assert gather(h, h[:, :2] + 3).relative_error(exact, intercept) < 1e-7


def test_rank_deficient_gives_the_shortest_solution() -> None:
    h, y = rows(80, 4, 2)
    doubled = torch.cat((h, h, torch.zeros(80, 1, dtype=h.dtype)), 1)
    for bias in (True, False):
        weight, intercept = fit(gather(doubled, y), 0, bias)
        narrow, expected = fit(gather(h, y), 0, bias)
        torch.testing.assert_close(
            weight, torch.cat((narrow / 2, narrow / 2, narrow[:, :1] * 0), 1), rtol=1e-7, atol=1e-9
        )
        if bias:
            torch.testing.assert_close(intercept, expected, rtol=1e-7, atol=1e-8)


def test_fewer_rows_than_features() -> None:
    h, y = rows(5, 12, 2)
    weight, _ = fit(gather(h, y), 0, bias=False)
    torch.testing.assert_close(weight, (torch.linalg.pinv(h) @ y).T, rtol=1e-6, atol=1e-8)
    assert gather(h, y).relative_error(weight, None) < 1e-6


def test_nothing_gathered_gives_zeros() -> None:
    weight, bias = fit(GramAccumulator.empty(3, 2), 1e-4)
    assert torch.equal(weight, torch.zeros(2, 3, dtype=weight.dtype))
    assert bias is not None
    assert torch.equal(bias, torch.zeros(2, dtype=weight.dtype))


def test_subset_equals_fitting_those_features() -> None:
    h, y = rows(90, 6, 3)
    kept = torch.tensor([4, 0, 3])
    a, b = fit_subset(gather(h, y), kept, 1e-4), fit(gather(h[:, kept], y), 1e-4)
    for x, z in zip(a, b, strict=True):
        torch.testing.assert_close(x, z, rtol=1e-10, atol=1e-12)


def test_tokens_in_half_precision_are_summed_in_double() -> None:
    h, y = rows(96, 4, 2)
    sums = GramAccumulator.empty(4, 2)
    sums.update(h.view(4, 24, 4).bfloat16(), y.view(4, 24, 2).bfloat16().requires_grad_())
    assert sums.hh.dtype == torch.float64
    assert float(sums.weight) == 96
    torch.testing.assert_close(sums.raw()[0], h.bfloat16().double().T @ h.bfloat16().double(), rtol=1e-12, atol=0)


def test_ill_conditioned_systems_are_solved_to_their_worth() -> None:
    generator = torch.Generator().manual_seed(0)
    basis, _ = torch.linalg.qr(torch.randn(20, 20, generator=generator, dtype=torch.float64))
    gram = basis @ torch.diag(torch.logspace(0, -9, 20, dtype=torch.float64)) @ basis.T
    true = torch.randn(3, 20, generator=generator, dtype=torch.float64)
    found = ridge_solve(gram, gram @ true.T, 0)
    torch.testing.assert_close(found, true, rtol=1e-5, atol=1e-5)
