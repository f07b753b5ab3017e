"""Recipes: how a difference is encoded, as a chain of steps, each of what the ones before it left over.

A recipe is small and deterministic: encodings are made from it again when they are chosen, so that planning a pack
holds no more than one tensor. Rules of a spec become recipes (`pack.recipe`); the allocator's choices are recipes too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from archspec.compiler.packing.encode import Encoded, encode_dense, encode_quantized, encode_sparse
from archspec.compiler.packing.gptq import Rounding
from archspec.compiler.packing.low_rank import Bands, Triplets, encode_low_rank
from archspec.compiler.packing.metric import PLAIN, Metric
from archspec.packs.terms import RAW
from archspec.runtime.packs.levels import Range

GROUP = 128
"""Values that share a scale where nothing else is said."""
WIDTHS = (2, 3, 4, 5, 6, 8)
"""Bits that the vectors of a triplet may have at a price; beside them `RAW`."""


@dataclass(frozen=True)
class Step:
    """One term to be made. Which fields count depends on `op`.

    dense      dtype
    prune      keep (part of the entries), code
    quantize   bits, group (0: the whole axis), axis, fit
    sign       group, axis: quantize to one bit
    svd        rank, energy (part of the squared norm), bytes, bands or price; bits, group, fit

    `gptq`, `act_order`: how quantize, sign and svd round, where a metric knows of inputs.
    """

    op: str
    dtype: str = "F16"
    keep: float = 0.0
    code: str = "auto"
    bits: int = RAW
    group: int = GROUP
    axis: str = "row"
    fit: Range = "search"
    rank: int | None = None
    energy: float | None = None
    bytes: int | None = None
    bands: tuple[tuple[int, int], ...] | None = None
    price: float | None = None
    """Error per byte at which bits of a triplet are bought, as a part of the largest there is."""
    gptq: bool = False
    act_order: bool = False

    def rounding(self, metric: Metric) -> Rounding:
        return Rounding(metric, self.gptq, self.act_order)


Recipe = tuple[Step, ...]


def build(recipe: Recipe, delta: Tensor, metric: Metric = PLAIN) -> list[Encoded]:
    """Make the terms of a recipe for a matrix (rows, columns), float32, of least error by a metric."""
    found: list[Encoded] = []
    for step in recipe:
        encoded = build_step(step, delta, metric)
        delta = delta - encoded.value()
        found.append(encoded)
    return found


def build_step(step: Step, delta: Tensor, metric: Metric = PLAIN) -> Encoded:
    return BUILDERS[step.op](step, delta, metric)


def total(encoded: Iterable[Encoded], like: Tensor) -> Tensor:
    """Return what terms add up to."""
    return sum((term.value() for term in encoded), torch.zeros_like(like))


def squared(x: Tensor) -> float:
    return float(x.double().square().sum())


def _dense(step: Step, delta: Tensor, metric: Metric) -> Encoded:
    return encode_dense(delta, step.dtype)


def _prune(step: Step, delta: Tensor, metric: Metric) -> Encoded:
    return encode_sparse(delta, step.keep, step.code)


def _quantize(step: Step, delta: Tensor, metric: Metric) -> Encoded:
    bits = 1 if step.op == "sign" else step.bits
    return encode_quantized(delta, bits, step.group, step.fit, step.axis, step.rounding(metric))


def _svd(step: Step, delta: Tensor, metric: Metric) -> Encoded:
    most = min(step.rank, *delta.shape) if step.rank is not None else None
    triplets = Triplets.of(delta, step.group, most, step.fit, step.rounding(metric))
    return encode_low_rank(triplets, low_rank_bands(step, triplets))


def low_rank_bands(step: Step, triplets: Triplets, offered: Offers | None = None) -> Bands:
    """Return which triplets a step keeps, with which bits."""
    if step.price is not None:
        return bands_of(bought(offered or offers(triplets), step.price))
    if step.bands is not None:
        return _banded(len(triplets.s), step.bands)
    rank = min(step.rank or len(triplets.s), len(triplets.s))
    if step.energy is not None:
        rank = rank_of(triplets.energy.sqrt(), step.energy)
    elif step.bytes is not None:
        rank = max(1, min(rank, 8 * step.bytes // triplets.width(step.bits)))
    return [(range(rank), step.bits)]


BUILDERS: Mapping[str, Callable[[Step, Tensor, Metric], Encoded]] = {
    "dense": _dense,
    "prune": _prune,
    "quantize": _quantize,
    "sign": _quantize,
    "svd": _svd,
}


def rank_of(s: Tensor, part: float) -> int:
    """Return the smallest k with s_1^2 + ... + s_k^2 >= part of all.

    >>> rank_of(torch.tensor([3.0, 4.0**0.5, 1.0]), 0.9), rank_of(torch.tensor([1.0, 0.0]), 1.0)
    (2, 1)
    """
    held = s.double().square().cumsum(0)
    return min(len(s), int((held < part * held[-1] * (1 - 1e-12)).sum()) + 1)


def _banded(rank: int, bands: Sequence[tuple[int, int]]) -> list[tuple[range, int]]:
    """Give the first triplets to the first band, and so on; what a small matrix lacks, the last bands lack."""
    start, found = 0, []
    for count, bits in bands:
        end = min(rank, start + count)
        if end > start:
            found.append((range(start, end), bits))
        start = end
    return found


@dataclass(frozen=True)
class Offers:
    """What triplets cost and take away: `widths` bits, `sizes` bytes each, `kept` (widths, rank) of `whole`."""

    widths: tuple[int, ...]
    sizes: tuple[float, ...]
    kept: Tensor
    whole: float


def offers(triplets: Triplets) -> Offers:
    widths = (*WIDTHS, RAW)
    kept = torch.stack([triplets.kept(bits) for bits in widths])
    return Offers(widths, tuple(triplets.width(bits) / 8 for bits in widths), kept, float(triplets.energy.sum()))


def bought(offered: Offers, price: float) -> Tensor:
    """Return (rank,) the place in `widths` that each triplet is bought at, -1 for none: most worth beyond its price."""
    sizes = torch.tensor(offered.sizes)[:, None]
    scale = float((offered.kept / sizes).max())
    worth = torch.cat([torch.zeros(1, offered.kept.shape[1]), offered.kept - price * scale * sizes])
    return worth.argmax(0) - 1


def bands_of(places: Tensor, widths: Sequence[int] = (*WIDTHS, RAW)) -> list[tuple[list[int], int]]:
    found = [((places == place).nonzero().flatten().tolist(), bits) for place, bits in enumerate(widths)]
    return [(chosen, bits) for chosen, bits in reversed(found) if chosen]
