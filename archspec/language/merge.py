"""One tree laid over another: what `extends` and the arms of a matrix mean.

Maps merge key by key; lists and scalars of the child replace the parent's; a stanza that the child sets to `none` is
removed. Paths in a spec are relative to its own file, so those that a parent contributes (fields declared with
`path=True`, and values of axes that begin with `./` or `../`) are rewritten relative to the child's folder (`moved`).
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from archspec.language import shapes
from archspec.language.edits import EDITS
from archspec.language.fields import Node
from archspec.language.spec import Spec
from archspec.syntax.tree import Entry, Map, Scalar, Seq, Tree


def is_none(tree: Tree) -> bool:
    return isinstance(tree, Scalar) and tree.text == "none" and not tree.quoted


def merge(parent: Map, child: Map, cls: type[Node] | None = None) -> Map:
    """Return the child over the parent. `cls` is the class of both, where it is known.

    Keys stand in the parent's order, then the child's new ones; the span is the child's.
    """
    merged = {entry.key.value: entry for entry in parent.entries}
    for entry in child.entries:
        below = merged.get(entry.key.value)
        if cls is Spec and is_none(entry.value):
            merged.pop(entry.key.value, None)
        elif below is not None and isinstance(entry.value, Map):
            inner = class_under(cls, str(entry.key.value))
            merged[entry.key.value] = replace(entry, value=over(below.value, entry.value, inner))
        else:
            merged[entry.key.value] = entry
    return Map(tuple(merged.values()), child.span, child.comments)


def over(below: Tree, child: Map, cls: type[Node] | None) -> Map:
    """Merge a map over what the parent has there: `data: digits` counts as `data: {from: digits}`."""
    short = shapes.shorthand(cls) if cls else None
    if isinstance(below, Scalar) and short and isinstance(below.value, str):
        below = Map((Entry(Scalar(short, short, below.span), below),), below.span)
    return merge(below, child, cls) if isinstance(below, Map) else child


def class_under(cls: type[Node] | None, key: str) -> type[Node] | None:
    """Return the class of the node under a key, if there is just one."""
    field = shapes.keys(cls).get(key) if cls else None
    found = list(shapes.nodes(shapes.hints(cls)[field.name])) if cls and field else []
    return found[0] if len(found) == 1 else None


def moved(tree: Map, cls: type[Node], old: Path, new: Path) -> Map:
    """Return the tree with the paths of its path fields made relative to the folder `new` instead of `old`."""
    if old.resolve() == new.resolve():
        return tree
    known = shapes.keys(cls)
    return replace(tree, entries=tuple(_moved_entry(entry, cls, known, old, new) for entry in tree.entries))


def _moved_entry(entry: Entry, cls: type[Node], known: Mapping[str, object], old: Path, new: Path) -> Entry:
    field = known.get(str(entry.key.value))
    if field is None:
        return entry
    if cls is Spec and entry.key.value == "matrix":
        return replace(entry, value=_moved_axes(entry.value, old, new))
    if cls is Spec and entry.key.value == "arms" and isinstance(entry.value, Map):
        arms = (replace(e, value=_moved_value(e.value, [Spec], old, new)) for e in entry.value.entries)
        return replace(entry, value=replace(entry.value, entries=tuple(arms)))
    name, rules = getattr(field, "name"), getattr(field, "metadata")  # noqa: B009
    if rules.get("path"):
        return replace(entry, value=_rebased(entry.value, old, new))
    classes = list(shapes.nodes(shapes.hints(cls)[name]))
    return replace(entry, value=_moved_value(entry.value, classes, old, new)) if classes else entry


def _moved_value(tree: Tree, classes: list[type[Node]], old: Path, new: Path) -> Tree:
    if isinstance(tree, Seq):
        return replace(tree, items=tuple(_moved_value(item, classes, old, new) for item in tree.items))
    cls = edit_class(tree) if len(classes) > 1 else classes[0]
    if cls is None:
        return tree
    if isinstance(tree, Map):
        return moved(tree, cls, old, new)
    short = shapes.shorthand(cls)
    return _rebased(tree, old, new) if short and shapes.keys(cls)[short].metadata.get("path") else tree


def _moved_axes(tree: Tree, old: Path, new: Path) -> Tree:
    """Nothing says which values of an axis are paths but their first letters."""
    match tree:
        case Map():
            return replace(tree, entries=tuple(replace(e, value=_moved_axes(e.value, old, new)) for e in tree.entries))
        case Seq():
            return replace(tree, items=tuple(_moved_axes(item, old, new) for item in tree.items))
        case Scalar():
            is_path = isinstance(tree.value, str) and tree.value.startswith(("./", "../"))
            return _rebased(tree, old, new) if is_path else tree


def edit_class(tree: Tree) -> type[Node] | None:
    verbs = {cls.verb: cls for cls in EDITS}
    written = tuple(tree.keys()) if isinstance(tree, Map) else ()
    return next((verbs[key] for key in written if key in verbs), None)


def _rebased(tree: Tree, old: Path, new: Path) -> Tree:
    """Rewrite a relative path: what begins with `./` or `../`, or exists. Anything else (a hub id, the name of a
    bundled data set) is left."""
    if not isinstance(tree, Scalar) or not isinstance(tree.value, str) or os.path.isabs(tree.value):
        return tree
    if not tree.value.startswith(("./", "../")) and not (old / tree.value).exists():
        return tree
    moved = Path(os.path.relpath((old / tree.value).resolve(), new.resolve())).as_posix()
    moved = moved if moved.startswith("../") else f"./{moved}"
    return replace(tree, value=moved, text=moved, quoted=True)
