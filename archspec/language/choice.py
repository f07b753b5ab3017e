"""Which members of a matrix are meant (`--member op=hyena_x,seed=0`), and which of them a finding is told to be in."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace

from archspec.diagnostics import Collector, Diagnostic, fail, nearest
from archspec.language.matrix import Member, told
from archspec.syntax.tree import Map


def choose(members: Sequence[Member], wanted: str | None, tree: Map) -> Member:
    """Return the one member that is meant. AS813, AS814."""
    found = chosen(members, wanted) if wanted else list(members)
    if len(found) == 1:
        return found[0]
    entry = tree.entry("matrix") or tree.entry("arms")
    what = f"'{wanted}' leaves {len(found)} members" if wanted else f"the spec has {len(members)} members"
    hint = f"choose one: `--member {found[0].id}`; `archspec sweep` does all of them"
    raise fail("AS813", what, entry.key.span if entry else None, hint)


def chosen(members: Sequence[Member], wanted: str) -> list[Member]:
    """Return the members that have the labels `wanted`, never none. AS814."""
    axes = list(members[0].labels) if members else []
    labels = _read(wanted, axes)
    for axis, label in labels.items():
        if axis not in axes:
            hints = nearest(axis, axes) or (f"its axes are {', '.join(axes)}" if axes else "it has no matrix",)
            raise fail("AS814", f"the spec has no axis '{axis}'", None, *hints)
        known = list(dict.fromkeys(member.labels[axis] for member in members))
        if label not in known:
            raise fail("AS814", f"axis '{axis}' has no value '{label}'", None,
                       *(nearest(label, known) or (f"its values are {', '.join(known)}",)))  # fmt: skip
    found = [member for member in members if labels.items() <= member.labels.items()]
    if not found:
        raise fail("AS814", f"no member has {wanted}", None, "the matrix excludes it")
    return found


def _read(wanted: str, axes: Sequence[str]) -> dict[str, str]:
    """Split `op=a,seed=0`; a comma within a label (a selector) is no end of it."""
    found = re.split(r"(?:^|,)\s*(\w+)=(?!=)", wanted)
    if found[0].strip() or len(found) < 3:
        example = f"{axes[0]}=..." if axes else "op=hyena_x,seed=0"
        raise fail("AS814", f"'{wanted}' names no member", None, f"write `--member {example}`")
    return {axis: label.strip() for axis, label in zip(found[1::2], found[2::2], strict=True)}


def merged(findings: Sequence[tuple[Member, Sequence[Diagnostic]]], collector: Collector) -> None:
    """Report what was found of each member, each finding once; what is not true of all says of which."""
    members = [member for member, _ in findings]
    where: dict[Diagnostic, list[Member]] = {}
    for member, found in findings:
        for diagnostic in dict.fromkeys(found):
            where.setdefault(diagnostic, []).append(member)
    for diagnostic, concerned in where.items():
        if len(concerned) < len(members):
            text = concerning(members, concerned)
            diagnostic = replace(diagnostic, message=f"{diagnostic.message}, in {text}")
        collector.add([diagnostic])


def concerning(members: Sequence[Member], concerned: Sequence[Member]) -> str:
    """Name some of the members: by what they have in common where that sets them apart, else the first few."""
    if len(concerned) == 1:
        return f"member {concerned[0].id}"
    common = {axis: tuple(dict.fromkeys(m.labels[axis] for m in concerned)) for axis in members[0].labels}
    for axis in list(common):  # an axis that leaves as many without it says nothing
        rest = {name: found for name, found in common.items() if name != axis}
        if len(_with(members, rest)) == len(concerned):
            common = rest
    if len(_with(members, common)) == len(concerned):
        return f"members {told({axis: ' or '.join(found) for axis, found in common.items()})}"
    more = f" and {len(concerned) - 2} more" if len(concerned) > 2 else ""
    return f"members {concerned[0].id}; {concerned[1].id}{more}"


def _with(members: Sequence[Member], labels: Mapping[str, Sequence[str]]) -> list[Member]:
    return [m for m in members if all(m.labels[axis] in found for axis, found in labels.items())]
