"""Differences to terms. Each `encode_*` returns the term, its parts, and (by `Encoded.value`) what it decodes to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from archspec.packs.terms import RAW, Dense, LowRank, Quantized, Sparse, Term, along, groups_of, packed_size
from archspec.runtime.packs import bits as stream
from archspec.runtime.packs import levels
from archspec.runtime.packs.decode import Parts, decode, gaps_of
from archspec.runtime.store.checkpoint import DTYPES


@dataclass(frozen=True)
class Encoded:
    """A term with its parts, for a matrix of this shape."""

    term: Term
    parts: Parts
    shape: tuple[int, int]

    def value(self) -> Tensor:
        """Return the matrix that a reader decodes, float32."""
        return decode(self.term, self.parts, self.shape)

    @property
    def size(self) -> int:
        return sum(part.numel() * part.element_size() for part in self.parts.values())


def encode_dense(delta: Tensor, dtype: str = "F32") -> Encoded:
    return Encoded(Dense(dtype), {"values": delta.to(DTYPES[dtype])}, _shape(delta))


def encode_sparse(delta: Tensor, fraction: float, code: str = "auto") -> Encoded:
    """Keep the floor(fraction n) entries of largest magnitude; of equal ones the earlier."""
    flat = delta.flatten()
    count = int(fraction * flat.numel())
    places = _largest(flat.abs(), count)
    values = flat[places]
    unit = (float(values.abs().amax()) if count else 0.0) or 1.0
    code, coded = _placed(places, flat.numel(), code)
    parts = {"values": (values / unit).to(torch.float16), code: coded}
    return Encoded(Sparse(count, code, len(coded), unit), parts, _shape(delta))


def _placed(places: Tensor, total: int, code: str) -> tuple[str, Tensor]:
    """Return where values stand, as distances or as a mask; `auto`: the smaller."""
    gaps = gaps_of(places)
    if code == "gaps" or (code == "auto" and len(gaps) <= packed_size(total, 1)):
        return "gaps", gaps
    mask = torch.zeros(total, dtype=torch.uint8)
    mask[places] = 1
    return "mask", stream.pack(mask, 1)


def _largest(sizes: Tensor, count: int) -> Tensor:
    """Return the rising places of the `count` largest."""
    if count == 0:
        return torch.zeros(0, dtype=torch.int64)
    least = float(np.partition(sizes.numpy(), len(sizes) - count)[len(sizes) - count])
    chosen = sizes > least
    equal = (sizes == least).nonzero().flatten()[: count - int(chosen.sum())]
    chosen[equal] = True
    return chosen.nonzero().flatten()


def encode_quantized(delta: Tensor, bits: int, group: int, fit: levels.Range = "search", axis: str = "row") -> Encoded:
    """`group` values along an axis share a scale; 0: the whole of it."""
    laid = (delta.T if axis == "column" else delta).reshape(along(axis, _shape(delta))).contiguous()
    group = group or laid.shape[1]
    coded = levels.encode(laid, bits, group, fit)
    parts = {"codes": stream.pack(coded.codes, bits), "scales": coded.scales}
    return Encoded(Quantized(bits, group, axis, coded.unit), parts, _shape(delta))


@dataclass(frozen=True)
class Triplets:
    """Singular triplets, and their vectors as they are decoded at several widths: the material of `encode_low_rank`.

    With u and v as they are decoded at b bits, the best singular value is s (u.u')(v.v') / |u'|^2 |v'|^2, and the
    squared error that a triplet leaves is s^2 (1 - (u.u')^2 (v.v')^2 / |u'|^2 |v'|^2): `kept` is what it takes away.
    Triplets are near orthogonal still, so what several take away nearly adds up; `Fit` is exact.
    """

    u: Tensor
    """(rank, rows), orthonormal rows."""
    s: Tensor
    """(rank,), falling."""
    v: Tensor
    """(rank, columns)."""
    group: int
    fit: levels.Range = "search"
    _coded: dict[tuple[str, int], levels.Coded] = field(default_factory=dict, repr=False)

    @staticmethod
    def of(delta: Tensor, group: int, most: int | None = None, fit: levels.Range = "search") -> Triplets:
        """Decompose a matrix; at most `most` triplets are kept."""
        u, s, vt = torch.linalg.svd(delta, full_matrices=False)
        return Triplets(u.T[:most].contiguous(), s[:most], vt[:most].contiguous(), group, fit)

    def coded(self, side: str, bits: int) -> levels.Coded:
        """Return all vectors of a side at a width, made once."""
        if (side, bits) not in self._coded:
            vectors = self.u if side == "u" else self.v
            self._coded[side, bits] = levels.encode(vectors, bits, self.group, self.fit)
        return self._coded[side, bits]

    def decoded(self, side: str, bits: int, chosen: Tensor | slice = slice(None)) -> Tensor:
        """Return the chosen vectors as a reader has them."""
        if bits == RAW:
            return (self.u if side == "u" else self.v)[chosen].to(torch.float16).float()
        coded = self.coded(side, bits)
        return levels.decode(levels.Coded(coded.codes[chosen], coded.scales[chosen], coded.unit), bits, self.group)

    def width(self, bits: int) -> int:
        """Return the bits of one triplet whose vectors have `bits` bits."""
        sizes = self.u.shape[1], self.v.shape[1]
        scales = 0 if bits == RAW else 16 * sum(groups_of(size, self.group) for size in sizes)
        return bits * sum(sizes) + scales + 16

    def kept(self, bits: int) -> Tensor:
        """Return (rank,), the squared error that each triplet takes away when its vectors have `bits` bits."""
        share = torch.ones_like(self.s)
        for side, vectors in (("u", self.u), ("v", self.v)):
            share *= _agreement(vectors, self.decoded(side, bits))
        return self.s.square() * share


def _agreement(x: Tensor, y: Tensor) -> Tensor:
    """Return the squared cosine of rows; zero rows agree in nothing."""
    scale = x.square().sum(1) * y.square().sum(1)
    return (x * y).sum(1).square() / scale.clamp(min=torch.finfo(torch.float32).tiny)


Bands = Sequence[tuple[Sequence[int], int]]
"""Triplets, by their numbers, and the bits of their vectors."""


@dataclass(frozen=True)
class Fit:
    """Singular values refitted together for decoded vectors, as float16 in parts of `unit`.

    `left` is the squared error that remains of what the triplets make up."""

    values: Tensor
    unit: float
    left: float

    @staticmethod
    def of(triplets: Triplets, bands: Bands) -> Fit:
        """Minimize |sum_i s_i u_i v_i^T - D|^2 for decoded u, v: (UU^T o VV^T) s = diag(U D V^T). float64: what is
        left may be a millionth of D."""
        u, v = (torch.cat([triplets.decoded(side, bits, _at(at)) for at, bits in bands]) for side in "uv")
        u, v = u.double(), v.double()
        gram = (u @ u.T) * (v @ v.T)
        right = ((u @ triplets.u.T.double()) * triplets.s * (v @ triplets.v.T.double())).sum(1)
        ridge = 1e-9 * gram.diagonal().mean() * torch.eye(len(gram), dtype=gram.dtype)
        s = torch.linalg.solve(gram + ridge, right)
        unit = float(s.abs().amax()) or 1.0
        values = (s / unit).to(torch.float16)
        s = values.double() * unit
        left = float(triplets.s.double().square().sum() - 2 * s @ right + s @ gram @ s)
        return Fit(values, unit, max(0.0, left))


def encode_low_rank(triplets: Triplets, bands: Bands) -> Encoded:
    """Encode triplets with the bits of each band."""
    bands = [(at, bits) for at, bits in bands if len(at)]
    parts: dict[str, Tensor] = {}
    units: list[float] = []
    for band, (at, bits) in enumerate(bands):
        for side, vectors in (("u", triplets.u), ("v", triplets.v)):
            if bits == RAW:
                parts[f"{side}{band}.values"], unit = vectors[_at(at)].to(torch.float16), 1.0
            else:
                coded = triplets.coded(side, bits)
                parts[f"{side}{band}.codes"] = stream.pack(coded.codes[_at(at)], bits)
                parts[f"{side}{band}.scales"], unit = coded.scales[_at(at)].contiguous(), coded.unit
            units.append(unit)
    fit = Fit.of(triplets, bands)
    parts["s"] = fit.values
    term = LowRank(tuple((len(at), bits) for at, bits in bands), triplets.group, (*units, fit.unit))
    return Encoded(term, parts, (triplets.u.shape[1], triplets.v.shape[1]))


def _at(numbers: Sequence[int]) -> Tensor:
    return torch.as_tensor(list(numbers))


def _shape(delta: Tensor) -> tuple[int, int]:
    return delta.shape[0], delta.shape[1]
