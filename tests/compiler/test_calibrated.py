"""Errors of outputs: GPTQ beside a textbook's, triplets of least output error, bytes shared out by them."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

import pytest
import torch
from torch import Tensor

from archspec.compiler.packing.allocate import allocate, uniforms
from archspec.compiler.packing.choices import Choice, choices
from archspec.compiler.packing.encode import encode_quantized
from archspec.compiler.packing.gptq import Rounding, codes_of, gptq
from archspec.compiler.packing.low_rank import Triplets
from archspec.compiler.packing.metric import PLAIN, Metric
from archspec.compiler.packing.recipe import Step, build, build_step, total
from archspec.packs.terms import LowRank
from tests.compiler.test_packing import UNIFORM, spectrum


def inputs(columns: int, count: int = 200, seed: int = 0) -> Tensor:
    """Return inputs (count, columns) of a few strong directions, as activations have them."""
    generator = torch.Generator().manual_seed(seed)
    mixed = torch.randn(count, columns, generator=generator, dtype=torch.float64)
    turned = torch.randn(columns, columns, generator=generator, dtype=torch.float64)
    return mixed @ (turned * torch.arange(1, columns + 1, dtype=torch.float64) ** -0.7)


def metric_of(x: Tensor, damp: float = 0.01) -> Metric:
    return Metric(x.T @ x / len(x), damp)


def outputs(x: Tensor, error: Tensor) -> float:
    """Return the mean squared norm of what an error does to outputs, from the inputs themselves."""
    return float((x @ error.double().T).square().sum() / len(x))


def test_an_output_error_needs_the_second_moment_alone() -> None:
    x, error = inputs(24), torch.randn(9, 24, generator=torch.Generator().manual_seed(1))
    assert metric_of(x).squared(error) == pytest.approx(outputs(x, error), rel=1e-10)
    assert PLAIN.squared(error) == pytest.approx(float(error.square().sum()), rel=1e-6)


def textbook(w: Tensor, h: Tensor, steps: Tensor, bits: int, order: list[int]) -> Tensor:
    """GPTQ as it is derived (arXiv 2210.17323, Eq. 2 and 3, columns in a fixed order): float64, the inverse kept whole
    and a column struck from it after it was rounded."""
    w, inverse, middle = w.clone(), torch.linalg.inv(h), (2**bits - 1) / 2
    found = torch.zeros_like(w)
    for place, j in enumerate(order):
        codes = torch.clamp(torch.round(w[:, j] / steps[:, j] + middle), 0, 2 * middle)
        found[:, j] = (codes - middle) * steps[:, j]
        error = (w[:, j] - found[:, j]) / inverse[j, j]
        for k in order[place + 1 :]:
            w[:, k] -= error * inverse[j, k]
        inverse = inverse - torch.outer(inverse[:, j], inverse[j]) / inverse[j, j]
    return found


@pytest.mark.parametrize("bits", [1, 2, 4])
@pytest.mark.parametrize("act_order", [False, True])
def test_gptq_is_the_textbooks(bits: int, act_order: bool) -> None:
    """Of every row that is not better left to its nearest levels."""
    columns = 150  # more than a block
    metric, w = metric_of(inputs(columns)), spectrum(20, columns, 0.3).double()
    steps = (w.abs().amax(1, keepdim=True) * 2 / (2**bits)).expand_as(w).contiguous()
    middle = (2**bits - 1) / 2

    def nearest(at: Tensor, x: Tensor) -> Tensor:
        found: Tensor = (codes_of(x, steps.T[at], middle) - middle) * steps.T[at]
        return found

    h = metric.damped(metric.damp)
    order = h.diagonal().argsort(descending=True).tolist() if act_order else list(range(columns))
    wanted = textbook(w, h, steps, bits, order)
    plain = nearest(torch.arange(columns), w.T).T
    found = gptq(w, nearest, metric, act_order)
    better = metric.rows(wanted - w) < metric.rows(plain - w)
    assert better.sum() > 15
    assert torch.allclose(found[better], wanted[better], atol=1e-12)
    assert torch.equal(found[~better], plain[~better])


@pytest.mark.parametrize("bits", [1, 2, 3, 4, 8])
@pytest.mark.parametrize(("axis", "group"), [("row", 16), ("row", 0), ("column", 10), ("tensor", 100)])
@pytest.mark.parametrize("act_order", [False, True])
def test_gptq_moves_outputs_no_more_than_nearest_levels(bits: int, axis: str, group: int, act_order: bool) -> None:
    """At the same scales and bytes, by the calibration inputs themselves; by weights it is worse, as it must be."""
    x, delta = inputs(40), spectrum(30, 40, 0.3)
    rounding = Rounding(metric_of(x), gptq=True, act_order=act_order)
    plain = encode_quantized(delta, bits, group, axis=axis)
    found = encode_quantized(delta, bits, group, axis=axis, rounding=rounding)
    assert found.term == plain.term
    assert torch.equal(found.parts["scales"], plain.parts["scales"])
    assert outputs(x, found.value() - delta) <= outputs(x, plain.value() - delta) * (1 + 1e-6)
    assert outputs(x, found.value() - delta) < (0.98 if bits > 1 else 1.0) * outputs(x, plain.value() - delta)
    assert PLAIN.squared(found.value() - delta) > PLAIN.squared(plain.value() - delta)


def test_rows_are_rounded_by_themselves() -> None:
    x, delta = inputs(32), spectrum(16, 32, 0.4)
    step = Step("quantize", bits=3, group=8, gptq=True, fit="max")
    whole = build_step(step, delta, metric_of(x)).value()
    turned = build_step(step, delta.flip(0), metric_of(x)).value().flip(0)
    half = build_step(step, delta[:8], metric_of(x)).value()
    assert torch.allclose(whole, turned, rtol=1e-3)  # scales are float16 of another unit
    assert torch.allclose(whole[:8], half, rtol=1e-3)


def test_neither_the_size_of_inputs_nor_the_signs_of_columns_count() -> None:
    """Codes follow: GPTQ goes by what inputs have in common, not by their size."""
    x, delta = inputs(32), spectrum(16, 32, 0.4)
    step = Step("quantize", bits=3, group=8, gptq=True)
    found = build_step(step, delta, metric_of(x))
    assert torch.equal(build_step(step, delta, metric_of(1000 * x)).parts["codes"], found.parts["codes"])
    signs = torch.where(torch.arange(32) % 3 == 0, -1.0, 1.0)
    turned = build_step(step, delta * signs, metric_of(x * signs))
    assert torch.allclose(turned.value() * signs, found.value(), rtol=1e-6)


def test_damping_beyond_all_inputs_is_the_nearest_level() -> None:
    delta = spectrum(16, 32, 0.4)
    step = Step("quantize", bits=3, group=8, gptq=True)
    found = build_step(step, delta, metric_of(inputs(32), damp=1e9))
    assert torch.equal(found.parts["codes"], build_step(step, delta).parts["codes"])


def test_inputs_that_never_vary_do_no_harm() -> None:
    x = inputs(32, count=5)  # of rank 5
    x[:, 7] = 0
    found = build_step(Step("quantize", bits=3, gptq=True), spectrum(16, 32, 0.4), metric_of(x)).value()
    assert torch.isfinite(found).all()


@pytest.mark.parametrize("rank", [2, 8, 20])
def test_triplets_are_those_of_least_output_error(rank: int) -> None:
    """No other matrix of the rank moves outputs less (Eckart and Young, in the metric): their size is the tail's."""
    x, delta = inputs(40), spectrum(30, 40, 0.3)
    metric = metric_of(x, damp=1e-9)
    error = outputs(x, build_step(Step("svd", rank=rank), delta, metric).value() - delta)
    tail = torch.linalg.svdvals(delta.double() @ metric.root)[rank:].square().sum()
    assert error == pytest.approx(float(tail), rel=2e-3)
    assert error < 0.9 * outputs(x, build_step(Step("svd", rank=rank), delta).value() - delta)


