"""Forms of terms, bounds of their errors, and bytes shared out: the invariants that a SkillPack stands on."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping
from functools import cache

import pytest
import torch
from torch import Tensor

from archspec.compiler.packing.allocate import allocate, uniforms
from archspec.compiler.packing.choices import Choice, choices
from archspec.compiler.packing.encode import Encoded, encode_quantized, encode_sparse
from archspec.compiler.packing.low_rank import Triplets
from archspec.compiler.packing.recipe import Step, build, build_step, rank_of, squared, total
from archspec.diagnostics import ArchspecError
from archspec.packs.terms import LowRank, Sparse, from_json, size_of, to_json
from archspec.runtime.packs import bits as stream
from archspec.runtime.packs.decode import gaps_of, positions


def spectrum(rows: int, columns: int, power: float, seed: int = 0) -> Tensor:
    """Return a matrix whose singular values fall as i^-power."""
    generator = torch.Generator().manual_seed(seed)
    u, _ = torch.linalg.qr(torch.randn(rows, rows, generator=generator))
    v, _ = torch.linalg.qr(torch.randn(columns, columns, generator=generator))
    rank = min(rows, columns)
    s = torch.arange(1, rank + 1, dtype=torch.float32) ** -power
    found: Tensor = 1e-3 * (u[:, :rank] * s) @ v[:rank]
    return found


def left(encoded: list[Encoded] | Encoded, delta: Tensor) -> float:
    """Return the squared error that terms leave."""
    return squared(delta - total(encoded if isinstance(encoded, list) else [encoded], delta))


@pytest.mark.parametrize("bits", range(1, 9))
@pytest.mark.parametrize("count", [1, 7, 8, 9, 1000])
def test_codes_come_back_from_their_stream(bits: int, count: int) -> None:
    codes = torch.randint(0, 2**bits, (count,), dtype=torch.uint8, generator=torch.Generator().manual_seed(count))
    packed = stream.pack(codes, bits)
    assert len(packed) == -(-count * bits // 8)
    assert torch.equal(stream.unpack(packed, bits, count), codes)


def test_codes_longer_than_a_chunk_come_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "CHUNK", 16)
    codes = torch.arange(0, 50, dtype=torch.uint8) % 8
    assert torch.equal(stream.unpack(stream.pack(codes, 3), 3, 50), codes)


def test_the_stream_begins_with_the_lowest_bits() -> None:
    assert stream.pack(torch.tensor([1, 0, 1, 1], dtype=torch.uint8), 1).tolist() == [0b1101]
    assert stream.pack(torch.tensor([5, 2], dtype=torch.uint8), 4).tolist() == [0x25]


def test_distances_lead_back_to_their_places() -> None:
    places = torch.tensor([0, 1, 254, 509, 510, 766, 5000])
    assert torch.equal(positions(gaps_of(places)), places)


@pytest.mark.parametrize(
    "step",
    [
        Step("dense", dtype="F32"),
        Step("prune", keep=1.0, code="gaps"),
        Step("prune", keep=1.0, code="mask"),
        Step("svd", energy=1.0),
        Step("svd"),
    ],
)
def test_lossless_chains_err_by_rounding_alone(step: Step) -> None:
    delta = spectrum(24, 40, 0.5)
    error = left(build_step(step, delta), delta) ** 0.5 / squared(delta) ** 0.5
    assert error <= (0.0 if step.op == "dense" else 2**-10)


def test_float32_values_are_kept_as_they_are() -> None:
    delta = torch.tensor([[1e-30, -3.3e7, 0.1, 0.0]])
    assert torch.equal(build_step(Step("dense", dtype="F32"), delta).value(), delta)


def test_low_rank_loses_the_squares_of_the_other_singular_values() -> None:
    delta = spectrum(48, 32, 0.7)
    s = torch.linalg.svdvals(delta.double())
    errors = [left(build_step(Step("svd", rank=rank), delta), delta) for rank in (1, 4, 9, 16, 31)]
    for rank, error in zip((1, 4, 9, 16, 31), errors, strict=True):
        assert error == pytest.approx(float(s[rank:].square().sum()), rel=1e-3)
    assert errors == sorted(errors, reverse=True)


@pytest.mark.parametrize("part", [0.1, 0.5, 0.9, 0.99, 1.0])
def test_energy_keeps_the_fewest_triplets_that_hold_it(part: float) -> None:
    s = torch.linalg.svdvals(spectrum(30, 20, 0.8))
    rank, squares = rank_of(s, part), s.double().square()
    assert squares[:rank].sum() >= part * squares.sum() * (1 - 1e-9)
    assert rank == 1 or squares[: rank - 1].sum() < part * squares.sum()


@pytest.mark.parametrize("bits", range(2, 9))
@pytest.mark.parametrize("axis", ["row", "column", "tensor"])
def test_codes_err_by_half_a_step(bits: int, axis: str) -> None:
    delta = torch.randn(6, 50, generator=torch.Generator().manual_seed(1))
    encoded = encode_quantized(delta, bits, 0, "max", axis)
    widest = {"row": delta.abs().amax(1, True), "column": delta.abs().amax(0, True), "tensor": delta.abs().amax()}
    steps = 2 * widest[axis] / (2**bits - 1)
    assert ((delta - encoded.value()).abs() <= steps / 2 * 1.002).all()  # the scale is a float16


def test_a_bit_more_quarters_the_squared_error() -> None:
    delta = torch.randn(64, 256, generator=torch.Generator().manual_seed(2))
    errors = [left(encode_quantized(delta, bits, 128, "max"), delta) for bits in range(3, 9)]
    for more, less in zip(errors[1:], errors, strict=False):
        assert 3.3 < less / more < 5.7  # (2 ** (b + 1) - 1)^2 / (2 ** b - 1)^2 is 4.6 at 3 bits


def test_the_search_errs_no_more_than_the_largest_value() -> None:
    delta = torch.randn(32, 256, generator=torch.Generator().manual_seed(3))
    for bits in (2, 3, 4):
        assert left(encode_quantized(delta, bits, 64), delta) < left(encode_quantized(delta, bits, 64, "max"), delta)


@pytest.mark.parametrize("fit", ["max", "search"])
def test_groups_of_zeros_are_exact(fit: str) -> None:
    delta = torch.zeros(3, 130)
    delta[1, 128:] = torch.tensor([0.5, -0.5])
    encoded = build_step(Step("quantize", bits=4, group=128, fit="max" if fit == "max" else "search"), delta)
    assert torch.equal(encoded.value()[[0, 2]], delta[[0, 2]])
    assert torch.equal(encoded.value()[1, :128], delta[1, :128])
    assert torch.allclose(encoded.value()[1, 128:], delta[1, 128:], rtol=2e-3)


def test_one_bit_is_a_sign_and_the_mean_size() -> None:
    delta = torch.randn(8, 40, generator=torch.Generator().manual_seed(4))
    value = build_step(Step("sign", group=0, axis="tensor"), delta).value()
    wanted = torch.where(delta < 0, -1.0, 1.0) * delta.abs().mean()
    assert torch.allclose(value, wanted, rtol=1e-6)


def test_bands_err_within_their_bound() -> None:
    """|U S V^T - D| is at most the tail and |S E_V^T| + |E_U S| |V|_2 (triangle inequality)."""
    delta = spectrum(96, 64, 0.6)
    bands = ((4, 8), (12, 4), (32, 2))
    encoded = build_step(Step("svd", bands=bands), delta)
    assert isinstance(encoded.term, LowRank)
    assert encoded.term.bands == bands
    triplets = Triplets.of(delta, 128)
    u, v, start = triplets.u[:48].clone(), triplets.v[:48].clone(), 0
    for count, bits in bands:
        at = torch.arange(start, start + count)
        u[at], v[at] = triplets.decoded("u", bits, at), triplets.decoded("v", bits, at)
        start += count
    s = triplets.s[:48, None]
    bound = (s * (v - triplets.v[:48])).norm() + ((u - triplets.u[:48]) * s).norm() * torch.linalg.matrix_norm(v, 2)
    tail = triplets.s[48:].norm()
    assert left(encoded, delta) ** 0.5 <= float(bound + tail)


@pytest.mark.parametrize("keep", [0.01, 0.1, 0.33, 1.0])
@pytest.mark.parametrize("code", ["gaps", "mask", "auto"])
def test_pruning_keeps_exactly_the_largest(keep: float, code: str) -> None:
    delta = torch.randn(20, 31, generator=torch.Generator().manual_seed(5))
    encoded = encode_sparse(delta, keep, code)
    value, count = encoded.value(), int(keep * delta.numel())
    assert int((value != 0).sum()) == count
    kept = value != 0
    assert torch.allclose(value[kept], delta[kept], rtol=1e-3)
    assert kept.all() or delta[kept].abs().min() >= delta[~kept].abs().max()
    assert left(encoded, delta) == pytest.approx(squared(delta[~kept]), rel=1e-3, abs=1e-4)
    assert isinstance(encoded.term, Sparse)


def test_of_equal_entries_the_earlier_stay() -> None:
    value = encode_sparse(torch.ones(2, 5), 0.4).value()
    assert value.flatten().tolist() == [1, 1, 1, 1, 0, 0, 0, 0, 0, 0]


def test_the_smaller_code_is_taken() -> None:
    delta = torch.randn(64, 64, generator=torch.Generator().manual_seed(6))
    codes = [term.code for keep in (0.01, 0.5) if isinstance(term := encode_sparse(delta, keep).term, Sparse)]
    assert codes == ["gaps", "mask"]


def test_residual_chains_encode_what_was_left() -> None:
    delta = spectrum(48, 64, 0.3)
    sign, rank = Step("sign", group=0), Step("svd", rank=8, bits=4)
    first, both = build((sign,), delta), build((sign, rank), delta)
    assert torch.equal(both[0].value(), first[0].value())
    assert left(both, delta) < left(first, delta)
    rest = delta - first[0].value()
    assert torch.equal(both[1].value(), build_step(rank, rest).value())


def test_sizes_are_those_that_terms_state() -> None:
    delta = spectrum(40, 56, 0.5)
    steps = (Step("dense"), Step("prune", keep=0.1), Step("quantize", bits=3, group=20), Step("svd", rank=5, bits=3))
    for encoded in (build_step(step, delta) for step in steps):
        assert encoded.size == size_of(encoded.term, (40, 56))
        assert from_json(json.loads(json.dumps(to_json(encoded.term))), (40, 56)) == encoded.term
        layout = encoded.term.layout((40, 56))
        assert {name: tuple(part.shape) for name, part in encoded.parts.items()} == {
            n: s for n, (_, s) in layout.items()
        }


def test_size_of_low_rank_is_its_closed_formula() -> None:
    encoded = build_step(Step("svd", rank=7, bits=4), spectrum(200, 300, 0.5))
    assert encoded.size == 7 * (200 + 300) * 4 // 8 + 7 * 2 * (2 + 3) + 7 * 2  # codes, scales of groups of 128, values


@pytest.mark.parametrize("power", [0.2, 0.6, 1.2])
def test_choices_state_what_they_cost_and_lose(power: float) -> None:
    delta = spectrum(64, 96, power)
    found = choices(delta)
    assert (found[0].size, found[0].recipe) == (0, ())
    assert found[0].error == pytest.approx(squared(delta))
    for choice in found[1:]:
        encoded = build(choice.recipe, delta)
        assert sum(term.size for term in encoded) == choice.size
        assert left(encoded, delta) == pytest.approx(choice.error, rel=1e-3, abs=1e-6 * squared(delta))
    assert all(a.size < b.size and a.error > b.error for a, b in itertools.pairwise(found))


def curves() -> dict[str, list[Choice]]:
    shapes = {"a": (64, 64, 0.2), "b": (64, 96, 0.6), "c": (32, 128, 1.0), "d": (96, 64, 1.5), "e": (1, 64, 0.0)}
    return {name: choices(spectrum(*shape, seed=k)) for k, (name, shape) in enumerate(shapes.items())}


def test_a_difference_of_low_rank_is_kept_by_its_rank() -> None:
    generator = torch.Generator().manual_seed(0)
    delta = torch.randn(96, 3, generator=generator) @ torch.randn(3, 80, generator=generator)
    assert len(Triplets.of(delta, 128).s) == 3, "the others are what float32 makes of zero"
    found = choices(delta)
    assert found[-1].error < 1e-6 * found[0].error
    assert len(Triplets.of(torch.zeros(4, 5), 128).s) == 1


def test_the_allocator_is_never_worse_than_any_uniform_choice() -> None:
    """By errors that are measured, at the bytes of each uniform choice, so that it is met where it is best."""
    offered = curves()

    def error(chosen: Mapping[str, Choice]) -> float:
        return sum(choice.error for choice in chosen.values())

    better = 0
    for uniform in uniforms(offered):
        bytes_ = sum(choice.size for choice in uniform.values())
        found = allocate(offered, bytes_)
        assert found is not None
        assert sum(choice.size for choice in found.values()) <= bytes_
        assert error(found) <= error(uniform)
        better += error(found) < 0.9 * error(uniform)
    assert better > 20  # and mostly much better


UNIFORM = [
    *(Step("svd", rank=48 >> share, bits=bits) for share in range(4) for bits in (2, 3, 4, 6, 8, 16)),
    *(Step("quantize", bits=bits, group=group) for bits in (2, 3, 4, 8) for group in (64, 0)),
    *(Step("prune", keep=keep) for keep in (0.01, 0.05, 0.2)),
    Step("sign", group=0),
]


@pytest.mark.parametrize("step", UNIFORM)
def test_the_allocator_beats_recipes_that_are_built_for_all(step: Step) -> None:
    """Against errors of what is really encoded, also where a recipe is on no tensor's curve."""
    deltas = three()
    encoded = {name: build_step(step, delta) for name, delta in deltas.items()}
    uniform = sum(left(encoded[name], delta) for name, delta in deltas.items())
    found = allocate(shared_curves(), sum(term.size for term in encoded.values()))
    assert found is not None
    rounding = 1e-8 * sum(float(delta.square().sum()) for delta in deltas.values())  # of recipes that lose 1e-7
    assert sum(left(build(found[n].recipe, d), d) for n, d in deltas.items()) <= uniform * (1 + 1e-6) + rounding


