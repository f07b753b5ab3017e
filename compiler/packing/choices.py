"""Every way to encode one tensor's difference that is worth its bytes: points of size and error, each with its recipe.

A recipe is small and deterministic; the encoding is made from it again when it is chosen, so that planning a pack
holds no more than one tensor. Errors are squared Frobenius norms of what is lost. Those of `quantized` and `sparse`
are measured; those of low rank are sums over triplets (`Triplets.kept`), which the pack's own errors, measured when it
is written, confirm or correct.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor

from archspec.compiler.packing.encode import (
    Encoded,
    Triplets,
    encode_dense,
    encode_low_rank,
    encode_quantized,
    encode_sparse,
)
from archspec.packs.terms import RAW

WIDTHS = (2, 3, 4, 5, 6, 8)
"""Bits that the vectors of a triplet may have."""
GROUP = 128
QUANTIZED = tuple((bits, group) for bits in (1, 2, 3, 4, 6, 8) for group in (64, 0))
"""(bits, values that share a scale; 0: a row)."""
FRACTIONS = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2)
PRICES = tuple(2.0**-power for power in range(30))
"""Error per byte at which a triplet's bits are bought, as a part of the largest there is."""
BASES = (None, (1, 0))
"""What low rank is fitted to: the difference, or what a sign with a scale per row leaves of it."""


@dataclass(frozen=True)
class Step:
    """One term to be made: `op`, and its numbers."""

    op: str
    numbers: tuple[float, ...] = ()


Recipe = tuple[Step, ...]


@dataclass(frozen=True)
class Choice:
    """`size` in bytes, `error` squared. `recipe` is empty for nothing at all."""

    size: int
    error: float
    recipe: Recipe = ()


def choices(delta: Tensor) -> list[Choice]:
    """Return what can be done with a matrix, by rising size and falling error; the first is nothing at all."""
    found = [Choice(0, _square(delta))]
    if found[0].error == 0:
        return found
    if delta.shape[0] == 1:
        found += _vector(delta)
    else:
        found += [*_measured(delta), *_low_rank(delta)]
    return frontier(found)


def frontier(found: Sequence[Choice]) -> list[Choice]:
    """Leave out what costs more than another choice and errs as much."""
    best: list[Choice] = []
    for choice in sorted(found, key=lambda c: (c.size, c.error)):
        if not best or choice.error < best[-1].error:
            best.append(choice)
    return best


def build(recipe: Recipe, delta: Tensor) -> list[Encoded]:
    """Make the terms of a recipe, each of what the ones before it left over."""
    found: list[Encoded] = []
    for step in recipe:
        encoded = _build(step, delta)
        delta = delta - encoded.value()
        found.append(encoded)
    return found


def _build(step: Step, delta: Tensor) -> Encoded:
    match step.op:
        case "dense":
            return encode_dense(delta, "F32" if step.numbers == (32,) else "F16")
        case "sparse":
            return encode_sparse(delta, step.numbers[0])
        case "quantized":
            bits, group, *largest = map(int, step.numbers)
            return encode_quantized(delta, bits, group, "max" if largest else "search")
        case "rank":  # every triplet with the same bits
            rank, bits = (int(number) for number in step.numbers)
            rank = min(rank, *delta.shape)
            return encode_low_rank(Triplets.of(delta, GROUP, rank), [(range(rank), bits)])
        case "energy":  # the fewest triplets that hold a part of the squared norm
            part, bits = step.numbers
            triplets = Triplets.of(delta, GROUP)
            return encode_low_rank(triplets, [(range(_rank_of(triplets.s, part)), int(bits))])
        case "bands":
            numbers = iter(map(int, step.numbers))
            return encode_low_rank(*_banded(Triplets.of(delta, GROUP), list(zip(numbers, numbers, strict=True))))
        case _:  # "price"
            triplets = Triplets.of(delta, GROUP)
            return encode_low_rank(triplets, _bands(_bought(_offers(triplets), step.numbers[0])))


def _rank_of(s: Tensor, part: float) -> int:
    """Return the smallest k with s_1^2 + ... + s_k^2 >= part of all."""
    held = s.double().square().cumsum(0)
    return min(len(s), int((held < part * held[-1] * (1 - 1e-12)).sum()) + 1)