@pytest.mark.parametrize("bands", [((10, 3),), ((2, 8), (8, 3), (10, 2)), ((1, 16), (5, 2))])
def test_gptq_of_factors_moves_outputs_no_more(bands: tuple[tuple[int, int], ...]) -> None:
    x, delta = inputs(48), spectrum(64, 48, 0.6)
    plain = build_step(Step("svd", bands=bands), delta, metric_of(x))
    found = build_step(Step("svd", bands=bands, gptq=True), delta, metric_of(x))
    assert isinstance(found.term, LowRank)
    assert found.term.bands == bands
    assert found.size == plain.size
    assert outputs(x, found.value() - delta) < outputs(x, plain.value() - delta)


def test_what_triplets_seem_to_keep_is_near_what_they_do() -> None:
    x, delta = inputs(48), spectrum(64, 48, 0.6)
    triplets = Triplets.of(delta, 128, rounding=Rounding(metric_of(x)))
    assert float(triplets.energy.sum()) == pytest.approx(outputs(x, delta), rel=1e-4)
    kept = float(triplets.kept(8)[:10].sum())
    left = outputs(x, build_step(Step("svd", rank=10, bits=8), delta, metric_of(x)).value() - delta)
    assert outputs(x, delta) - kept == pytest.approx(left, rel=0.05)


