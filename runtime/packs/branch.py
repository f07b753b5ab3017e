"""What a pack adds to the output of a linear map, from its terms as they are stored: no dense difference is made.

Terms of low rank are y += U (S (V^T x)). Coded terms (`quantize`, `sign`) stay the bytes of their codes; a run decodes
them a few lines at a time, so beside codes and scales memory holds one chunk of `CHUNK` values, whatever the matrix.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from archspec.host.excerpt import Excerpt
from archspec.packs.terms import LowRank, Quantized, Term, Within, along
from archspec.runtime.model.excerpts import add_to, taken
from archspec.runtime.packs import bits as stream
from archspec.runtime.packs.decode import Parts, factors, inside

CHUNK = 1 << 18
"""Values that are decoded at a time; at least a line."""
BYTES = 40
"""Most bytes that a value of a chunk takes while it is decoded (places of codes are int64)."""
Used = tuple[float, Term, Parts]
"""Scale, term and parts of what is added."""
Shape = tuple[int, int]


@dataclass(frozen=True)
class Factors:
    """`down` (rank, inputs), `up` (outputs, rank), scale included."""

    down: Tensor
    up: Tensor

    def add(self, x: Tensor, y: Tensor) -> None:
        y += linear(linear(x, self.down), self.up)

    @property
    def is_finite(self) -> bool:
        return bool(torch.isfinite(self.down).all() and torch.isfinite(self.up).all())


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

    @property
    def is_finite(self) -> bool:
        steps = self.scales.float() * (self.term.unit * self.scale)
        return bool(torch.isfinite(steps * (2**self.term.bits - 1)).all())


@dataclass(frozen=True)
class Part:
    """What is added to some outputs, or from some inputs, alone. `of`: which (not transposed)."""

    of: Excerpt
    shape: Shape
    """Outputs and inputs of the excerpt."""
    parts: Sequence[Added]

    def add(self, x: Tensor, y: Tensor) -> None:
        if self.of.axis == 1:
            x, found = taken(self.of, x), y
        else:
            found = y.new_zeros(len(y), self.shape[0])
        for part in self.parts:
            part.add(x, found)
        if found is not y:
            add_to(replace(self.of, axis=1), y, found)

    @property
    def is_finite(self) -> bool:
        return all(part.is_finite for part in self.parts)


Added = Factors | Codes | Part


@dataclass(frozen=True)
class Branch:
    """What is added beside a linear map: a forward hook."""

    parts: Sequence[Added]

    def __call__(self, module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> Tensor:
        found = output.clone(memory_format=torch.contiguous_format)
        x, y = inputs[0].reshape(-1, inputs[0].shape[-1]), found.view(-1, found.shape[-1])
        for part in self.parts:
            part.add(x, y)
        return found

    @property
    def is_finite(self) -> bool:
        """Whether all that it adds by is numbers."""
        return all(part.is_finite for part in self.parts)

    @property
    def size(self) -> int:
        """Bytes that it keeps."""
        return sum(_bytes(part) for part in self.parts)


def _bytes(part: Added) -> int:
    if isinstance(part, Part):
        return sum(map(_bytes, part.parts))
    return sum(value.numel() * value.element_size() for value in vars(part).values() if isinstance(value, Tensor))


def can_branch(terms: Iterable[Term], turned: bool = False) -> bool:
    """Say whether terms can be added without making their matrix. `turned`: it is kept as (inputs, outputs)."""
    return all(_can_branch(term, turned) for term in terms)


def _can_branch(term: Term, turned: bool) -> bool:
    if isinstance(term, Within):
        return can_branch(term.terms, term.of.transposed != turned)
    return isinstance(term, LowRank) or (isinstance(term, Quantized) and not (turned and term.axis == "tensor"))


def branch(used: Iterable[Used], shape: Shape, like: Tensor, turned: bool = False) -> Branch:
    """Return what terms of a matrix of `shape` add beside a linear map whose weight is `like`."""
    parts: list[Added] = []
    for scale, term, stored in used:
        if isinstance(term, Within):
            parts.append(_excerpt(scale, term, stored, shape, like, turned))
        else:
            parts.append(_plain(scale, term, stored, shape, like, turned))
    return Branch(_joined(parts))


def _excerpt(scale: float, term: Within, stored: Parts, shape: Shape, like: Tensor, turned: bool) -> Part:
    """An excerpt of the matrix that is not (outputs, inputs) is one along the other axis, and turned itself."""
    other, (rows, columns) = turned != term.of.transposed, term.of.shape(shape)
    found = [_plain(scale, inner, parts, (rows, columns), like, other) for inner, parts in inside(term, stored)]
    of = replace(term.of, transposed=False, axis=term.of.axis ^ other)
    return Part(of, (columns, rows) if other else (rows, columns), _joined(found))


def _plain(scale: float, term: Term, stored: Parts, shape: Shape, like: Tensor, turned: bool) -> Factors | Codes:
    if isinstance(term, LowRank):
        up, down = factors(term, stored, shape)
        up, down = (down.T, up.T) if turned else (up, down)
        return Factors(down.to(like), (scale * up).to(like))
    assert isinstance(term, Quantized)
    codes, scales = (stored[part].to(like.device) for part in ("codes", "scales"))
    if turned:
        term, shape = replace(term, axis=TURNED[term.axis]), shape[::-1]
    return Codes(term, shape, scale, codes, scales)


TURNED = {"row": "column", "column": "row"}
"""Lines of a matrix as lines of the transposed one: the codes lie as they did."""


def _joined(parts: Sequence[Added]) -> tuple[Added, ...]:
    """Return the parts with all factors as one, in the first place."""
    of_rank = [part for part in parts if isinstance(part, Factors)]
    rest = tuple(part for part in parts if not isinstance(part, Factors))
    down, up = ([getattr(part, side) for part in of_rank] for side in ("down", "up"))
    return (Factors(torch.cat(down), torch.cat(up, 1)), *rest) if of_rank else rest
