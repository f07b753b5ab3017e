"""Differences to terms. Each `encode_*` returns the term, its parts, and (by `Encoded.value`) what it decodes to. Low
rank has `low_rank.py`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from archspec.compiler.packing.gptq import NEAREST, Rounding
from archspec.diagnostics import fail
from archspec.host.excerpt import Excerpt
from archspec.packs.terms import Dense, Quantized, Sparse, Term, Within, along, packed_size
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


def within(of: Excerpt, encoded: Sequence[Encoded], shape: tuple[int, int]) -> Encoded:
    """Return the terms of an excerpt as one of the matrix of `shape` that it is of."""
    plain = tuple(inner.term for inner in encoded if not isinstance(inner.term, Within))
    parts = {f"{place}/{part}": value for place, inner in enumerate(encoded) for part, value in inner.parts.items()}
    return Encoded(Within(replace(of, tensor=""), plain), parts, shape)


def encode_dense(delta: Tensor, dtype: str = "F32") -> Encoded:
    """AS683 for values that the data type cannot hold."""
    if delta.numel() and not (largest := float(delta.abs().amax())) <= torch.finfo(DTYPES[dtype]).max:
        raise fail("AS683", f"a difference of {largest:g} is more than {dtype} holds", None, "keep it as `dtype: F32`")
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


def encode_quantized(
    delta: Tensor,
    bits: int,
    group: int,
    fit: levels.Range = "search",
    axis: str = "row",
    rounding: Rounding = NEAREST,
) -> Encoded:
    """`group` values along an axis share a scale; 0: the whole of it. Scales are those of the nearest levels, however
    values are rounded to them."""
    laid = _laid(delta, axis)
    group = group or laid.shape[1]
    coded = levels.encode(laid, bits, group, fit)
    codes = coded.codes
    if rounding.makes_up:
        steps = levels.steps(coded, group)
        steps = steps.T if axis == "column" else steps.reshape(delta.shape)
        codes = _laid(rounding.codes(delta, steps, bits), axis)
    parts = {"codes": stream.pack(codes, bits), "scales": coded.scales}
    return Encoded(Quantized(bits, group, axis, coded.unit), parts, _shape(delta))


def _laid(matrix: Tensor, axis: str) -> Tensor:
    """Return a matrix with the lines along an axis as rows."""
    return (matrix.T if axis == "column" else matrix).reshape(along(axis, _shape(matrix))).contiguous()


def _shape(delta: Tensor) -> tuple[int, int]:
    return delta.shape[0], delta.shape[1]