@cache
def tensors() -> dict[str, tuple[Tensor, Tensor]]:
    """Differences and inputs."""
    return {
        name: (spectrum(48, 64, power, k), inputs(64, seed=k))
        for k, (name, power) in enumerate(zip("abc", (0.2, 0.8, 1.4), strict=True))
    }


@cache
def curves() -> Mapping[str, list[Choice]]:
    return {name: choices(delta, metric_of(x)) for name, (delta, x) in tensors().items()}


def test_choices_state_what_outputs_lose() -> None:
    delta, x = tensors()["b"]
    assert curves()["b"][0].error == pytest.approx(outputs(x, delta), rel=1e-6)
    for choice in curves()["b"][1:]:
        encoded = build(choice.recipe, delta, metric_of(x))
        assert sum(term.size for term in encoded) == choice.size
        found = outputs(x, delta - total(encoded, delta))
        assert found == pytest.approx(choice.error, rel=1e-3, abs=1e-6 * outputs(x, delta))


def test_the_allocator_is_never_worse_than_a_uniform_choice_for_outputs() -> None:
    def error(chosen: Mapping[str, Choice]) -> float:
        return sum(choice.error for choice in chosen.values())

    better = 0
    for uniform in uniforms(curves()):
        found = allocate(curves(), sum(choice.size for choice in uniform.values()))
        assert found is not None
        assert error(found) <= error(uniform)
        better += error(found) < 0.9 * error(uniform)
    assert better > 10


@pytest.mark.parametrize("gptq", [False, True])
@pytest.mark.parametrize("step", UNIFORM)
def test_the_allocator_beats_recipes_that_are_built_for_all(step: Step, gptq: bool) -> None:
    """By outputs on the inputs themselves, against what is really encoded, GPTQ or not."""
    from dataclasses import replace

    step = replace(step, gptq=gptq)
    uniform = size = 0.0
    for delta, x in tensors().values():
        encoded = build_step(step, delta, metric_of(x))
        uniform, size = uniform + outputs(x, delta - encoded.value()), size + encoded.size
    found = allocate(curves(), int(size))
    assert found is not None
    lost = 0.0
    for name, (delta, x) in tensors().items():
        lost += outputs(x, delta - total(build(found[name].recipe, delta, metric_of(x)), delta))
    slack = 2e-8 if gptq else 1e-9  # of all: GPTQ's own rounding is not among the choices
    assert lost <= uniform * (1 + 1e-6) + slack * sum(outputs(x, delta) for delta, x in tensors().values())


def test_shares_by_outputs_beat_shares_by_weights_at_the_same_bytes() -> None:
    for budget in (2000, 6000):
        by_weights = allocate({name: choices(delta) for name, (delta, _) in tensors().items()}, budget)
        by_outputs = allocate(curves(), budget)
        assert by_weights is not None
        assert by_outputs is not None
        lost = []
        for chosen, known in ((by_weights, False), (by_outputs, True)):
            lost.append(0.0)
            for name, (delta, x) in tensors().items():
                encoded = build(chosen[name].recipe, delta, metric_of(x) if known else PLAIN)
                lost[-1] += outputs(x, delta - total(encoded, delta))
        assert lost[1] < 0.7 * lost[0]


@pytest.mark.parametrize("sign", [1, -1])
def test_a_moment_that_rounding_left_indefinite_has_a_root(sign: int) -> None:
    """Of inputs in a plane, and of what is left of them in a direction that they do not have."""
    x = torch.randn(50, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64) @ torch.ones(2, 4).double()
    exact = x.T @ x / 50
    metric = Metric(exact - 0.02 * exact.diagonal().mean() * torch.eye(4) if sign > 0 else -1e-19 * exact)
    root = metric.root
    assert bool(root.isfinite().all())
    assert metric.moment is not None
    added = root @ root.T - metric.moment
    torch.testing.assert_close(added, added[0, 0] * torch.eye(4, dtype=torch.float64), rtol=1e-6, atol=1e-24)
    assert metric.factor.shape == (4, 4)
