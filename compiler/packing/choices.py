"""Every way to encode one tensor's difference that is worth its bytes: points of size and error, each with its recipe.

Errors are those of a metric (squared Frobenius norms where nothing is known of inputs), measured on what a reader
decodes. Where inputs are known, what is coded is coded by GPTQ: never worse than nearest levels, at the same bytes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from math import prod

import torch
from torch import Tensor

from archspec.compiler.packing.low_rank import Fit, Triplets
from archspec.compiler.packing.metric import PLAIN, Metric
from archspec.compiler.packing.recipe import (
    GROUP,
    Offers,
    Recipe,
    Step,
    bought,
    build_step,
    low_rank_bands,
    offers,
)
from archspec.host.headers import BITS
from archspec.packs.terms import coded_layout

MEASURED = (
    Step("sign", group=0),
    Step("sign", group=64),
    *(Step("quantize", bits=bits, group=group) for bits in (2, 3, 4, 6, 8) for group in (64, 0)),
)
FRACTIONS = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2)
VECTOR = (
    Step("dense"), Step("dense", dtype="F32"), Step("quantize", bits=8, group=0), Step("quantize", bits=4, group=64),
)  # fmt: skip
PRICES = tuple(2.0**-power for power in range(30))
SHARES = range(7)
"""Ranks of the uniform choices: the whole, a half, a quarter, ... of the full rank."""
SURELY = 0.7
"""Part of what low rank seems to leave; sums of triplets are within a few percent of what is measured."""
BASES = (None, Step("sign", group=0))
"""What low rank is fitted to: the difference, or what a sign with a scale per row leaves of it."""


@dataclass(frozen=True)
class Choice:
    """`size` in bytes, `error` squared. `recipe` is empty for nothing at all. `also`: recipes that take no less and err
    no less, which it stands for."""

    size: int
    error: float
    recipe: Recipe = ()
    also: frozenset[Recipe] = frozenset()


def choices(delta: Tensor, metric: Metric = PLAIN) -> list[Choice]:
    """Return what can be done with a matrix, by rising size and falling error; the first is nothing at all."""
    found = [Choice(0, metric.squared(delta))]
    if found[0].error == 0:
        return found
    if delta.shape[0] == 1:
        found += [_tried(step, delta, metric) for step in VECTOR]
    else:
        found += _measured(delta, metric)
        found += _low_rank(delta, metric, frontier(found))
    return frontier(found)


def frontier(found: Sequence[Choice]) -> list[Choice]:
    """Leave out what costs no less than another choice and errs no less; that one stands for it."""
    best: list[Choice] = []
    for choice in sorted(found, key=lambda c: (c.size, c.error)):
        if not best or choice.error < best[-1].error:
            best.append(choice)
        else:
            best[-1] = replace(best[-1], also=best[-1].also | choice.also | {choice.recipe})
    return best


def _measured(delta: Tensor, metric: Metric) -> Iterator[Choice]:
    for step in MEASURED:
        yield _tried(step, delta, metric)
    for fraction in FRACTIONS:
        if int(fraction * delta.numel()):
            yield _tried(Step("prune", keep=fraction), delta, metric)


def _tried(step: Step, delta: Tensor, metric: Metric) -> Choice:
    step = _coded(step, metric)
    encoded = build_step(step, delta, metric)
    return Choice(encoded.size, metric.squared(delta - encoded.value()), (step,))


def _coded(step: Step, metric: Metric) -> Step:
    """Return the step that codes by GPTQ where inputs are known."""
    return replace(step, gptq=True) if metric.moment is not None and step.op in ("sign", "quantize", "svd") else step


def _low_rank(delta: Tensor, metric: Metric, known: Sequence[Choice]) -> Iterator[Choice]:
    """Yield low rank by itself and behind a sign. Of all ways to divide bits among triplets, those are measured that
    seem worth their bytes by the sums of `Triplets.kept`, beside one another and beside what is known."""
    for base in BASES:
        steps: Recipe = ()
        size, rest = 0, delta
        if base is not None:
            encoded = build_step(_coded(base, metric), delta, metric)
            steps, size, rest = (_coded(base, metric),), encoded.size, delta - encoded.value()
        triplets = Triplets.of(rest, GROUP, rounding=_coded(Step("svd"), metric).rounding(metric))
        offered = offers(triplets)
        supposed = [Choice(0, metric.squared(rest)), *_prices(offered), *_ranks(offered)]
        for choice in frontier([replace(c, recipe=_all_coded(c.recipe, metric)) for c in supposed])[1:]:
            bands = low_rank_bands(choice.recipe[0], triplets, offered)
            whole = 2 * sum(len(at) for at, _ in bands) + sum(_bytes(triplets, len(at), bits) for at, bits in bands)
            hopeless = any(c.size <= size + whole and c.error < SURELY * choice.error for c in known)
            error = choice.error if hopeless else Fit.of(triplets, bands).left
            also = frozenset((*steps, *recipe) for recipe in choice.also)
            yield Choice(size + whole, error, (*steps, *choice.recipe), also)


def _all_coded(recipe: Recipe, metric: Metric) -> Recipe:
    return tuple(_coded(step, metric) for step in recipe)


def _bytes(triplets: Triplets, rank: int, bits: int) -> int:
    sides = (coded_layout("", (rank, len(side[0])), bits, GROUP) for side in (triplets.u, triplets.v))
    return sum(prod(shape) * BITS[dtype] // 8 for layout in sides for dtype, shape in layout.values())


def _prices(offered: Offers) -> Iterator[Choice]:
    """Yield what is bought at each price, about what it costs, and the error that it seems to leave."""
    sizes, ranks = torch.tensor(offered.sizes), torch.arange(offered.kept.shape[1])
    for price in PRICES:
        places = bought(offered, price)
        some = places >= 0
        if some.any():
            kept = float(offered.kept[places[some], ranks[some]].sum())
            yield Choice(int(sizes[places[some]].sum()), offered.whole - kept, (Step("svd", price=price),))


def _ranks(offered: Offers) -> Iterator[Choice]:
    """Yield the uniform choices: the first triplets, all with the same bits."""
    most = offered.kept.shape[1]
    for place, bits in enumerate(offered.widths):
        kept = list(accumulate(offered.kept[place].tolist()))
        for share in SHARES:
            if rank := most >> share:
                step = Step("svd", rank=rank, bits=bits)
                yield Choice(int(rank * offered.sizes[place]), offered.whole - kept[rank - 1], (step,))
