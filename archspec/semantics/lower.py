"""From resolved edits to instructions: the flat program that `runtime.model.apply` executes on the module tree.

The order is fixed: installs, then shares, then one new list per edited list of blocks, each in the order of the base.
Paths are those of the base throughout, since the lists are made last. The same spec always gives the same program.

What would vanish is left out: an operator inside a dropped block, inside a replaced module, or at a site that takes its
weights from another. Where edits contradict each other (`archspec.semantics.check` refuses them) the last replacement
wins, and of structural edits on one block first drop, then parallelize, then repeat. The graph passes of the compiler
derive the same result on their own, and the proof compares both.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

from archspec.host.structure import Site, inside
from archspec.instructions import AFTER, Entry, Install, Instruction, Relist, Share
from archspec.language.edits import Drop, Insert, Parallelize, Repeat, Replace, Skip
from archspec.language.edits import Share as ShareEdit
from archspec.operators.identity import Identity
from archspec.semantics.resolve import ResolvedEdit, ResolvedSpec, parallel_groups

STRUCTURAL = (Drop, Parallelize, Repeat, Insert, Skip)


def lower(resolved: ResolvedSpec) -> tuple[Instruction, ...]:
    """Return the program of a resolved spec."""
    shares = _shares(resolved)
    gone = resolved.dropped | shares.keys()
    installs = _installs(resolved)
    kept = (i for path, i in installs.items() if not _vanishes(path, gone, installs))
    tied = (Share(path, to) for path, to in shares.items() if not inside(path, resolved.dropped))
    return (*kept, *tied, *_relists(resolved))


def _installs(resolved: ResolvedSpec) -> dict[str, Install]:
    """Return path -> install, in the base's order; the last replacement of a site wins."""
    found = _operators(resolved, Replace)
    ordered = {site: found[site.path] for site in resolved.structure.sites if site.path in found}
    return {i.path: i for site, install in ordered.items() for i in (install, *_exit(site))}


def _exit(site: Site) -> Iterator[Install]:
    """Yield what stands where the host would finish a site's work: nothing is left to do there."""
    for end in site.ends:
        yield Install(end.path, end.slot, Identity.name, Identity.version, {}, end.shape, end.port)


def _operators(resolved: ResolvedSpec, verb: type[Replace | Insert]) -> dict[str, Install]:
    return {
        site.path: Install(
            path=site.path,
            slot=site.slot,
            operator=config.name,
            version=config.version,
            config=config.settings(),
            shape=site.shape,
            port=site.port,
            layer=site.index if site.port.cache else None,
        )
        for edit in resolved.edits
        if isinstance(edit.edit, verb)
        for site, config in zip(edit.places, edit.configs, strict=True)
    }


def _shares(resolved: ResolvedSpec) -> dict[str, str]:
    """Return path -> the path whose weights it uses, in the base's order. An owner is never a sharer itself."""
    owner: dict[str, str] = {}
    for edit in resolved.edits:
        if isinstance(edit.edit, ShareEdit):
            first, *others = edit.sites
            owner |= {own: its for site in others for own, its in zip(site.paths, first.paths, strict=True)}
    order = [path for site in resolved.structure.sites for path in site.paths if path in owner]
    for path in order:  # an owner comes before its sharers, so it is settled when they are
        owner[path] = owner.get(owner[path], owner[path])
    return {path: owner[path] for path in order}


def _vanishes(path: str, gone: Collection[str], installs: Mapping[str, Install]) -> bool:
    """Say whether what stands at `path` is not part of the result."""
    return inside(path, gone) or inside(path.rpartition(".")[0], installs)


def _relists(resolved: ResolvedSpec) -> Iterator[Relist]:
    for group, path in resolved.structure.groups.items():
        edits = [e for e in resolved.edits if isinstance(e.edit, STRUCTURAL) and any(s.group == group for s in e.sites)]
        if not edits:
            continue
        blocks = sorted(_blocks(resolved, group), key=lambda site: site.index or 0)
        shape, port = blocks[0].shape, blocks[0].port
        entries = tuple(_entries(blocks, edits, resolved))
        yield Relist(path, len(blocks), shape.width, entries, port.returns, port.streams)


def _blocks(resolved: ResolvedSpec, group: str) -> list[Site]:
    return [s for s in resolved.structure.sites if s.slot == "block" and s.group == group]


def _entries(blocks: list[Site], edits: list[ResolvedEdit], resolved: ResolvedSpec) -> Iterator[Entry]:
    """Yield the entries of the new list. A group stands where its first member stood."""
    dropped = resolved.dropped
    parallel, repeats, skips = _parallel(edits, dropped), _repeats(edits), _skips(edits, dropped)
    inserted = _operators(resolved, Insert)
    for site in blocks:
        index = site.index or 0
        if site.path in dropped:
            continue
        if site.path in parallel:
            if parallel[site.path].members[0] == index:
                yield parallel[site.path]
            continue
        yield skips.get(site.path, Entry("keep", (index,)))
        if repeat := repeats.get(site.path):
            yield from [Entry("tie" if repeat.tie else "copy", (index,))] * (repeat.times - 1)
        if operator := inserted.get(f"{site.path}.{AFTER}"):
            yield Entry("insert", (index,), operator=operator)


def _skips(edits: list[ResolvedEdit], dropped: frozenset[str]) -> dict[str, Entry]:
    """Return path of a block -> its entry, for those that another block's output is led to."""
    return {
        target.path: Entry("keep", (target.index or 0,), e.edit.merge, skip=source.index or 0)
        for e in edits
        if isinstance(e.edit, Skip)
        for source, target in zip(e.sites, e.targets, strict=True)
        if source.path not in dropped
    }


def _parallel(edits: list[ResolvedEdit], dropped: frozenset[str]) -> dict[str, Entry]:
    """Return path -> the entry that the block is a member of; a block is a member of one."""
    found: dict[str, Entry] = {}
    for edit in edits:
        if not isinstance(edit.edit, Parallelize):
            continue
        for group in parallel_groups(edit, dropped):
            members = [site for site in group if site.path not in found]
            beside = [name for name, index in members[-1].port.streams[1:] if index is not None] if members else []
            indices = tuple(site.index or 0 for site in members)
            entry = Entry("parallel", indices, edit.edit.merge, beside=tuple(beside))
            found |= {site.path: entry for site in members}
    return found


def _repeats(edits: list[ResolvedEdit]) -> dict[str, Repeat]:
    return {site.path: e.edit for e in edits if isinstance(e.edit, Repeat) for site in e.sites}
