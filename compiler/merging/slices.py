"""Merges of slices: the blocks of the result are runs of blocks of the models, one behind the other.

What stands before the blocks (embeddings) is merged as the first slice is, all else outside them (the last norm, the
head) as the last one, both with the first value of a gradient, as in mergekit. A gradient goes over the depth of its
slice.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from archspec.diagnostics import Collector
from archspec.host.structure import TensorHeader
from archspec.language.merges import Merge, Model, Settings, Slice
from archspec.packs.roles import EMBED

if TYPE_CHECKING:
    from archspec.compiler.merging.layout import Source

LISTED = re.compile(r"^(.*?)\.(\d+)\.(.*)$")
DEPTH, KINDS = "num_hidden_layers", "layer_types"
"""Config attributes that count the blocks, and that say something of each."""


@dataclass(frozen=True)
class Place:
    """A tensor of the result: its depth from 0 to 1, its name in each model, and settings between theirs and all."""

    name: str
    depth: float
    parts: tuple[tuple[Model, str], ...]
    settings: Settings


def sliced(merge: Merge, names: Mapping[str, TensorHeader]) -> Iterator[Place]:
    """Yield the tensors of the result; `names`: those of a model."""
    blocks = {match[3]: match[1] for name in names if (match := LISTED.match(name)) and match[2] == "0"}
    for name in names:
        if not LISTED.match(name):
            run = merge.slices[0 if EMBED.search(name) else -1]
            yield Place(name, 0.0, tuple((part.model, name) for part in run.parts), run.settings)
    index = 0
    for run in merge.slices:
        for step in range(len(run.parts[0])):
            for rest, path in blocks.items():
                parts = tuple((part.model, f"{path}.{part.first + step}.{rest}") for part in run.parts)
                yield Place(f"{path}.{index}.{rest}", _depth(step, run), parts, run.settings)
            index += 1


def _depth(step: int, run: Slice) -> float:
    last = len(run.parts[0]) - 1
    return step / last if last else 1.0


def check_ranges(merge: Merge, sources: Sequence[Source], problems: Collector) -> None:
    """Report ranges beyond a model's blocks, and models whose blocks are not one list that a config counts. AS699."""
    depths = {source.model.base: source.config.get(DEPTH) for source in sources}
    lists = {match[1] for name in sources[0].tensors if (match := LISTED.match(name))}
    span = merge.slices[0].parts[0].span
    if len(lists) != 1 or not all(isinstance(depth, int) for depth in depths.values()):
        hint = "slices are cut from models with one list of blocks, counted by num_hidden_layers"
        problems.report("AS699", f"blocks of '{sources[0].model.name}' cannot be cut", span, hint)
        return
    for part in (part for run in merge.slices for part in run.parts):
        depth = depths[part.model.base]
        if isinstance(depth, int) and part.last > depth:
            problems.report("AS699", f"'{part.model.name}' has {depth} blocks, not {part.last}", part.span)


def blocks_of(merge: Merge) -> tuple[int, ...]:
    """Return for each block of the result the one that it is of its slice's first source."""
    return tuple(index for run in merge.slices for index in range(run.parts[0].first, run.parts[0].last))


def restacked(config: Mapping[str, Any], blocks: Sequence[int]) -> dict[str, Any]:
    """Return what a config must say of the new blocks."""
    kinds = config.get(KINDS)
    return {DEPTH: len(blocks), **({KINDS: [kinds[index] for index in blocks]} if isinstance(kinds, list) else {})}
