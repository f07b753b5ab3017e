"""Hosts of no known family: what the headers of the weights tell, and not a guess more.

Tensor names give the module paths, which selectors can name (`"h.*.attn"`), and the lists of blocks: an outermost
numbered list (`transformer.h.0` to `transformer.h.11`) whose entries are alike. The longest list is `blocks`; others
go by the last part of their path. No slot but `block` is given: which module is the attention, what it takes and gives
back, is found out by running the host (`archspec.compiler.capture`), which fills the shapes too. The only size taken
from headers is the width of blocks, and only where all their norms agree on it. Without headers nothing is known but
the class.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from math import prod
from typing import Any

from archspec.host.structure import Site, SiteShape, Structure, TensorHeader

NAME = "unknown"
_INDEX = re.compile(r"0|[1-9]\d{0,4}", re.ASCII)
_NORM = r"\w*(norm|ln)\w*\.weight"


Entry = dict[str, tuple[int, ...]]
"""Name within a block -> shape."""


def structure(
    library: str, architecture: str, config: Mapping[str, Any], tensors: Mapping[str, TensorHeader] | None = None
) -> Structure:
    """Return what is known of a host from its tensor names."""
    lists = _lists(tensors or {})
    groups = _named(lists)
    sites = tuple(_sites(tensors or {}, lists, groups))
    return Structure(NAME, architecture, library, config, groups, sites, tensors)


def _lists(tensors: Mapping[str, TensorHeader]) -> dict[str, int]:
    """Return path -> length of the outermost numbered lists of blocks, the longest first."""
    entries: dict[str, dict[int, Entry]] = defaultdict(lambda: defaultdict(dict))
    for name, header in tensors.items():
        parts = name.split(".")
        at = next((i for i, part in enumerate(parts) if i and _INDEX.fullmatch(part)), None)
        if at is not None:
            entries[".".join(parts[:at])][int(parts[at])][".".join(parts[at + 1 :])] = header.shape
    found = {path: len(blocks) for path, blocks in entries.items() if _are_blocks(blocks)}
    return dict(sorted(found.items(), key=lambda item: -item[1]))


def _are_blocks(entries: Mapping[int, Entry]) -> bool:
    """At least two entries, numbered without a gap, alike, each of several modules and no convolutions of images."""
    if len(entries) < 2 or sorted(entries) != list(range(len(entries))):
        return False
    first = entries[0]
    modules = {name.rpartition(".")[0] for name in first}
    return len(modules) > 1 and all(_alike(first, entry) and not _spatial(entry) for entry in entries.values())


def _alike(one: Entry, other: Entry) -> bool:
    """One has the names of the other and perhaps more, as last blocks often have less; most of them have one shape."""
    common = one.keys() & other.keys()
    return len(common) == min(len(one), len(other)) and 2 * sum(one[n] == other[n] for n in common) > len(common)


def _spatial(entry: Entry) -> bool:
    """Most values are kernels over images: such an entry does not work on tokens."""
    sizes = [(prod(shape), len(shape) == 4 and max(shape[2:]) > 1) for shape in entry.values()]
    return 2 * sum(size for size, kernel in sizes if kernel) > sum(size for size, _ in sizes)


def _named(lists: Mapping[str, int]) -> dict[str, str]:
    """Return selector name -> path: `blocks` for the first list, for others the last part where no other has it."""
    first, *others = lists or [""]
    short = {path: path.rpartition(".")[2] for path in lists}
    taken = Counter([*short.values(), "blocks"])
    names = {short[path] if taken[short[path]] == 1 else path.replace(".", "_"): path for path in others}
    return {"blocks": first, **names} if lists else {}


def _sites(tensors: Mapping[str, TensorHeader], lists: Mapping[str, int], groups: Mapping[str, str]) -> Iterator[Site]:
    """Yield a site per block and per module that has tensors, in the order of their names in the file."""
    widths = {path: _width(path, tensors) for path in lists}
    homes = {
        f"{path}.{index}": (group, index, SiteShape(widths[path]))
        for group, path in groups.items()
        for index in range(lists[path])
    }
    for path in _modules(tensors):
        if path in homes:
            group, index, shape = homes[path]
            yield Site(path, "block", shape, group=group, index=index)
        elif path not in lists:
            owner = next((homes[prefix] for prefix in _prefixes(path) if prefix in homes), None)
            place: tuple[str, int | None] = owner[:2] if owner else ("", None)
            yield Site(path, "module", SiteShape(0), group=place[0], index=place[1])


def _modules(tensors: Iterable[str]) -> list[str]:
    """Return the paths of all modules that hold tensors, parents before children, numbered ones in counting order."""
    found = {prefix for name in tensors for prefix in _prefixes(name)}
    return sorted(found, key=lambda path: [_counting(part) for part in path.split(".")])


def _counting(part: str) -> tuple[bool, int, str]:
    number = int(part) if _INDEX.fullmatch(part) else -1
    return (number >= 0, number, part)


def _prefixes(path: str) -> Iterator[str]:
    """Yield the paths above a path, the outermost first.

    >>> list(_prefixes("h.0.attn.weight"))
    ['h', 'h.0', 'h.0.attn']
    """
    parts = path.split(".")
    return (".".join(parts[:length]) for length in range(1, len(parts)))


def _width(path: str, tensors: Mapping[str, TensorHeader]) -> int:
    """Return the width of a list's blocks as the norms right in them have it (norms of heads are further inside), 0
    when they do not agree or there are none."""
    inside = re.compile(rf"{re.escape(path)}\.\d+\.{_NORM}", re.IGNORECASE)
    sizes = {h.shape[0] for name, h in tensors.items() if len(h.shape) == 1 and inside.fullmatch(name)}
    return sizes.pop() if len(sizes) == 1 else 0
