"""Terms to differences. The forms and their parameters are declared in `archspec.packs.terms`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from archspec.host.strict_json import Malformed
from archspec.packs.terms import RAW, Dense, LowRank, Quantized, Sparse, Term, Within, along, matrix_shape
from archspec.runtime.model.excerpts import add_to
from archspec.runtime.packs import bits as stream
from archspec.runtime.packs import levels
from archspec.runtime.packs.levels import Coded

Parts = Mapping[str, Tensor]
Shape = tuple[int, ...]
FAR = 255


def decode(term: Term, parts: Parts, shape: Shape) -> Tensor:
    """Return the difference that a term stands for, (rows, columns) as a tensor of `shape` is taken, float32.

    Raises Malformed where the parts contradict the term or hold values that are no numbers."""
    found = DECODERS[term.op](term, parts, matrix_shape(shape))
    if not torch.isfinite(found).all():
        raise Malformed("decodes to values that are not finite")
    return found


def _dense(term: Dense, parts: Parts, shape: Shape) -> Tensor:
    return parts["values"].float()


def _sparse(term: Sparse, parts: Parts, shape: Shape) -> Tensor:
    found = torch.zeros(shape).flatten()
    places = positions(parts["gaps"]) if term.code == "gaps" else _unmasked(parts["mask"], len(found))
    if len(places) != term.count or (term.count and int(places[-1]) >= len(found)):
        raise Malformed(f"has places for {len(places)} values of {term.count}, or places past the end")
    found[places] = parts["values"].float() * term.unit
    return found.reshape(shape)


def _unmasked(mask: Tensor, count: int) -> Tensor:
    return stream.unpack(mask, 1, count).nonzero().flatten()


def _quantized(term: Quantized, parts: Parts, shape: Shape) -> Tensor:
    laid = _coded(parts, "", along(term.axis, shape), term.bits, term.group, term.unit)
    return laid.T if term.axis == "column" else laid.reshape(shape)


def _low_rank(term: LowRank, parts: Parts, shape: Shape) -> Tensor:
    u, v = factors(term, parts, shape)
    return u @ v


def factors(term: LowRank, parts: Parts, shape: Shape) -> tuple[Tensor, Tensor]:
    """Return U S (rows, rank) and V^T (rank, columns), float32."""
    sides: dict[str, list[Tensor]] = {"u": [], "v": []}
    for band, (count, bits) in enumerate(term.bands):
        for place, (side, size) in enumerate(zip("uv", shape, strict=True)):
            unit = term.units[2 * band + place]
            sides[side].append(_coded(parts, f"{side}{band}.", (count, size), bits, term.group, unit))
    s = parts["s"].float() * term.units[-1]
    return (torch.cat(sides["u"]) * s[:, None]).T, torch.cat(sides["v"])


def _coded(parts: Parts, prefix: str, shape: Shape, bits: int, group: int, unit: float) -> Tensor:
    if bits == RAW:
        return parts[f"{prefix}values"].float()
    codes = stream.unpack(parts[f"{prefix}codes"], bits, shape[0] * shape[1]).reshape(shape)
    return levels.decode(Coded(codes, parts[f"{prefix}scales"], unit), bits, group)


def _excerpt(term: Within, parts: Parts, shape: Shape) -> Tensor:
    found = torch.zeros(shape)
    for inner, stored in inside(term, parts):
        add_to(term.of, found, decode(inner, stored, term.of.shape(shape)))
    return found


def inside(term: Within, parts: Parts) -> Iterator[tuple[Term, Parts]]:
    """Yield the terms of an excerpt with the parts of each."""
    for place, inner in enumerate(term.terms):
        prefix = f"{place}/"
        yield inner, {name.removeprefix(prefix): part for name, part in parts.items() if name.startswith(prefix)}


DECODERS: Mapping[str, Callable[[Any, Parts, Shape], Tensor]] = {
    "dense": _dense,
    "sparse": _sparse,
    "quantized": _quantized,
    "low_rank": _low_rank,
    "excerpt": _excerpt,
}


def gaps_of(places: Tensor) -> Tensor:
    """Return the bytes of distances for rising positions (count,).

    >>> gaps_of(torch.tensor([2, 3, 300]))
    tensor([  2,   0, 255,  41], dtype=torch.uint8)
    """
    steps = np.diff(places.numpy(), prepend=-1) - 1
    far = steps // FAR
    found = np.full(len(steps) + int(far.sum()), FAR, np.uint8)
    found[np.cumsum(far + 1) - 1] = steps % FAR
    return torch.from_numpy(found)


def positions(gaps: Tensor) -> Tensor:
    """Return the rising positions (count,), int64, that bytes of distances lead to.

    >>> positions(torch.tensor([2, 0, 255, 41], dtype=torch.uint8))
    tensor([  2,   3, 300])
    """
    raw = gaps.numpy().astype(np.int64)
    ends = raw != FAR
    return torch.from_numpy((np.cumsum(raw + ends) - 1)[ends])
