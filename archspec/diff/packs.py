"""Two SkillPacks side by side: what each spends where, how well it keeps its difference, and whether they interfere.

Roles and blocks are told from the names of tensors, so no base has to be at hand.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import reduce
from math import sqrt
from pathlib import Path
from typing import TYPE_CHECKING, Any

from archspec.diagnostics import Collector
from archspec.diff.depth import ALL, OUTSIDE, Spot, block_of, columns_of, laid_out, lists_in, rows_of
from archspec.packs.header import KEY, Header, is_marked, is_pack
from archspec.packs.roles import role_by_name
from archspec.packs.terms import forms
from archspec.quantity import quantity
from archspec.render.heat import Heat, markdown, short

if TYPE_CHECKING:
    from archspec.runtime.packs.meeting import Meeting

FORMAT_VERSION = 1
SUFFIX = ".safetensors"


@dataclass(frozen=True)
class Spent:
    """Of some tensors of one pack: bytes, and the squares of the norms of their differences and of what is lost."""

    size: int = 0
    norm: float = 0.0
    lost: float = 0.0

    def __add__(self, other: Spent) -> Spent:
        return Spent(self.size + other.size, self.norm + other.norm, self.lost + other.lost)

    @property
    def error(self) -> float | None:
        """Relative; None where there is no difference."""
        return sqrt(self.lost / self.norm) if self.norm else None


Cell = tuple[Spent, Spent, "Meeting"]


@dataclass(frozen=True)
class PackDifference:
    """`meetings`: of every tensor that one of them holds. `moved`: tensors in both that were made of other weights."""

    labels: tuple[str, str]
    headers: tuple[Header, Header]
    meetings: Mapping[str, Meeting]
    spots: Mapping[str, Spot]
    identical: bool
    """Byte for byte."""

    def __bool__(self) -> bool:
        return not self.identical

    @property
    def moved(self) -> list[str]:
        a, b = (header.tensors for header in self.headers)
        return [name for name in a if name in b and a[name].digest != b[name].digest]

    @property
    def same_base(self) -> bool:
        a, b = (header.base.get("fingerprint") for header in self.headers)
        return a == b and not self.moved

    @property
    def total(self) -> Cell:
        return reduce(add, map(self.cell, self.meetings))

    def spent(self, name: str, side: int) -> Spent:
        change = self.headers[side].tensors.get(name)
        return Spent(change.size, change.norm**2, change.error**2) if change else Spent()

    def cell(self, name: str) -> Cell:
        return self.spent(name, 0), self.spent(name, 1), self.meetings[name]

    def by_spot(self) -> dict[Spot, Cell]:
        found: dict[Spot, Cell] = {}
        for name, spot in self.spots.items():
            found[spot] = add(found[spot], self.cell(name)) if spot in found else self.cell(name)
        return found

    def chains(self, role: str, side: int) -> list[tuple[str, int]]:
        """Return the chains of terms that a pack keeps the tensors of a role in, and how many it keeps so."""
        held = [change for name, change in self.headers[side].tensors.items() if role in (ALL, self.spots[name].role)]
        return Counter(forms(change.terms) or "dropped" for change in held).most_common()


def add(a: Cell, b: Cell) -> Cell:
    return a[0] + b[0], a[1] + b[1], a[2] + b[2]


def are_packs(words: tuple[str, str]) -> bool:
    """Whether both name packs. AS821 where one alone is a file of tensors, or one that is no pack."""
    files = [Path(word).is_file() and (Path(word).suffix == SUFFIX or is_marked(Path(word), KEY)) for word in words]
    if not any(files):
        return False
    problems = Collector()
    for word in (word for word, file in zip(words, files, strict=True) if not file):
        hint = "`archspec attach BASE PACK -o OUT`, then diff OUT with it"
        problems.report("AS821", f"'{word}' is no pack, the other side is a file of tensors", None, hint)
    for word in (word for word, file in zip(words, files, strict=True) if file and not is_pack(Path(word))):
        hint = f"name its folder, with a config: '{Path(word).parent}'"
        problems.report("AS821", f"'{word}' is no SkillPack", None, hint)
    problems.raise_if_errors()
    return True


def compare_packs(words: tuple[str, str]) -> PackDifference:
    """Decode and compare two packs, a tensor at a time. AS680 where one is damaged, AS823 where they do not fit."""
    from archspec.runtime.packs.meeting import meet
    from archspec.runtime.packs.reading import check_claims, open_pack

    a, b = (open_pack(word) for word in words)
    _check((a.header, b.header), words)
    for pack in (a, b):
        check_claims(pack)
    meetings = dict(meet(a, b))
    lists = lists_in(meetings)
    spots = {name: Spot(role_by_name(name), block_of(name, lists)) for name in meetings}
    return PackDifference(words, (a.header, b.header), meetings, spots, a.digest == b.digest)


def _check(headers: tuple[Header, Header], words: tuple[str, str]) -> None:
    problems = Collector()
    kinds = [header.base.get("architecture") for header in headers]
    if kinds[0] != kinds[1]:
        problems.report("AS823", f"'{words[0]}' changes a {kinds[0]}, '{words[1]}' a {kinds[1]}")
    a, b = (header.tensors for header in headers)
    for name in a:
        if name in b and a[name].shape != b[name].shape:
            problems.report("AS823", f"'{name}' is {a[name].shape} in '{words[0]}', {b[name].shape} in '{words[1]}'")
    problems.raise_if_errors()


def verdict(found: PackDifference) -> str:
    """Say in one sentence whether the two are of one base, and how much they interfere."""
    if found.identical:
        return "the same pack, byte for byte"
    where = "one base" if found.same_base else "other bases"
    meeting = found.total[2]
    if not meeting.both:
        return f"packs of {where}; they change no weight in common"
    signs = f"{100 * (meeting.same_sign or 0):.1f} % of what both change goes one way"
    return f"packs of {where}; cosine of the differences {meeting.cosine:.4f}, {signs}"


def bases(found: PackDifference) -> str:
    """Say what the bases are to each other."""
    if found.same_base:
        return "the same base"
    if found.moved:
        return f"bases that differ: {len(found.moved)} tensors in both were made of other weights ({found.moved[0]})"
    return "bases of other fingerprints, whose tensors in both packs are equal"


def heats(found: PackDifference) -> list[Heat]:
    """Lay out by role and depth how the differences lie to each other, and what the second pack spends more."""
    spots = found.by_spot()
    columns = columns_of(spot.block for spot in spots if spot.block)
    cells = laid_out(spots, columns, add)
    outside = [OUTSIDE] if any(spot.block is None for spot in spots) else []
    shown = rows_of(spots), (ALL, *outside, *columns.labels)
    met = {key: meeting.cosine for key, (a, b, meeting) in cells.items() if meeting.first and meeting.second}
    more = {key: (b.size - a.size) / 1024 for key, (a, b, _) in cells.items()}
    largest = max((abs(v) for key, v in more.items() if ALL not in key), default=0.0)
    return [Heat("cosine", *shown, met), Heat("more KiB", *shown, more, largest or None)]


def totals(found: PackDifference) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Return the titles and rows of a table of roles."""
    spots = found.by_spot()
    cells = laid_out(spots, columns_of(spot.block for spot in spots if spot.block), add)
    titles = ("role", "bytes -", "bytes +", "error -", "error +", "cosine", "same sign, %", "both change")
    return titles, [(role, *_row(cells[role, ALL])) for role in rows_of(spots)]


