"""Where a tensor stands, its role and its block, and how numbers of roles and blocks make a table. No torch."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TypeVar

from archspec.packs.roles import ROLES

MOST = 10
"""Columns of blocks in a table; more blocks share columns."""
_LISTED = re.compile(r"^(.*?)\.(\d+)\.")
ALL = "all"
OUTSIDE = "–"
"""The column of what stands in no list of blocks."""

Block = tuple[str, int]
"""Name of a list of blocks and an index in it."""
N = TypeVar("N")


@dataclass(frozen=True)
class Spot:
    role: str
    block: Block | None

    def to_json(self) -> dict[str, object]:
        group, index = self.block or (None, None)
        return {"role": self.role, "group": group, "block": index}


def block_of(name: str, groups: Mapping[str, str]) -> Block | None:
    """Return the block of a tensor; `groups` is name -> path of each list.

    >>> block_of("model.layers.3.mlp.up_proj.weight", {"blocks": "model.layers"})
    ('blocks', 3)
    """
    for group, path in groups.items():
        index = name.removeprefix(f"{path}.").partition(".")[0] if name.startswith(f"{path}.") else ""
        if index.isdigit():
            return group, int(index)
    return None


def lists_in(names: Iterable[str]) -> dict[str, str]:
    """Return the lists of blocks that names of tensors show, each by its own path.

    >>> lists_in(["encoder.layer.0.output.weight", "pooler.weight"])
    {'encoder.layer': 'encoder.layer'}
    """
    return {match[1]: match[1] for name in names if (match := _LISTED.match(name))}


@dataclass(frozen=True)
class Columns:
    """Runs of neighbouring blocks of one list, as few as fit, in the order of the lists."""

    labels: tuple[str, ...]
    of: Mapping[Block, str]

    def of_block(self, block: Block | None) -> str:
        return self.of[block] if block else OUTSIDE


def columns_of(blocks: Iterable[Block], most: int = MOST) -> Columns:
    """Share out blocks among columns.

    >>> columns_of([("blocks", 0), ("blocks", 1), ("blocks", 2)], 2).labels
    ('0-1', '2')
    """
    sizes: dict[str, int] = {}
    for group, index in sorted(blocks):
        sizes[group] = max(sizes.get(group, 0), index + 1)
    width = -(-sum(sizes.values()) // max(1, most - len(sizes) + 1)) or 1
    prefix = {group: f"{group} " if len(sizes) > 1 else "" for group in sizes}
    of: dict[Block, str] = {}
    for group, size in sizes.items():
        for index in range(size):
            first = index - index % width
            last = min(first + width, size) - 1
            of[group, index] = prefix[group] + (f"{first}-{last}" if last > first else f"{first}")
    return Columns(tuple(dict.fromkeys(of.values())), of)


def laid_out(found: Mapping[Spot, N], columns: Columns, add: Callable[[N, N], N]) -> dict[tuple[str, str], N]:
    """Add up what falls into one cell (role, column); `ALL` is the row and the column of sums."""
    cells: dict[tuple[str, str], N] = {}
    for spot, value in found.items():
        for row in (spot.role, ALL):
            for column in (columns.of_block(spot.block), ALL):
                key = row, column
                cells[key] = add(cells[key], value) if key in cells else value
    return cells


def rows_of(spots: Iterable[Spot]) -> tuple[str, ...]:
    """Return the roles there are, in their order, and `ALL`."""
    present = {spot.role for spot in spots}
    return (*(role for role in ROLES if role in present), ALL)
