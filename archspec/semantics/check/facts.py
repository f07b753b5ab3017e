"""What can be told of a host and of its result without running either: from the config, the headers and the program.

Parameters and bytes are exact, because every tensor of the result has exactly one source (`layout`). Causality and
reach follow from the operators by composition: one after another, reaches add up; side by side, the widest counts; a
sequence is causal when all its parts are. Anything that cannot be known here is None, and left to a later stage.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from archspec.host.structure import Site, Structure, TensorHeader
from archspec.instructions import Entry, Relist, TensorSource
from archspec.language.edits import Insert, Replace
from archspec.operators import restore
from archspec.operators.base import Facts
from archspec.semantics.check.places import above
from archspec.semantics.layout import Program, base_shapes, count_parameters, depth, tensor_sources
from archspec.semantics.resolve import ResolvedSpec

BITS: Mapping[str, int] = {
    **dict.fromkeys(("F64", "I64", "U64", "C64"), 64),
    **dict.fromkeys(("F32", "I32", "U32"), 32),
    **dict.fromkeys(("F16", "BF16", "I16", "U16"), 16),
}
"""Bits of an element by safetensors data type; the others have 8."""


@dataclass(frozen=True)
class Figures:
    """Counts; `weights` in bytes; `reach` in tokens to either side, `math.inf` for all. None: not known here."""

    depth: int | None = None
    params: int | None = None
    weights: int | None = None
    causal: bool | None = None
    reach: float | None = None


def host_figures(structure: Structure) -> Figures:
    """Return the figures of the host itself."""
    return _figures(structure, (), {})


def result_figures(resolved: ResolvedSpec, program: Program) -> Figures:
    """Return the figures of the host after `program`."""
    return _figures(resolved.structure, program, dict(_installed(resolved)))


def tensor_bytes(structure: Structure, program: Program = ()) -> dict[str, int]:
    """Return name -> bytes of every tensor after `program`; nothing for a base without headers."""
    if not structure.tensors:
        return {}
    return _bytes(tensor_sources(program, structure), structure.tensors)


def _figures(structure: Structure, program: Program, installed: Mapping[str, Facts]) -> Figures:
    sources = tensor_sources(program, structure) if base_shapes(structure) is not None else None
    causal, reach = _mixing(structure, installed, {i.path: i.entries for i in program if isinstance(i, Relist)})
    return Figures(
        depth=sum(depth(program, structure, group) for group in structure.groups) or None,
        params=count_parameters(sources, structure) if sources is not None else None,
        weights=sum(tensor_bytes(structure, program).values()) if structure.tensors else None,
        causal=causal,
        reach=reach,
    )


def _bytes(sources: Mapping[str, TensorSource], tensors: Mapping[str, TensorHeader]) -> dict[str, int]:
    """Return the bytes of the result's tensors; a new one has the data type of its site."""
    types = _Types(tensors)
    found: dict[str, int] = {}
    for name, source in sources.items():
        kept = tensors[source.base] if source.base else None
        count, dtype = (kept.count, kept.dtype) if kept else (math.prod(source.shape or ()), types.at(source.site))
        found[name] = count * BITS.get(dtype, 8) // 8
    return found


class _Types:
    """The data types of the base's tensors: at a site, and for the most elements."""

    def __init__(self, tensors: Mapping[str, TensorHeader]) -> None:
        self._first: dict[str, str] = {}
        sizes: Counter[str] = Counter()
        for name, header in tensors.items():
            sizes[header.dtype] += header.count
            for prefix in above(name):
                self._first.setdefault(prefix, header.dtype)
        self._most = sizes.most_common(1)[0][0] if sizes else "F32"

    def at(self, path: str | None) -> str:
        return self._first.get(path or "", self._most)


def _installed(resolved: ResolvedSpec) -> Iterator[tuple[str, Facts]]:
    """Yield path -> facts of every operator that stands at a site."""
    for edit in resolved.edits:
        if isinstance(edit.edit, Replace):
            for site, config in zip(edit.sites, edit.configs, strict=True):
                yield site.path, config.facts(site.shape)


def token_bound(resolved: ResolvedSpec) -> Iterator[tuple[Site, Replace | Insert]]:
    """Yield the places of new operators whose weights hold the number of tokens, each with its edit."""
    for edit in resolved.edits:
        if isinstance(edit.edit, Replace | Insert):
            for site, config in zip(edit.places, edit.configs, strict=True):
                if site.shape.width and config.facts(site.shape).token_bound:
                    yield site, edit.edit


def _mixing(
    structure: Structure, installed: Mapping[str, Facts], lists: Mapping[str, tuple[Entry, ...]]
) -> tuple[bool | None, float | None]:
    """Return causality and reach of all lists of blocks; unknown where no attention is known."""
    if not any(site.role == "attn" for site in structure.sites):
        return None, None
    parts = [
        part
        for name, path in structure.groups.items()
        for part in _entries(_blocks(structure, name, installed), lists.get(path))
    ]
    return all(causal for causal, _ in parts), sum(reach for _, reach in parts)


Mixing = tuple[bool, float]


def _entries(blocks: list[Mixing], entries: Iterable[Entry] | None) -> Iterator[Mixing]:
    if entries is None:
        yield from blocks
        return
    for entry in entries:
        if entry.operator:
            config = restore(entry.operator.operator, entry.operator.config)
            yield _composed([config.facts(entry.operator.shape)])
            continue
        members = [blocks[index] for index in entry.members]
        yield all(causal for causal, _ in members), max(reach for _, reach in members)


def _blocks(structure: Structure, group: str, installed: Mapping[str, Facts]) -> list[Mixing]:
    """Return (causal, reach) of every block of a list."""
    sites: dict[int, list[Site]] = {}
    for site in structure.sites:
        if site.group == group and site.index is not None:
            sites.setdefault(site.index, []).append(site)
    return [_block(sites[index], installed) for index in sorted(sites)]


def _block(sites: list[Site], installed: Mapping[str, Facts]) -> Mixing:
    whole = next((installed[s.path] for s in sites if s.slot == "block" and s.path in installed), None)
    return _composed([whole] if whole else [f for s in sites if (f := _site(s, installed))])


def _composed(parts: list[Facts]) -> Mixing:
    """Return (causal, reach) of parts that run one after another."""
    return all(f.causal for f in parts), sum(math.inf if f.reach is None else f.reach for f in parts)


def _site(site: Site, installed: Mapping[str, Facts]) -> Facts | None:
    """Return what a site does to the order of tokens; None when it takes each on its own."""
    if site.path in installed:
        return installed[site.path]
    return Facts(site.shape.causal, None) if site.role == "attn" else None
