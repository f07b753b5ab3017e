"""Arms: named variants of one spec, such as its controls, each told by what it changes.

An arm is laid over the spec as a child of `extends` would be: maps merge, scalars and lists replace, `none` removes a
stanza. Its `edits` may also be a map: its keys go into every edit that has such a key.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from archspec.diagnostics import Collector, nearest
from archspec.language import shapes
from archspec.language.edits import EDITS
from archspec.language.merge import class_under, edit_class, merge, over
from archspec.language.spec import Spec
from archspec.syntax.tree import Entry, Map, Scalar, Seq, Tree

ARMS, ARM = "arms", "arm"
"""The key of a spec, and the axis that it makes."""
FIXED = ("archspec", "extends", "matrix", ARMS)
"""What an arm cannot change."""


def arms_of(entry: Entry, collector: Collector) -> Mapping[str, Tree]:
    """Return the name and the overrides of each arm."""
    if not isinstance(entry.value, Map) or not entry.value.entries:
        hint = "for example `arms: {ours: {}, control: {distill: none}}`"
        collector.report("AS186", "arms are a map from names to what they change", entry.value.span, hint)
        return {}
    return {str(arm.key.value): _checked(arm, collector) for arm in entry.value.entries}


def _checked(arm: Entry, collector: Collector) -> Tree:
    name, tree = str(arm.key.value), arm.value
    if isinstance(tree, Scalar) and tree.value is None:
        return Map((), tree.span)
    if not isinstance(tree, Map):
        hint = "write `{}` for the spec as it stands"
        collector.report("AS186", f"arm '{name}' is a map of what it changes", tree.span, hint)
        return tree
    for entry in tree.entries:
        key = str(entry.key.value)
        if key in FIXED:
            collector.report("AS186", f"an arm cannot change '{key}'", entry.key.span, "change it for all arms")
    return tree


def under_arm(tree: Map, arm: Map, collector: Collector) -> Map:
    """Return the spec's tree with an arm laid over it."""
    edits, mine = arm.entry("edits"), tree.entry("edits")
    if edits is None or not isinstance(edits.value, Map):
        return merge(tree, arm, Spec)
    items = mine.value.items if mine and isinstance(mine.value, Seq) else ()
    done = tuple(_edited(item, edits.value) for item in items)
    for entry in edits.value.entries:
        _check_taken(entry, items, collector)
    rest = replace(arm, entries=tuple(e for e in arm.entries if e is not edits))
    merged = merge(tree, rest, Spec)
    if mine is None or not isinstance(mine.value, Seq):
        return merged
    changed = replace(mine, value=replace(mine.value, items=done))
    return replace(merged, entries=tuple(changed if e.key.value == "edits" else e for e in merged.entries))


def _edited(item: Tree, change: Map) -> Tree:
    """Return an edit with those of the changes that it has a key for."""
    cls = edit_class(item)
    if cls is None or not isinstance(item, Map):
        return item
    known = shapes.keys(cls)
    entries = {e.key.value: e for e in item.entries}
    for entry in change.entries:
        key = str(entry.key.value)
        if key in known:
            below, value = entries.get(key), entry.value
            if below is not None and isinstance(value, Map):
                value = over(below.value, value, class_under(cls, key))
            entries[key] = replace(entry, value=value)
    return replace(item, entries=tuple(entries.values()))


def _check_taken(entry: Entry, items: tuple[Tree, ...], collector: Collector) -> None:
    key = str(entry.key.value)
    classes = [cls for cls in map(edit_class, items) if cls is not None]
    if classes and not any(key in shapes.keys(cls) for cls in classes):
        known = list(dict.fromkeys(k for cls in classes for k in shapes.keys(cls)))
        every = [k for cls in EDITS for k in shapes.keys(cls)]
        hints = nearest(key, known) or nearest(key, every) or (f"their keys are {', '.join(known)}",)
        collector.report("AS187", f"no edit has a key '{key}'", entry.key.span, *hints)