def _banded(triplets: Triplets, bands: Sequence[tuple[int, int]]) -> tuple[Triplets, list[tuple[range, int]]]:
    """Give the first triplets to the first band, and so on; what a small matrix lacks, the last bands lack."""
    most, start, found = len(triplets.s), 0, []
    for count, bits in bands:
        end = min(most, start + count)
        if end > start:
            found.append((range(start, end), bits))
        start = end
    return triplets, found


def _vector(delta: Tensor) -> Iterator[Choice]:
    for step in (Step("dense", (16,)), Step("dense", (32,)), Step("quantized", (8, 0)), Step("quantized", (4, 64))):
        yield _tried(step, delta)


def _measured(delta: Tensor) -> Iterator[Choice]:
    for bits, group in QUANTIZED:
        yield _tried(Step("quantized", (bits, group)), delta)
    for fraction in FRACTIONS:
        if int(fraction * delta.numel()):
            yield _tried(Step("sparse", (fraction,)), delta)


def _tried(step: Step, delta: Tensor) -> Choice:
    encoded = _build(step, delta)
    return Choice(encoded.size, _square(delta - encoded.value()), (step,))


def _low_rank(delta: Tensor) -> Iterator[Choice]:
    for base in BASES:
        steps, size, rest = (), 0, delta
        if base is not None:
            first = Step("quantized", tuple(map(float, base)))
            encoded = _build(first, delta)
            steps, size, rest = (first,), encoded.size, delta - encoded.value()
        triplets = Triplets.of(rest, GROUP)
        offers, whole = _offers(triplets), _square(rest)
        for choice in (*_prices(offers), *_ranks(offers)):
            yield Choice(size + choice.size, max(0.0, whole + choice.error), steps + choice.recipe)


@dataclass(frozen=True)
class Offers:
    """What triplets cost and take away: `widths` bits, `sizes` bytes each, `kept` (widths, rank)."""

    widths: tuple[int, ...]
    sizes: tuple[float, ...]
    kept: Tensor


def _offers(triplets: Triplets) -> Offers:
    widths = (*WIDTHS, RAW)
    return Offers(widths, tuple(triplets.width(b) / 8 for b in widths), torch.stack([triplets.kept(b) for b in widths]))


def _bought(offers: Offers, price: float) -> Tensor:
    """Return (rank,) the place in `widths` that each triplet is bought at, -1 for none: most worth beyond its price."""
    sizes = torch.tensor(offers.sizes)[:, None]
    scale = float((offers.kept / sizes).max())
    worth = torch.cat([torch.zeros(1, offers.kept.shape[1]), offers.kept - price * scale * sizes])
    return worth.argmax(0) - 1


def _bands(bought: Tensor, widths: Sequence[int] = (*WIDTHS, RAW)) -> list[tuple[list[int], int]]:
    found = [((bought == place).nonzero().flatten().tolist(), bits) for place, bits in enumerate(widths)]
    return [(chosen, bits) for chosen, bits in reversed(found) if chosen]


def _prices(offers: Offers) -> Iterator[Choice]:
    """Yield what is bought at each price; `error` is relative to nothing bought."""
    sizes, ranks = torch.tensor(offers.sizes), torch.arange(offers.kept.shape[1])
    for price in PRICES:
        bought = _bought(offers, price)
        some = bought >= 0
        if some.any():
            size = float(sizes[bought[some]].sum())
            kept = float(offers.kept[bought[some], ranks[some]].sum())
            yield Choice(int(size) + 1, -kept, (Step("price", (price,)),))


def _ranks(offers: Offers) -> Iterator[Choice]:
    """Yield the uniform choices: the first triplets, all with the same bits."""
    most = offers.kept.shape[1]
    for place, bits in enumerate(offers.widths):
        kept = list(accumulate(offers.kept[place].tolist()))
        for share in range(7):
            if rank := most >> share:
                yield Choice(int(rank * offers.sizes[place]) + 1, -kept[rank - 1], (Step("rank", (rank, bits)),))


def _square(x: Tensor) -> float:
    return float(x.double().square().sum())
