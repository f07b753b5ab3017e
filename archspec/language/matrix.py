"""The matrix: one spec that stands for many, its *members*.

    matrix: {op: [hyena_x, local_attention], seed: [0, 1], exclude: [{op: hyena_x, seed: 1}]}
    arms: {ours: {}, control: {edits: {init: random}, distill: none}}

`expand(tree, collector)` returns a member for every combination of the values of the axes and of the arms. Arms are an
axis too, called `arm`, whose values are laid over the spec as a child of `extends` would be. A member's tree has
neither matrix nor arms nor holes: it is a spec like any other, and its spans are those of the user's text.

A value of an axis is called by its label: its name, where the axis is a map of names, else its text.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice, product
from math import prod

from archspec.diagnostics import Collector, nearest
from archspec.language.arms import ARM, ARMS, arms_of, under_arm
from archspec.language.holes import filled, holes
from archspec.source import Span
from archspec.syntax.tree import Entry, Map, Scalar, Seq, Tree

MATRIX = "matrix"
MOST = 4096
"""Most members of one spec: more than anybody compiles, few enough to list."""
LISTS = ("exclude", "include")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_PLAIN = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.]*")


@dataclass(frozen=True)
class Axis:
    """`values`: label -> value."""

    name: str
    values: Mapping[str, Tree]
    span: Span


@dataclass(frozen=True)
class Member:
    """One spec of a matrix; of a spec without one, the spec itself. `labels`: axis -> label of its value."""

    tree: Map
    labels: Mapping[str, str] = field(default_factory=dict)
    slug: str = ""
    """The labels as a name for folders."""

    @property
    def id(self) -> str:
        return told(self.labels)


def told(labels: Mapping[str, str]) -> str:
    """Return labels as `--member` takes them.

    >>> told({"op": "hyena_x", "seed": "0"})
    'op=hyena_x,seed=0'
    """
    return ",".join(f"{axis}={label}" for axis, label in labels.items())


def has_members(tree: Map) -> bool:
    return any(tree.entry(key) is not None for key in (MATRIX, ARMS))


def expand(tree: Map, collector: Collector) -> tuple[Member, ...]:
    """Return the members of a merged tree, in the order of the product; none after a report to the collector."""
    found = Collector()
    axes = [*_axes(tree, found), *arms_axis(tree, found)]
    bare = replace(tree, entries=tuple(e for e in tree.entries if e.key.value not in (MATRIX, ARMS)))
    _check_holes(bare, tree, axes, found)
    picks = _picks(tree, axes, found)
    members = [] if found.has_errors else [_member(bare, axes, pick, found) for pick in picks]
    collector.add(found)
    return () if found.has_errors else tuple(members)


def arms_axis(tree: Map, collector: Collector) -> Iterator[Axis]:
    entry = tree.entry(ARMS)
    if entry is not None:
        yield Axis(ARM, arms_of(entry, collector), entry.key.span)


def _axes(tree: Map, collector: Collector) -> Iterator[Axis]:
    entry = tree.entry(MATRIX)
    if entry is None:
        return
    if not isinstance(entry.value, Map) or not entry.value.entries:
        hint = "for example `matrix: {seed: [0, 1, 2]}`"
        collector.report("AS180", "a matrix is a map of axes", entry.value.span, hint)
        return
    for axis in entry.value.entries:
        name = str(axis.key.value)
        if name in LISTS:
            continue
        if not _NAME.fullmatch(name) or name == ARM:
            hint = "`arms` has its values" if name == ARM else "names are letters, digits and '_'"
            collector.report("AS180", f"'{name}' cannot name an axis", axis.key.span, hint)
        yield Axis(name, dict(_values(axis, collector)), axis.key.span)


def _values(axis: Entry, collector: Collector) -> Iterator[tuple[str, Tree]]:
    """Yield (label, value) of a list of values, or of a map of named ones."""
    name, tree = str(axis.key.value), axis.value
    if not isinstance(tree, Map | Seq) or not (tree.entries if isinstance(tree, Map) else tree.items):
        hint = f"write `{name}: [a, b]`, or named values: `{name}: {{first: a, second: b}}`"
        collector.report("AS180", f"axis '{name}' is a list of values", tree.span, hint)
        return
    if isinstance(tree, Map):
        yield from ((str(entry.key.value), entry.value) for entry in tree.entries)
        return
    seen: dict[str, Tree] = {}
    for number, item in enumerate(tree.items, 1):
        label = item.text if isinstance(item, Scalar) else str(number)
        if label in seen:
            collector.report("AS181", f"axis '{name}' has the value '{label}' twice", item.span, "write it once")
        seen.setdefault(label, item)
    yield from seen.items()


def _check_holes(bare: Map, tree: Map, axes: Sequence[Axis], collector: Collector) -> None:
    """Every hole is of an axis, and every axis has a hole. An arm may have holes; the values of an axis none."""
    arms = tree.entry(ARMS)
    matrix = tree.entry(MATRIX)
    names = [axis.name for axis in axes if axis.name != ARM]
    used = [*holes(bare), *(holes(arms.value) if arms else ())]
    for hole in used:
        if hole.name not in (*names, ARM if arms else ""):
            known = f"its axes are {', '.join(names)}" if names else "the spec has no matrix; `$$` is a dollar"
            hints = nearest(hole.name, names) or (known,)
            collector.report("AS183", f"'${hole.name}' is no axis of the matrix", hole.span, *hints)
    for hole in holes(matrix.value) if matrix else ():
        collector.report("AS183", "the value of an axis cannot use another axis", hole.span, "write the value itself")
    for axis in axes:
        if axis.name != ARM and axis.name not in {hole.name for hole in used}:
            hint = f"write `${axis.name}` where its values belong, or remove the axis"
            collector.report("AS182", f"axis '{axis.name}' is never used", axis.span, hint)


Pick = dict[str, str]
"""Axis -> label."""


def _picks(tree: Map, axes: list[Axis], collector: Collector) -> list[Pick]:
    """Return the combinations: the product, without what is excluded, with what is included. `include` may bring new
    values: `axes` then has them."""
    entry = tree.entry(MATRIX)
    matrix = entry.value if entry and isinstance(entry.value, Map) else None
    picks = [dict(zip([a.name for a in axes], labels, strict=True)) for labels in _product(axes)]
    for one in _entries(matrix, "exclude", axes, collector):
        wanted = _labels(one, axes, collector, new=False)
        left = [pick for pick in picks if not wanted.items() <= pick.items()]
        if wanted and len(left) == len(picks) <= MOST:
            collector.report("AS184", "this excludes no member", one.span, "another entry, or none, has them")
        picks = left if wanted else picks
    for one in _entries(matrix, "include", axes, collector):
        through = list(axes)
        wanted = _labels(one, axes, collector, new=True)
        more = [{**dict(zip([a.name for a in through], ls, strict=True)), **wanted} for ls in _product(through)]
        picks += [pick for pick in _unique(more) if pick not in picks]
    span = entry.key.span if entry else axes[0].span if axes else None
    if len(picks) > MOST:
        made = prod(len(axis.values) for axis in axes)
        message = f"the matrix has more than {MOST} members: its axes make {made:,}"
        collector.report("AS185", message, span, "leave out values, or an axis")
    if not picks and not collector.has_errors:
        collector.report("AS185", "the matrix has no member left", span, "exclude less")
    return picks


def _product(axes: Sequence[Axis]) -> Iterator[tuple[str, ...]]:
    return islice(product(*(axis.values for axis in axes)), MOST + 1)


def _unique(picks: Iterable[Pick]) -> list[Pick]:
    return [dict(items) for items in dict.fromkeys(tuple(pick.items()) for pick in picks)]


def _entries(matrix: Map | None, key: str, axes: Sequence[Axis], collector: Collector) -> Iterator[Map]:
    entry = matrix.entry(key) if matrix else None
    items = entry.value.items if entry and isinstance(entry.value, Seq) else () if entry is None else (entry.value,)
    for item in items:
        if isinstance(item, Map) and item.entries:
            yield item
        else:
            hint = f"for example `{key}: [{{{axes[0].name if axes else 'op'}: ...}}]`"
            collector.report("AS184", f"'{key}' is a list of maps from axes to values", item.span, hint)


def _labels(one: Map, axes: list[Axis], collector: Collector, *, new: bool) -> Pick:
    """Return axis -> label of an entry. `new`: a value that its axis has not is added to it."""
    found: Pick = {}
    for entry in one.entries:
        name = str(entry.key.value)
        number = next((k for k, axis in enumerate(axes) if axis.name == name), None)
        if number is None:
            hints = nearest(name, [a.name for a in axes]) or (f"axes are {', '.join(a.name for a in axes)}",)
            collector.report("AS184", f"'{name}' is no axis of the matrix", entry.key.span, *hints)
            continue
        axis, value = axes[number], entry.value
        label = value.text if isinstance(value, Scalar) else str(len(axis.values) + 1)
        if label not in axis.values and (not new or name == ARM):
            hints = nearest(label, axis.values) or (f"its values are {', '.join(axis.values)}",)
            collector.report("AS184", f"axis '{name}' has no value '{label}'", value.span, *hints)
            continue
        if label not in axis.values:
            axes[number] = replace(axis, values={**axis.values, label: value})
        found[name] = label
    return found


def _member(bare: Map, axes: Sequence[Axis], pick: Pick, collector: Collector) -> Member:
    values = {axis.name: axis.values[pick[axis.name]] for axis in axes}
    arm = values.get(ARM)
    tree = under_arm(bare, arm, collector) if isinstance(arm, Map) else bare
    slug = "-".join(f"{axis.name}-{_slug(axis, pick[axis.name])}" for axis in axes)
    if ARM in values:
        values[ARM] = Scalar(pick[ARM], pick[ARM], values[ARM].span)
    done = filled(_named(tree, slug), values)
    assert isinstance(done, Map)
    return Member(done, pick, slug)


def _slug(axis: Axis, label: str) -> str:
    """Return a label as part of a name; where an axis has labels that cannot be, its numbers from 1."""
    if all(_PLAIN.fullmatch(one) and not one.endswith(".") and ".." not in one for one in axis.values):
        return label
    return str(list(axis.values).index(label) + 1)


def _named(tree: Map, slug: str) -> Map:
    """Put what sets the member apart behind its name, unless the name has holes of its own."""
    entry = tree.entry("name")
    if not slug or entry is None or not isinstance(entry.value, Scalar) or "$" in entry.value.text:
        return tree
    text = f"{entry.value.text}-{slug}"
    named = replace(entry, value=replace(entry.value, value=text, text=text))
    return replace(tree, entries=tuple(named if e is entry else e for e in tree.entries))
