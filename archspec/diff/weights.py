"""Where a fine-tune changed its base: the values of two checkpoints of one architecture, by role and depth.

Tensors are paired by the tensor of the base that they are, so a checkpoint with edits is compared in what it kept. All
numbers come from `archspec.runtime.store.values`, streamed; here they are added up. No torch until then.
"""

from __future__ import annotations

import operator
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import reduce
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any

from archspec.diagnostics import fail
from archspec.diff.compare import Difference
from archspec.diff.depth import ALL, OUTSIDE, Spot, block_of, columns_of, laid_out, rows_of
from archspec.diff.outline import Outline, Tensor
from archspec.render.heat import Heat, short
from archspec.runtime.store.sums import Sums

if TYPE_CHECKING:
    from archspec.runtime.store.values import Place, Values

STRUCTURAL = ("operator", "parameter", "removed", "added", "wiring")
"""Kinds of changes after which two models are no longer of one architecture."""


@dataclass(frozen=True)
class Weights:
    """`tensors`: what was compared; `spots`: where each stands. `missing`, `extra`: only before, only after.
    `reshaped`: in both, in other shapes. `spectrum`: the singular values that count as a change's top."""

    tensors: tuple[Values, ...]
    spots: Mapping[str, Spot]
    missing: tuple[str, ...]
    extra: tuple[str, ...]
    reshaped: tuple[str, ...]
    spectrum: int = 0

    def __bool__(self) -> bool:
        return any(not v.equal for v in self.tensors) or bool(self.missing or self.extra or self.reshaped)

    @property
    def changed(self) -> list[Values]:
        """Those with other values, the most changed first."""
        return sorted((v for v in self.tensors if not v.equal), key=lambda v: (-v.sums.relative, v.name))

    @property
    def unchanged(self) -> list[str]:
        return [v.name for v in self.tensors if v.equal]

    @property
    def total(self) -> Sums:
        return reduce(operator.add, (v.sums for v in self.tensors), Sums())

    def by_spot(self) -> dict[Spot, Sums]:
        found: dict[Spot, Sums] = {}
        for v in self.tensors:
            found[self.spots[v.name]] = found.get(self.spots[v.name], Sums()) + v.sums
        return found


def alike(difference: Difference) -> bool:
    """Whether both are checkpoints of one architecture: then it is their weights that tell them apart."""
    before, after = difference.before, difference.after
    if not before.files or not after.files or before.architecture != after.architecture:
        return False
    return not any(change.kind in STRUCTURAL for change in difference.changes)


def compare_weights(before: Outline, after: Outline, spectrum: int = 0) -> Weights:
    """Compare all tensors that both have in one shape. AS812 where a side has no values, AS822 where nothing fits."""
    from archspec.runtime.store.values import compare_values

    _check(before, after)
    old, new = _by_identity(before), _by_identity(after)
    both = [key for key in old if key in new]
    same = [key for key in both if old[key][1].shape == new[key][1].shape]
    if not same:
        message = f"'{before.label}' and '{after.label}' have no tensor of one name and shape"
        raise fail("AS822", message, None, "leave --weights out to compare the architectures")
    pairs = ((key, _place(before, old[key][0]), _place(after, new[key][0])) for key in same)
    spots = {key: Spot(before.roles[old[key][0]], block_of(key, before.groups)) for key in same}
    return Weights(
        tuple(compare_values(pairs, spectrum)),
        spots,
        tuple(key for key in old if key not in new),
        tuple(key for key in new if key not in old),
        tuple(key for key in both if key not in spots),
        spectrum,
    )


def _place(side: Outline, name: str) -> Place:
    from archspec.runtime.store.values import Place

    return Place(Path(side.files[name]), name)


