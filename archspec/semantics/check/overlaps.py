"""Edits of one spec must not contradict one another.

Order never decides: a spec in which one edit undoes part of another is almost always a mistake in a selector, so it
is an error at the later edit with the earlier one shown. `RULES` is the table; a pair of edits is reported once, with
the sites it concerns, and a site once per edit. Side by side are allowed: `parallelize` skips dropped blocks, and a
replaced block may run in parallel or again.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from archspec.diagnostics import Collector, Label, Severity
from archspec.families import FAMILIES
from archspec.host.structure import Site
from archspec.language.edits import Drop, Freeze, Insert, Parallelize, Repeat, Replace, Share, Skip
from archspec.semantics.check.places import above, listed, target_span, without
from archspec.semantics.resolve import ResolvedEdit, ResolvedSpec


@dataclass(frozen=True)
class Rule:
    """Two edits that meet at one site; `inside`: the second's site lies within the first's."""

    first: tuple[type, ...]
    second: tuple[type, ...]
    code: str
    message: str
    label: str
    hint: str
    same: bool = True
    inside: bool = False
    severity: Severity = Severity.ERROR


RULES: tuple[Rule, ...] = (
    Rule(
        (Replace,), (Replace,), "AS250", "{sites} replaced twice", "replaced here", "write `{outer}` in the first edit"
    ),
    Rule(
        (Drop,),
        (Replace, Repeat, Share, Insert, Skip, Freeze),
        "AS251",
        "{sites} edited, but its block is dropped",
        "dropped here",
        "write `{inner}`",
        inside=True,
    ),
    Rule(
        (Replace,),
        (Replace, Share, Freeze),
        "AS252",
        "{sites} edited within a block that is replaced as a whole",
        "replaced here",
        "edit the block or its parts, not both",
        same=False,
        inside=True,
    ),
    Rule(
        (Parallelize, Repeat, Insert),
        (Parallelize, Repeat, Insert),
        "AS253",
        "{sites} rearranged twice",
        "rearranged here",
        "a block can run in one parallel group, or again, or have one operator behind it",
    ),
    Rule(
        (Skip,),
        (Parallelize, Repeat, Skip),
        "AS253",
        "{sites} rearranged twice",
        "rearranged here",
        "a skip leaves from and ends in blocks that no other edit rearranges",
    ),
    Rule((Share,), (Share,), "AS256", "{sites} shared twice", "shared here", "name all that share in one edit"),
    Rule((Drop,), (Drop,), "AS254", "{sites} dropped twice", "dropped here", "", severity=Severity.WARNING),
    Rule(
        (Freeze,), (Freeze,), "AS254", "{sites} frozen twice", "frozen here", "", severity=Severity.WARNING, inside=True
    ),
)


def edits_agree(resolved: ResolvedSpec, collector: Collector) -> None:
    """Report every pair of edits that meet at a site and contradict or repeat one another."""
    clashes: dict[tuple[int, int, int], list[Site]] = {}
    told: set[tuple[int, int, str]] = set()
    for outer, inner, site, same in _meetings(resolved):
        for number, rule in enumerate(RULES):
            if (number, inner, site.path) not in told and _applies(rule, resolved, outer, inner, same):
                told.add((number, inner, site.path))
                clashes.setdefault((number, outer, inner), []).append(site)
    for (number, outer, inner), sites in clashes.items():
        _report(RULES[number], resolved.edits[outer], resolved.edits[inner], sites, collector)


def _meetings(resolved: ResolvedSpec) -> Iterator[tuple[int, int, Site, bool]]:
    """Yield (outer, inner, site, same): edit `inner` names a site that `outer` names (same), or one within it."""
    edits_at: dict[str, list[int]] = {}
    for number, edit in enumerate(resolved.edits):
        for site in (*edit.sites, *edit.targets):
            edits_at.setdefault(site.path, []).append(number)
    for number, edit in enumerate(resolved.edits):
        for site in (*edit.sites, *edit.targets):
            for path in (site.path, *above(site.path)):
                yield from ((other, number, site, path == site.path) for other in edits_at.get(path, ()))


def _applies(rule: Rule, resolved: ResolvedSpec, outer: int, inner: int, same: bool) -> bool:
    """Whether a rule speaks of two edits. Of two alike at the same site, the later one is blamed."""
    first, second = resolved.edits[outer].edit, resolved.edits[inner].edit
    if not isinstance(first, rule.first) or not isinstance(second, rule.second):
        return False
    if not same:
        return rule.inside and (outer != inner or isinstance(first, Replace))
    symmetric = isinstance(first, rule.second) and isinstance(second, rule.first)
    return rule.same and outer != inner and (not symmetric or outer < inner)


def _report(rule: Rule, outer: ResolvedEdit, inner: ResolvedEdit, sites: list[Site], collector: Collector) -> None:
    named = listed(sites)
    message = rule.message.format(sites=f"{named} {'is' if len(sites) == 1 else 'are'}")
    hint = _hint(rule, outer, inner, sites)
    first = target_span(outer)
    related = (Label(first, rule.label),) if first else ()
    hints = (hint,) if hint else ()
    collector.report(rule.code, message, target_span(inner), *hints, related=related, severity=rule.severity)


def _hint(rule: Rule, outer: ResolvedEdit, inner: ResolvedEdit, sites: list[Site]) -> str:
    """Return the rule's hint with the selector that would leave the sites out; none is left of all of them."""
    narrowed = outer if "{outer}" in rule.hint else inner if "{inner}" in rule.hint else None
    if narrowed and len(sites) == len(narrowed.sites):
        return "leave one of the two edits out"
    return rule.hint.format(outer=without(outer.edit.target.text, sites), inner=without(inner.edit.target.text, sites))


def outer_parts_stay(resolved: ResolvedSpec, collector: Collector) -> None:
    """Report blocks that are taken away although the host reads a part of them from outside."""
    family = FAMILIES.get(resolved.structure.family)
    for edit in resolved.edits if family else ():
        for part in family.outside if family and isinstance(edit.edit, Drop | Replace) else ():
            site = next((site for site in edit.sites if part.startswith(f"{site.path}.")), None)
            if site:
                name = part.removeprefix(f"{site.path}.")
                message = f"{site.name} cannot be taken away: the host reads its '{name}' elsewhere as well"
                collector.report("AS503", message, target_span(edit), "leave this one out of the selection")
