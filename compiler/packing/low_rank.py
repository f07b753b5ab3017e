"""Differences as singular triplets: found, coded at several widths, fitted and encoded.

Triplets are those of least output error: with L L^T the damped second moment of inputs, U S V'^T = D L is decomposed
and V = L^{-T} V' (L = 1 where nothing is known of inputs). GPTQ codes V against the inputs, and U against what V makes
of them, S V^T x, V as it is decoded, as Delta-CoMe does (arXiv 2406.08903); here U is refitted to that V first.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from archspec.compiler.packing.encode import Encoded
from archspec.compiler.packing.gptq import NEAREST, Rounding, codes_of, gptq
from archspec.compiler.packing.metric import Metric
from archspec.packs.terms import RAW, LowRank, groups_of
from archspec.runtime.packs import bits as stream
from archspec.runtime.packs import levels
from archspec.runtime.packs.levels import Coded

ROUNDING = 8 * torch.finfo(torch.float32).eps
"""Of the largest singular value: smaller ones are what float32 makes of zero, as in the product of a LoRA's factors."""
RIDGE = 1e-9
"""Of least squares, beside the mean diagonal."""


@dataclass(frozen=True)
class Triplets:
    """Singular triplets, and their vectors as they are decoded at several widths: the material of `encode_low_rank`.

    With u and v as they are decoded at b bits, the best singular value is s (u.u')(v.v') / |u'|^2 |v'|^2, and the
    squared error that a triplet leaves is s^2 |v|^2 (1 - (u.u')^2 (v.v')^2 / |u'|^2 |v'|^2 |v|^2), products of v being
    those of the metric: `kept` is what it takes away. Triplets are near orthogonal still, so what several take away
    nearly adds up; `Fit` is exact.
    """

    u: Tensor
    """(rank, rows), orthonormal rows."""
    s: Tensor
    """(rank,), by falling energy."""
    v: Tensor
    """(rank, columns), rows of length 1; orthogonal in the damped metric."""
    group: int
    fit: levels.Range = "search"
    rounding: Rounding = NEAREST
    _coded: dict[tuple[str, int], Coded] = field(default_factory=dict, repr=False)

    @staticmethod
    def of(
        delta: Tensor,
        group: int,
        most: int | None = None,
        fit: levels.Range = "search",
        rounding: Rounding = NEAREST,
    ) -> Triplets:
        """Decompose a matrix; at most `most` triplets are kept, and none that is rounding alone."""
        metric = rounding.metric
        root = None if metric.moment is None else metric.root.float()
        u, s, vt = torch.linalg.svd(delta if root is None else delta @ root, full_matrices=False)
        most = min(most or len(s), max(1, int((s > ROUNDING * s[0]).sum())))
        if root is not None:
            vt = torch.linalg.solve_triangular(root, vt, upper=False, left=False)
            sizes = vt.norm(dim=1, keepdim=True).clamp(min=torch.finfo(torch.float32).tiny)
            s, vt = s * sizes[:, 0], vt / sizes
        return Triplets(u.T[:most].contiguous(), s[:most], vt[:most].contiguous(), group, fit, rounding)

    @property
    def metric(self) -> Metric:
        return self.rounding.metric

    @cached_property
    def energy(self) -> Tensor:
        """(rank,), squared outputs of each triplet, float64."""
        squares = self.s.double().square()
        return squares if self.metric.moment is None else squares * self.metric.rows(self.v)

    def coded(self, side: str, bits: int) -> Coded:
        """Return all vectors of a side at a width, made once."""
        if (side, bits) not in self._coded:
            vectors = self.u if side == "u" else self.v
            coded = levels.encode(vectors, bits, self.group, self.fit)
            if side == "v" and self.rounding.makes_up:
                codes = self.rounding.codes(vectors, levels.steps(coded, self.group), bits)
                coded = Coded(codes, coded.scales, coded.unit)
            self._coded[side, bits] = coded
        return self._coded[side, bits]

    def vectors(self, side: str, bits: int, chosen: Tensor | slice = slice(None)) -> Vectors:
        """Return the chosen vectors of a side at a width."""
        if bits == RAW:
            return Vectors((self.u if side == "u" else self.v)[chosen].to(torch.float16), RAW, self.group)
        coded = self.coded(side, bits)
        return Vectors(Coded(coded.codes[chosen], coded.scales[chosen].contiguous(), coded.unit), bits, self.group)

    def decoded(self, side: str, bits: int, chosen: Tensor | slice = slice(None)) -> Tensor:
        """Return the chosen vectors as a reader has them."""
        return self.vectors(side, bits, chosen).value()

    def width(self, bits: int) -> int:
        """Return the bits of one triplet whose vectors have `bits` bits."""
        sizes = self.u.shape[1], self.v.shape[1]
        scales = 0 if bits == RAW else 16 * sum(groups_of(size, self.group) for size in sizes)
        return bits * sum(sizes) + scales + 16

    def kept(self, bits: int) -> Tensor:
        """Return (rank,), the squared error that each triplet takes away when its vectors have `bits` bits."""
        share = _agreement(self.u, self.decoded("u", bits), Metric())
        return (self.energy * share * _agreement(self.v, self.decoded("v", bits), self.metric)).float()