def _check(before: Outline, after: Outline) -> None:
    for side in (before, after):
        if not side.files:
            hint = "compile the spec first, or leave --weights out"
            raise fail("AS812", f"'{side.label}' has no values to compare", None, hint)
    if before.architecture != after.architecture:
        message = f"'{before.label}' is a {before.architecture}, '{after.label}' a {after.architecture}"
        raise fail("AS822", message, None, "leave --weights out to compare the architectures")


def _by_identity(side: Outline) -> dict[str, tuple[str, Tensor]]:
    """Return the tensors of a side by the tensor of the base that each is, else by its own name."""
    return {tensor.base or name: (name, tensor) for name, tensor in (side.tensors or {}).items()}


def verdict(weights: Weights) -> str:
    """Say in one sentence how much changed."""
    changed, count = len(weights.changed), len(weights.tensors)
    if not changed:
        return f"all {count} tensors equal in value"
    total = weights.total
    size = f"{100 * total.relative:.3g} % of the norm"
    return f"{changed} of {count} tensors have other values: {size}, {100 * total.fraction:.3g} % of the numbers"


def heat(weights: Weights) -> Heat:
    """Lay out the relative change of each role and run of blocks, in percent."""
    found = weights.by_spot()
    columns = columns_of(spot.block for spot in found if spot.block)
    sums = laid_out(found, columns, operator.add)
    shown = [ALL, *([OUTSIDE] if any(spot.block is None for spot in found) else []), *columns.labels]
    cells = {key: 100 * value.relative for key, value in sums.items()}
    return Heat("change, %", rows_of(found), tuple(shown), cells)


def totals(weights: Weights) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Return the titles and rows of a table of roles."""
    found = weights.by_spot()
    sums = laid_out(found, columns_of(spot.block for spot in found if spot.block), operator.add)
    titles = ("role", "tensors", "changed", "numbers", "changed, %", "||d||/||w||", "cosine")
    more = (f"energy of top {weights.spectrum}", "stable rank") if weights.spectrum else ()
    return titles + more, [tuple(_row(weights, role, sums[role, ALL])) for role in rows_of(found)]


def _row(weights: Weights, role: str, sums: Sums) -> Iterator[str]:
    own = [v for v in weights.tensors if role in (ALL, weights.spots[v.name].role)]
    yield from (role, str(len(own)), str(sum(not v.equal for v in own)), str(sums.count))
    yield from (f"{100 * sums.fraction:.3g}", short(sums.relative), f"{sums.cosine:.6f}")
    if weights.spectrum:
        yield "-" if sums.energy is None else f"{sums.energy:.3f}"
        yield "-" if sums.stable_rank is None else f"{sums.stable_rank:.1f}"


def to_json(weights: Weights) -> dict[str, Any]:
    """Return the documented form: the total, every cell of role and block, every tensor, and what one side lacks."""
    cells = weights.by_spot()
    names = {"missing": weights.missing, "extra": weights.extra, "reshaped": weights.reshaped}
    return {
        "total": sums_json(weights.total),
        "cells": [{**spot.to_json(), **sums_json(sums)} for spot, sums in cells.items()],
        "tensors": [{"name": v.name, **weights.spots[v.name].to_json(), **_tensor_json(v)} for v in weights.tensors],
        "unchanged": weights.unchanged,
        **{key: list(value) for key, value in names.items()},
        "spectrum": weights.spectrum,
    }


def _tensor_json(values: Values) -> dict[str, Any]:
    before, after, change = (number(norm) for norm in values.norms)
    norms = {"norm_before": before, "norm_after": after, "norm_change": change}
    return {"equal": values.equal, **norms, **sums_json(values.sums)}


def sums_json(sums: Sums) -> dict[str, Any]:
    return {
        "count": sums.count,
        "changed": sums.changed,
        "relative": number(sums.relative),
        "cosine": number(sums.cosine),
        "energy": number(sums.energy),
        "stable_rank": number(sums.stable_rank),
    }


def number(value: float | None) -> float | None:
    """Return what JSON can hold: no infinity, no NaN."""
    return value if value is not None and isfinite(value) else None
