"""Differences to terms. Each `encode_*` returns the term, its parts, and (by `Encoded.value`) what it decodes to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from archspec.packs.terms import RAW, Dense, LowRank, Quantized, Sparse, Term, groups_of
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


def encode_sparse(delta: Tensor, fraction: float) -> Encoded:
    """Keep the floor(fraction n) entries of largest magnitude; of equal ones the earlier."""
    flat = delta.flatten()
    count = int(fraction * flat.numel())
    places = _largest(flat.abs(), count)
    values = flat[places]
    unit = float(values.abs().amax()) if count else 1.0
    gaps = gaps_of(places)
    parts = {"values": (values / (unit or 1.0)).to(torch.float16), "gaps": gaps}
    return Encoded(Sparse(count, len(gaps), unit or 1.0), parts, _shape(delta))


def _largest(sizes: Tensor, count: int) -> Tensor:
    """Return the rising places of the `count` largest."""
    if count == 0:
        return torch.zeros(0, dtype=torch.int64)
    least = float(np.partition(sizes.numpy(), len(sizes) - count)[len(sizes) - count])
    chosen = sizes > least
    equal = (sizes == least).nonzero().flatten()[: count - int(chosen.sum())]
    chosen[equal] = True
    return chosen.nonzero().flatten()


def encode_quantized(delta: Tensor, bits: int, group: int, fit: levels.Range = "search") -> Encoded:
    """`group` values along a row share a scale; 0: the whole row."""
    group = group or delta.shape[1]
    coded = levels.encode(delta, bits, group, fit)
    parts = {"codes": stream.pack(coded.codes, bits), "scales": coded.scales}
    return Encoded(Quantized(bits, group, coded.unit), parts, _shape(delta))


@dataclass(frozen=True)
class Triplets:
    """Singular triplets with their vectors at several widths, each decoded: the material of `encode_low_rank`.

    With u and v as they are decoded at b bits, the best singular value is s (u.u')(v.v') / |u'|^2 |v'|^2, and the squared
    error that a triplet leaves is s^2 (1 - (u.u')^2 (v.v')^2 / |u'|^2 |v'|^2): `kept` of s^2 is what it takes away. Triplets
    are near orthogonal still, so what several take away adds up (the whole is measured in the end).
    """

    u: Tensor
    """(rank, rows), orthonormal rows."""
    s: Tensor
    """(rank,), falling."""
    v: Tensor
    """(rank, columns)."""
    group: int
    fit: levels.Range = "search"

    @staticmethod
    def of(delta: Tensor, group: int, most: int | None = None, fit: levels.Range = "search") -> Triplets:
        """Decompose a matrix; at most `most` triplets (the rest is not looked for)."""
        least = min(delta.shape)
        if most is not None and 8 * most < least:
            torch.manual_seed(0)
            u, s, v = torch.svd_lowrank(delta, most + 8, niter=4)
            return Triplets(u.T[:most].contiguous(), s[:most], v.T[:most].contiguous(), group, fit)
        u, s, vt = torch.linalg.svd(delta, full_matrices=False)
        return Triplets(u.T[:most].contiguous(), s[:most], vt[:most].contiguous(), group, fit)

    def coded(self, side: str, bits: int, chosen: Tensor | slice = slice(None)) -> levels.Coded:
        vectors = (self.u if side == "u" else self.v)[chosen]
        return levels.encode(vectors, bits, self.group, self.fit)

    def width(self, bits: int) -> int:
        """Return the bits of one triplet whose vectors have `bits` bits."""
        sizes = self.u.shape[1], self.v.shape[1]
        scales = 0 if bits == RAW else 16 * sum(groups_of(size, self.group) for size in sizes)
        return bits * sum(sizes) + scales + 16

    def kept(self, bits: int) -> Tensor:
        """Return (rank,), the squared error that each triplet takes away when its vectors have `bits` bits."""
        share = torch.ones_like(self.s)
        for side, vectors in (("u", self.u), ("v", self.v)):
            if bits != RAW:
                share *= _agreement(vectors, levels.decode(self.coded(side, bits), bits, self.group))
        return self.s.square() * share


def _agreement(x: Tensor, y: Tensor) -> Tensor:
    """Return the squared cosine of rows; zero rows agree in nothing."""
    scale = x.square().sum(1) * y.square().sum(1)
    return (x * y).sum(1).square() / scale.clamp(min=torch.finfo(torch.float32).tiny)


def encode_low_rank(triplets: Triplets, bands: Sequence[tuple[Sequence[int], int]]) -> Encoded:
    """Encode triplets, by their numbers, with the bits of each band. The singular values are refitted together: the
    best ones for the decoded vectors, by least squares."""
    kept = [(torch.as_tensor(list(chosen)), bits) for chosen, bits in bands if len(chosen)]
    parts: dict[str, Tensor] = {}
    units: list[float] = []
    decoded: dict[str, list[Tensor]] = {"u": [], "v": []}
    for band, (chosen, bits) in enumerate(kept):
        for side, vectors in (("u", triplets.u), ("v", triplets.v)):
            if bits == RAW:
                parts[f"{side}{band}.values"] = vectors[chosen].to(torch.float16)
                value, unit = parts[f"{side}{band}.values"].float(), 1.0
            else:
                coded = triplets.coded(side, bits, chosen)
                parts[f"{side}{band}.codes"], unit = stream.pack(coded.codes, bits), coded.unit
                parts[f"{side}{band}.scales"] = coded.scales
                value = levels.decode(coded, bits, triplets.group)
            units.append(unit)
            decoded[side].append(value)
    s = _refitted(triplets, torch.cat([chosen for chosen, _ in kept]), torch.cat(decoded["u"]), torch.cat(decoded["v"]))
    top = float(s.abs().amax()) or 1.0
    parts["s"] = (s / top).to(torch.float16)
    shape = triplets.u.shape[1], triplets.v.shape[1]
    term = LowRank(tuple((len(chosen), bits) for chosen, bits in kept), triplets.group, (*units, top))
    return Encoded(term, parts, shape)


def _refitted(triplets: Triplets, chosen: Tensor, u: Tensor, v: Tensor) -> Tensor:
    """Return the s of least |sum_i s_i u_i v_i^T - D|^2 for decoded u, v: (UU^T o VV^T) s = diag(U D V^T), where D is what all
    the triplets make up."""
    gram = ((u @ u.T) * (v @ v.T)).double()
    right = (((u @ triplets.u.T) * triplets.s) @ (triplets.v @ v.T)).diagonal().double()
    gram.diagonal().add_(1e-9 * gram.diagonal().mean())
    found: Tensor = torch.linalg.solve(gram, right).float()
    return found


def _shape(delta: Tensor) -> tuple[int, int]:
    return delta.shape[0], delta.shape[1]
