"""What a pack adds to the output of a linear map, from its terms as they are stored: no dense difference is made.

Terms of low rank are y += U (S (V^T x)). Coded terms (`quantize`, `sign`) stay the bytes of their codes; a run decodes
them a few lines at a time, so beside codes and scales memory holds one chunk of `CHUNK` values, whatever the matrix.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from archspec.packs.terms import LowRank, Quantized, Term, along
from archspec.runtime.packs import bits as stream
from archspec.runtime.packs.decode import Parts, factors

CHUNK = 1 << 18
"""Values that are decoded at a time; at least a line."""
BYTES = 40
"""Most bytes that a value of a chunk takes while it is decoded (places of codes are int64)."""
Added = tuple[float, Term, Parts]
"""Scale, term and parts of what is added."""
Shape = tuple[int, int]


@dataclass(frozen=True)
class Factors:
    """`down` (rank, inputs), `up` (outputs, rank), scale included."""

    down: Tensor
    up: Tensor

    def add(self, x: Tensor, y: Tensor) -> None:
        y += linear(linear(x, self.down), self.up)


@dataclass(frozen=True)
class Codes:
    """A coded term of a matrix of `shape`, times `scale`. `codes`, `scales`: as the pack holds them."""

    term: Quantized
    shape: Shape
    scale: float
    codes: Tensor
    scales: Tensor

    def add(self, x: Tensor, y: Tensor) -> None:
        by_columns = self.term.axis == "column"
        lines, length = along("column" if by_columns else "row", self.shape)
        for first in range(0, lines, step := max(1, CHUNK // length)):
            chunk = slice(first, min(first + step, lines))
            values = self.lines(chunk.start, chunk.stop, length).to(y.dtype)
            if by_columns:
                y += x[..., chunk] @ values
            else:
                y[..., chunk] += linear(x, values)

    def lines(self, first: int, last: int, length: int) -> Tensor:
        """Return some lines along the axis (rows of the matrix where the axis is the whole tensor), float32."""
        count = (last - first) * length
        codes = stream.unpack_at(self.codes, self.term.bits, first * length, count)
        values = codes.float().sub_((2**self.term.bits - 1) / 2).view(last - first, length)
        if self.term.axis == "tensor":
            place = torch.arange(first * length, last * length, device=codes.device) // self.term.group
            scales = self.scales[0][place].view(last - first, length)
        else:
            scales = self.scales[first:last].repeat_interleave(min(self.term.group, length), 1)[:, :length]
        return values.mul_(scales.float().mul_(self.term.unit * self.scale))


@dataclass(frozen=True)
class Branch:
    """What is added beside a linear map: a forward hook."""

    parts: Sequence[Factors | Codes]

    def __call__(self, module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> Tensor:
        found = output.clone()
        for part in self.parts:
            part.add(inputs[0], found)
        return found

    @property
    def size(self) -> int:
        """Bytes that it keeps."""
        return sum(t.numel() * t.element_size() for p in self.parts for t in vars(p).values() if isinstance(t, Tensor))


def can_branch(terms: Iterable[Term]) -> bool:
    """Say whether terms can be added without making their matrix."""
    return all(isinstance(term, LowRank | Quantized) for term in terms)


def branch(added: Iterable[Added], shape: Shape, like: Tensor) -> Branch:
    """Return what terms add beside a linear map whose weight is `like`: factors of all in one, codes one by one."""
    ups, downs, parts = [], [], list[Factors | Codes]()
    for scale, term, stored in added:
        if isinstance(term, LowRank):
            up, down = factors(term, stored, shape)
            ups.append(scale * up)
            downs.append(down)
        elif isinstance(term, Quantized):
            codes, scales = (stored[part].to(like.device) for part in ("codes", "scales"))
            parts.append(Codes(term, shape, scale, codes, scales))
    if ups:
        parts.insert(0, Factors(torch.cat(downs).to(like), torch.cat(ups, 1).to(like)))
    return Branch(tuple(parts))
