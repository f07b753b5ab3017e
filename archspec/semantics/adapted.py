"""Which sites get low-rank additions: `finetune.lora.targets`, said by slots or by selectors."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from archspec.diagnostics import ArchspecError, Collector
from archspec.host.structure import Site, Structure
from archspec.language.selectors import Selector, bare_name, select
from archspec.language.stages import Lora

SLOTS = ("attn", "cross_attn", "mlp")
"""Slots that hold linear maps, and may stand for all of their sites."""
BARREN = frozenset({"norm", "block"})


def adapted_sites(
    lora: Lora, structure: Structure, lets: Mapping[str, Selector], problems: Collector
) -> tuple[Site, ...]:
    """Return the sites of all targets, in the host's order; a block stands for its attentions and MLPs.

    AS321 for a target without linear maps. Nothing is said of a host whose sites are not known.
    """
    if not lora.targets:
        return _known(structure, SLOTS)
    found = {site.path for target in lora.targets for site in _sites(target, structure, lets, problems)}
    return tuple(site for site in structure.sites if site.path in found)


def _known(structure: Structure, roles: Iterable[str]) -> tuple[Site, ...]:
    return tuple(site for site in structure.sites if site.role in roles)


def _sites(
    target: Selector, structure: Structure, lets: Mapping[str, Selector], problems: Collector
) -> tuple[Site, ...]:
    name = bare_name(target)
    if name in SLOTS and name not in lets:
        found = _known(structure, (name,))
        if structure.sites and not found:
            there = ", ".join(sorted({site.role for site in structure.sites}.intersection(SLOTS)))
            hint = f"write one of {there}" if there else "leave lora out: no site of this host is known to hold maps"
            problems.report("AS321", f"the host has no {name} that lora could add to", target.span, hint)
        return found
    try:
        selected = select(target, structure, lets)
    except ArchspecError as error:
        problems.add(error.diagnostics)
        return ()
    return _inside(selected, structure, target, problems)


def _inside(selected: Iterable[Site], structure: Structure, target: Selector, problems: Collector) -> tuple[Site, ...]:
    """Return the sites with linear maps of what was selected."""
    found: list[Site] = []
    for site in selected:
        own = structure.children(site) if site.slot == "block" else (site,)
        maps = [each for each in own if each.slot not in BARREN]
        if not maps:
            message = f"lora adds to linear maps, and {site.name} holds none that is known"
            problems.report("AS321", message, target.span, "name attentions, MLPs, or blocks that have them")
            break
        found += maps
    return tuple(found)