@cache
def shared_curves() -> dict[str, list[Choice]]:
    return {name: choices(delta) for name, delta in three().items()}


def three() -> dict[str, Tensor]:
    return {
        name: spectrum(48, 64, power, k) for k, (name, power) in enumerate(zip("abc", (0.2, 0.8, 1.4), strict=True))
    }


def test_the_allocator_is_near_the_best_of_all() -> None:
    offered = {name: curve[:: max(1, len(curve) // 7)] for name, curve in curves().items() if name in "abc"}
    for budget in (1000, 3000, 6000, 12000):
        found = allocate(offered, budget)
        best = min(
            a.error + b.error + c.error
            for a in offered["a"]
            for b in offered["b"]
            for c in offered["c"]
            if a.size + b.size + c.size <= budget
        )
        assert found is not None
        assert best <= sum(choice.error for choice in found.values()) <= 1.1 * best


def test_a_budget_below_the_least_is_none() -> None:
    assert allocate({"a": [Choice(10, 1.0), Choice(20, 0.5)]}, 9) is None
    assert allocate({"a": [Choice(10, 1.0), Choice(20, 0.5)]}, 10) == {"a": Choice(10, 1.0)}


def test_what_a_data_type_cannot_hold_is_refused() -> None:
    with pytest.raises(ArchspecError, match=r"AS683.*100000 is more than F16 holds"):
        build_step(Step("dense"), torch.full((1, 3), 1e5))
    assert build_step(Step("dense", dtype="BF16"), torch.full((1, 3), 1e5)).value().isfinite().all()