def _agreement(x: Tensor, y: Tensor, metric: Metric) -> Tensor:
    """Return the squared cosine of rows, float64; zero rows agree in nothing."""
    scale = metric.rows(x) * metric.rows(y)
    return metric.along(x, y).square() / scale.clamp(min=torch.finfo(torch.float64).tiny)


@dataclass(frozen=True)
class Vectors:
    """Vectors (count, size) of one band and side, as they are stored: codes, or float16 at `RAW` bits."""

    stored: Coded | Tensor
    bits: int
    group: int

    def value(self) -> Tensor:
        """Return them as a reader has them, float32."""
        return (
            self.stored.float()
            if isinstance(self.stored, Tensor)
            else levels.decode(self.stored, self.bits, self.group)
        )

    def parts(self, prefix: str) -> dict[str, Tensor]:
        if isinstance(self.stored, Tensor):
            return {f"{prefix}values": self.stored}
        return {f"{prefix}codes": stream.pack(self.stored.codes, self.bits), f"{prefix}scales": self.stored.scales}

    @property
    def unit(self) -> float:
        return 1.0 if isinstance(self.stored, Tensor) else self.stored.unit


Bands = Sequence[tuple[Sequence[int], int]]
"""Triplets, by their numbers, and the bits of their vectors."""
Sides = tuple[list[Vectors], list[Vectors]]
"""U and V, band by band."""


class Products(NamedTuple):
    """Of V as decoded, in the metric, float64: with itself (chosen, chosen), and with V as it was (chosen, rank)."""

    own: Tensor
    exact: Tensor

    @staticmethod
    def of(triplets: Triplets, side: Sequence[Vectors]) -> Products:
        v = _joined(side)
        weighted = triplets.metric.weighted(v)
        return Products(weighted @ v.T, weighted @ triplets.v.T.double())


@dataclass(frozen=True)
class Fit:
    """Singular values refitted together for decoded vectors, as float16 in parts of `unit`.

    `left` is the squared error that remains of what the triplets make up."""

    values: Tensor
    unit: float
    left: float
    sides: Sides

    @staticmethod
    def of(triplets: Triplets, bands: Bands) -> Fit:
        """Code the triplets of each band and fit their singular values; of GPTQ and nearest levels for U the better."""
        plain: Sides = tuple([triplets.vectors(side, bits, _at(at)) for at, bits in bands] for side in "uv")  # type: ignore[assignment]
        products = Products.of(triplets, plain[1])
        found = Fit._fitted(triplets, plain, products)
        if not triplets.rounding.makes_up:
            return found
        other = Fit._fitted(triplets, (_made_up(triplets, found, products), plain[1]), products)
        return min(found, other, key=lambda fit: fit.left)

    @staticmethod
    def _fitted(triplets: Triplets, sides: Sides, products: Products) -> Fit:
        """Minimize |sum_i s_i u_i v_i^T - D|^2 for decoded u, v: (UU^T o VV^T) s = diag(U D V^T), products of V in the
        metric. float64: what is left may be a millionth of D."""
        u = _joined(sides[0])
        gram = (u @ u.T) * products.own
        right = ((u @ triplets.u.T.double()) * triplets.s * products.exact).sum(1)
        s = torch.linalg.solve(gram + _ridge(gram), right)
        unit = float(s.abs().amax()) or 1.0
        values = (s / unit).to(torch.float16)
        s = values.double() * unit
        left = float(triplets.energy.sum() - 2 * s @ right + s @ gram @ s)
        return Fit(values, unit, max(0.0, left), sides)