def _row(cell: Cell) -> tuple[str, ...]:
    a, b, meeting = cell
    errors = ("-" if side.error is None else short(side.error) for side in (a, b))
    signs = "-" if meeting.same_sign is None else f"{100 * meeting.same_sign:.1f}"
    return (
        *(quantity(side.size, "bytes") for side in (a, b)),
        *errors,
        f"{meeting.cosine:.4f}",
        signs,
        str(meeting.both),
    )


def chains(found: PackDifference) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Return the titles and rows of a table of the forms that each pack keeps the tensors of a role in."""
    rows = [(role, *(_told(found.chains(role, side)) for side in (0, 1))) for role in rows_of(found.spots.values())]
    return ("role", "kept as -", "kept as +"), [row for row in rows if row[0] != ALL]


def _told(counts: list[tuple[str, int]]) -> str:
    return ", ".join(f"{count} x {chain}" for chain, count in counts) or "nothing"


def to_json(found: PackDifference) -> dict[str, Any]:
    """Return the documented form: both sides; the same keys for the whole, each cell of role and block, each tensor."""
    return {
        "format_version": FORMAT_VERSION,
        **{key: _side(found, number) for number, key in enumerate(("before", "after"))},
        "verdict": verdict(found),
        "same_base": found.same_base,
        "moved": found.moved,
        "total": _json(found.total),
        "cells": [{**spot.to_json(), **_json(cell)} for spot, cell in found.by_spot().items()],
        "tensors": [{"name": n, **s.to_json(), **_json(found.cell(n))} for n, s in found.spots.items()],
        "chains": [{"role": r, "before": a, "after": b} for r, a, b in chains(found)[1]],
    }


def _side(found: PackDifference, side: int) -> dict[str, Any]:
    header = found.headers[side]
    told = {"name": header.name, "base": dict(header.base), "error": header.error, "bytes": header.size}
    return {"label": found.labels[side], "kind": "pack", **told, "tensors": len(header.tensors)}


def _json(cell: Cell) -> dict[str, Any]:
    a, b, meeting = cell
    return {
        "bytes": [a.size, b.size],
        "error": [a.error, b.error],
        "cosine": meeting.cosine,
        "same_sign": meeting.same_sign,
        "both": meeting.both,
    }


def to_markdown(found: PackDifference) -> str:
    """Return a comment for a pull request."""
    lines = [f"### `{found.labels[0]}` → `{found.labels[1]}`", "", verdict(found), "", f"Made of {bases(found)}.", ""]
    for titles, rows in (totals(found), chains(found)):
        lines += [f"| {' | '.join(titles)} |", "|---|" + "--:|" * (len(titles) - 1)]
        lines += [*(f"| {' | '.join(row)} |" for row in rows), ""]
    return "\n".join([*lines, *(f"{markdown(heat)}\n" for heat in heats(found))])
