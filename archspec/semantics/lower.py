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
from archspec.instructions import Entry, Install, Instruction, Relist, Share
from archspec.language.spec import Drop, Parallelize, Repeat, Replace
from archspec.language.spec import Share as ShareEdit
from archspec.semantics.resolve import ResolvedEdit, ResolvedSpec, parallel_groups

STRUCTURAL = (Drop, Parallelize, Repeat)


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
    found = {
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
        if isinstance(edit.edit, Replace)
        for site, config in zip(edit.sites, edit.configs, strict=True)
    }
    return {site.path: found[site.path] for site in resolved.structure.sites if site.path in found}


def _shares(resolved: ResolvedSpec) -> dict[str, str]:
    """Return path -> the path whose weights it uses, in the base's order. An owner is never a sharer itself."""
    owner: dict[str, str] = {}
    for edit in resolved.edits:
        if isinstance(edit.edit, ShareEdit):
            first, *others = edit.sites
            owner |= {site.path: first.path for site in others}
    order = [site.path for site in resolved.structure.sites if site.path in owner]
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
        entries = tuple(_entries(blocks, edits, resolved.dropped))
        yield Relist(path, len(blocks), shape.width, entries, port.returns)


def _blocks(resolved: ResolvedSpec, group: str) -> list[Site]:
    return [s for s in resolved.structure.sites if s.slot == "block" and s.group == group]


def _entries(blocks: list[Site], edits: list[ResolvedEdit], dropped: frozenset[str]) -> Iterator[Entry]:
    """Yield the entries of the new list. A group stands where its first member stood."""
    parallel, repeats = _parallel(edits, dropped), _repeats(edits)
    for site in blocks:
        index = site.index or 0
        if site.path in dropped:
            continue
        if site.path in parallel:
            if parallel[site.path].members[0] == index:
                yield parallel[site.path]
            continue
        yield Entry("keep", (index,))
        repeat = repeats.get(site.path)
        if repeat:
            yield from [Entry("tie" if repeat.tie else "copy", (index,))] * (repeat.times - 1)


def _parallel(edits: list[ResolvedEdit], dropped: frozenset[str]) -> dict[str, Entry]:
    """Return path -> the entry that the block is a member of; a block is a member of one."""
    found: dict[str, Entry] = {}
    for edit in edits:
        if not isinstance(edit.edit, Parallelize):
            continue
        for group in parallel_groups(edit, dropped):
            members = [site for site in group if site.path not in found]
            entry = Entry("parallel", tuple(site.index or 0 for site in members), edit.edit.merge)
            found |= {site.path: entry for site in members}
    return found


def _repeats(edits: list[ResolvedEdit]) -> dict[str, Repeat]:
    return {site.path: e.edit for e in edits if isinstance(e.edit, Repeat) for site in e.sites}