def _made_up(triplets: Triplets, fit: Fit, products: Products) -> list[Vectors]:
    """Return U coded by GPTQ against Z x, Z = S V^T as decoded: of the U that fits Z best, (D M Z^T) (Z M Z^T)^{-1}."""
    s = fit.values.double() * fit.unit
    moment = s[:, None] * products.own * s
    target = (triplets.u.T.double() * triplets.s) @ (products.exact.T * s)  # (rows, chosen)
    best = torch.linalg.solve(moment + _ridge(moment), target.T).float()
    coded, start = [], 0
    for old in fit.sides[0]:
        count = len(old.value())
        some = best[start : start + count]
        start += count
        raw = isinstance(old.stored, Tensor)
        coded.append(
            Vectors(some.half() if raw else levels.encode(some, old.bits, old.group, triplets.fit), old.bits, old.group)
        )
    kept = gptq(best.T, _on(coded), Metric(moment, triplets.metric.damp), triplets.rounding.act_order).T
    return _coded_as(kept, coded)


def _on(coded: Sequence[Vectors]) -> Callable[[Tensor, Tensor], Tensor]:
    """Return what rounds columns of U to the levels of their bands."""
    steps = torch.cat([_steps(c) for c in coded]).double()  # (rank, rows)
    middles = torch.cat([torch.full((len(_steps(c)), 1), (2**c.bits - 1) / 2, dtype=torch.float64) for c in coded])
    raw = torch.cat([torch.full((len(_steps(c)), 1), c.bits == RAW) for c in coded])

    def nearest(columns: Tensor, x: Tensor) -> Tensor:
        middle, step = middles[columns], steps[columns]
        on_levels = codes_of(x, step, middle).sub_(middle).mul_(step)
        return torch.where(raw[columns], x.half().double(), on_levels)

    return nearest


def _steps(vectors: Vectors) -> Tensor:
    """Return the distance of levels of every value; of float16, which has none, 1."""
    if isinstance(vectors.stored, Tensor):
        return torch.ones(vectors.stored.shape)
    return levels.steps(vectors.stored, vectors.group)


def _coded_as(values: Tensor, like: Sequence[Vectors]) -> list[Vectors]:
    """Return values (rank, rows) that lie on the levels of `like` as codes."""
    found, start = [], 0
    for vectors in like:
        some = values[start : start + len(_steps(vectors))]
        start += len(some)
        if isinstance(vectors.stored, Tensor):
            found.append(Vectors(some.half(), RAW, vectors.group))
            continue
        codes = codes_of(some, _steps(vectors).double(), (2**vectors.bits - 1) / 2).to(torch.uint8)
        found.append(Vectors(Coded(codes, vectors.stored.scales, vectors.stored.unit), vectors.bits, vectors.group))
    return found


def _joined(side: Sequence[Vectors]) -> Tensor:
    return torch.cat([vectors.value() for vectors in side]).double()


def _ridge(gram: Tensor) -> Tensor:
    return RIDGE * gram.diagonal().mean() * torch.eye(len(gram), dtype=gram.dtype)


def encode_low_rank(triplets: Triplets, bands: Bands) -> Encoded:
    """Encode triplets with the bits of each band."""
    bands = [(at, bits) for at, bits in bands if len(at)]
    fit = Fit.of(triplets, bands)
    parts: dict[str, Tensor] = {}
    units: list[float] = []
    for band, pair in enumerate(zip(*fit.sides, strict=True)):
        for side, vectors in zip("uv", pair, strict=True):
            parts |= vectors.parts(f"{side}{band}.")
            units.append(vectors.unit)
    parts["s"] = fit.values
    term = LowRank(tuple((len(at), bits) for at, bits in bands), triplets.group, (*units, fit.unit))
    return Encoded(term, parts, (triplets.u.shape[1], triplets.v.shape[1]))


def _at(numbers: Sequence[int]) -> Tensor:
    return torch.as_tensor(list(numbers))
