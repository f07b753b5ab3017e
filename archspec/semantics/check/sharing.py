"""`share`: one set of weights can serve several sites only if they are alike, and stay alike.

Alike means: of one slot, of one shape, with tensors of the same shapes in the base. Stay alike means: every edit that
puts an operator into one of them, or into a part of one, puts the same into all of them; otherwise sharing would undo
it.
"""

from __future__ import annotations

from collections.abc import Mapping

from archspec.diagnostics import Collector, Label, Severity
from archspec.host.structure import Site, Structure
from archspec.language.edits import Replace, Share
from archspec.semantics.check.places import listed, target_span
from archspec.semantics.layout import base_shapes
from archspec.semantics.resolve import ResolvedEdit, ResolvedSpec

Inside = Mapping[str, object]
"""Path below a site ("" for itself) -> what stands there."""


def shared_sites_are_alike(resolved: ResolvedSpec, collector: Collector) -> None:
    """Report every `share` of sites that cannot use one set of weights."""
    for edit in resolved.edits:
        if isinstance(edit.edit, Share):
            _check(edit, resolved, collector)


def _check(edit: ResolvedEdit, resolved: ResolvedSpec, collector: Collector) -> None:
    leader, *followers = edit.sites
    if not followers:
        message = f"{leader.name} alone is shared with nothing"
        collector.report("AS254", message, target_span(edit), "select all sites that share", severity=Severity.WARNING)
        return
    if leader.port.foreign:
        message = f"{leader.name} has no output map of its own that it could share"
        hint = "share the blocks, or replace it by an operator and share nothing"
        collector.report("AS257", message, target_span(edit), hint)
        return
    reasons = ((site, _difference(leader, site, resolved.structure)) for site in followers)
    different = {site: reason for site, reason in reasons if reason}
    if different:
        message = f"{listed([*different])} cannot share with {leader.name}: {next(iter(different.values()))}"
        collector.report("AS257", message, target_span(edit), "select sites of one slot and one shape")
        return
    _check_operators(edit, resolved, collector)


def _difference(leader: Site, site: Site, structure: Structure) -> str:
    """Return how a site differs from the one whose weights it would use, an empty text if it does not."""
    if site.slot != leader.slot:
        return f"its slot is '{site.slot}', not '{leader.slot}'"
    if site.shape.width != leader.shape.width:
        return f"its width is {site.shape.width}, not {leader.shape.width}"
    if site.shape != leader.shape:
        return "their shapes differ"
    if site.port != leader.port:
        return "they do not carry the same streams"
    if _tensors(site, structure) != _tensors(leader, structure):
        return "their tensors differ"
    return ""


def _tensors(site: Site, structure: Structure) -> Inside:
    prefix = f"{site.path}."
    shapes = base_shapes(structure) or {}
    return {name.removeprefix(prefix): shape for name, shape in shapes.items() if name.startswith(prefix)}


def _check_operators(edit: ResolvedEdit, resolved: ResolvedSpec, collector: Collector) -> None:
    """Report the replacement that sharing would undo, or make without being asked."""
    if resolved.gaps.has("replace"):
        return  # the missing ones may put the same into all
    leader = edit.sites[0]
    wanted = _operators(leader, resolved)
    unlike = [site for site in edit.sites if _operators(site, resolved) != wanted]
    if not unlike:
        return
    replace = next((e for e in resolved.edits if isinstance(e.edit, Replace) and _touches(e, [leader, *unlike])), None)
    span = target_span(replace) if replace else None
    collector.report(
        "AS255",
        f"{listed(unlike)} would lose {'their' if len(unlike) > 1 else 'its'} operator to that of {leader.name}",
        target_span(edit),
        "replace all shared sites by the same operator, or share fewer",
        related=(Label(span, "replaced here"),) if span else (),
    )


def _operators(site: Site, resolved: ResolvedSpec) -> Inside:
    """Return what the spec puts into a site and its parts."""
    return {
        place.path.removeprefix(site.path): (config.name, config)
        for edit in resolved.edits
        if isinstance(edit.edit, Replace)
        for place, config in zip(edit.sites, edit.configs, strict=True)
        if _within(place, site)
    }


def _touches(edit: ResolvedEdit, sites: list[Site]) -> bool:
    return any(_within(place, site) for place in edit.sites for site in sites)


def _within(place: Site, site: Site) -> bool:
    return place.path == site.path or place.path.startswith(f"{site.path}.")
