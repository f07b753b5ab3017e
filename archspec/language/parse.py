"""From a file to a Spec: reading, the choice of the spelling, `extends`.

`extends` works on syntax trees. Maps merge key by key; lists and scalars of the child replace the parent's; a stanza
that the child sets to `none` is removed. A parent may be written in the other spelling, and may extend a third. Paths
in a spec are relative to its own file, so those that a parent contributes (fields declared with `path=True`) are
rewritten relative to the child's folder while merging: what reads the merged spec needs to know one folder only.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from archspec.diagnostics import Collector, fail, nearest
from archspec.language import shapes
from archspec.language.fields import Node
from archspec.language.partial import Partial, build_spec
from archspec.language.spec import EDITS, Spec
from archspec.source import Source, Span
from archspec.syntax.dsl_syntax import parse_dsl
from archspec.syntax.tree import Entry, Map, Scalar, Seq, Tree
from archspec.syntax.yaml_syntax import MAX_SIZE, parse_yaml

YAML, DSL = (".yaml", ".yml"), (".arch",)
MAX_CHAIN = 16
"""Longest chain of `extends`."""


def load(path: str | Path) -> Spec:
    """Read a spec file with all that it extends. Raises ArchspecError."""
    return _spec(load_tree(path))


def load_source(source: Source) -> Spec:
    """Parse a text with all that it extends; its paths start at the folder of its name. Raises ArchspecError."""
    return _spec(_extended(parse_tree(source), Path(source.name), ()))


def load_partial(of: Path | Source, collector: Collector) -> Partial:
    """Build what can be built of a file or a text; its mistakes are reported. Raises ArchspecError when there is no
    syntax tree: a mistake in the syntax, or an `extends` that cannot be followed."""
    tree = load_tree(of) if isinstance(of, Path) else _extended(parse_tree(of), Path(of.name), ())
    return build_spec(tree, collector)


def parse(source: Source) -> Spec:
    """Parse one text, its syntax told by the suffix of its name; `extends` is not followed. Raises ArchspecError."""
    return _spec(parse_tree(source))


def load_tree(path: str | Path) -> Map:
    """Return the syntax tree of a spec file, merged with what it extends. Raises ArchspecError."""
    return _extended(parse_tree(read_source(path)), Path(path), ())


def parse_tree(source: Source) -> Map:
    """Return the syntax tree of a text, its syntax told by the suffix of its name. Raises ArchspecError."""
    suffix = Path(source.name).suffix.lower()
    if suffix in YAML:
        return parse_yaml(source)
    if suffix in DSL:
        return parse_dsl(source)
    hints = nearest(suffix, (*YAML, *DSL)) or ("specs end in .yaml, .yml or .arch",)
    raise fail("AS104", f"'{source.name}' is no spec by its suffix", None, *hints)


def read_source(path: str | Path, wanted_at: Span | None = None) -> Source:
    """Read a file; `wanted_at` is where a spec names it. Raises ArchspecError."""
    name = os.fspath(path)
    try:
        with open(path, "rb") as file:
            content = file.read(4 * MAX_SIZE + 1)
    except FileNotFoundError:
        raise fail("AS101", f"no file '{name}'", wanted_at, *_neighbour(Path(path))) from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise fail("AS101", f"cannot read '{name}': {reason}", wanted_at) from None
    if len(content) > 4 * MAX_SIZE:
        raise fail("AS103", f"'{name}' has more than {MAX_SIZE // 1024**2} MiB", wanted_at)
    try:
        return Source(name, content.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        before = Source(name, content[: error.start].decode("utf-8", "replace") + "\ufffd")
        at = before.span(len(before.text) - 1, len(before.text))
        raise fail("AS102", f"byte {error.start} of '{name}' is not UTF-8", at, "save the file as UTF-8") from None


def _neighbour(path: Path) -> tuple[str, ...]:
    try:
        names = [entry.name for entry in path.parent.iterdir()]
    except OSError:
        return ()
    return nearest(path.name, names)


def _spec(tree: Map) -> Spec:
    collector = Collector()
    partial = build_spec(tree, collector)
    collector.raise_if_errors()
    return partial.spec


def _extended(tree: Map, path: Path, children: tuple[Path, ...]) -> Map:
    """Return `tree`, the spec at `path`, merged with its ancestors. `children` are the specs that led to it."""
    entry = tree.entry("extends")
    if entry is None or not isinstance(entry.value, Scalar) or not isinstance(entry.value.value, str):
        return _without_none(tree)
    if entry.value.value == "none" and not entry.value.quoted:
        return _without_none(tree)
    span = entry.value.span
    target = path.parent / entry.value.value
    chain = (*children, path.resolve())
    if target.resolve() in chain:
        names = [_short(p, path) for p in (*chain[chain.index(target.resolve()) :], target.resolve())]
        raise fail("AS151", f"specs extend each other in a circle: {' -> '.join(names)}", span)
    if len(chain) > MAX_CHAIN:
        raise fail("AS152", f"more than {MAX_CHAIN} specs extend each other", span)
    parent = _extended(parse_tree(read_source(target, span)), target, chain)
    return merge(_moved(parent, Spec, target.parent, path.parent), tree, Spec)


def _short(path: Path, near: Path) -> str:
    return os.path.relpath(path, near.resolve().parent)


def _without_none(tree: Map) -> Map:
    """Leave out the stanzas that are `none`."""
    return replace(tree, entries=tuple(entry for entry in tree.entries if not _is_none(entry.value)))


def _is_none(tree: Tree) -> bool:
    return isinstance(tree, Scalar) and tree.text == "none" and not tree.quoted


def merge(parent: Map, child: Map, cls: type[Node] | None = None) -> Map:
    """Return the child over the parent. `cls` is the class of both, where it is known.

    Keys stand in the parent's order, then the child's new ones; the span is the child's.
    """
    merged = {entry.key.value: entry for entry in parent.entries}
    for entry in child.entries:
        below = merged.get(entry.key.value)
        if cls is Spec and _is_none(entry.value):
            merged.pop(entry.key.value, None)
        elif below is not None and isinstance(entry.value, Map):
            inner = _class(cls, str(entry.key.value))
            merged[entry.key.value] = replace(entry, value=_over(below.value, entry.value, inner))
        else:
            merged[entry.key.value] = entry
    return Map(tuple(merged.values()), child.span, child.comments)


def _over(below: Tree, child: Map, cls: type[Node] | None) -> Map:
    """Merge a map over what the parent has there: `data: digits` counts as `data: {from: digits}`."""
    short = shapes.shorthand(cls) if cls else None
    if isinstance(below, Scalar) and short and isinstance(below.value, str):
        below = Map((Entry(Scalar(short, short, below.span), below),), below.span)
    return merge(below, child, cls) if isinstance(below, Map) else child


def _class(cls: type[Node] | None, key: str) -> type[Node] | None:
    """Return the class of the node under a key, if there is just one."""
    field = shapes.keys(cls).get(key) if cls else None
    found = list(shapes.nodes(shapes.hints(cls)[field.name])) if cls and field else []
    return found[0] if len(found) == 1 else None


def _moved(tree: Map, cls: type[Node], old: Path, new: Path) -> Map:
    """Return the tree with the paths of its path fields made relative to the folder `new` instead of `old`."""
    if old.resolve() == new.resolve():
        return tree
    known = shapes.keys(cls)
    return replace(tree, entries=tuple(_moved_entry(entry, cls, known, old, new) for entry in tree.entries))


def _moved_entry(entry: Entry, cls: type[Node], known: Mapping[str, object], old: Path, new: Path) -> Entry:
    field = known.get(str(entry.key.value))
    if field is None:
        return entry
    name, rules = getattr(field, "name"), getattr(field, "metadata")  # noqa: B009
    if rules.get("path"):
        return replace(entry, value=_rebased(entry.value, old, new))
    classes = list(shapes.nodes(shapes.hints(cls)[name]))
    return replace(entry, value=_moved_value(entry.value, classes, old, new)) if classes else entry


def _moved_value(tree: Tree, classes: list[type[Node]], old: Path, new: Path) -> Tree:
    if isinstance(tree, Seq):
        return replace(tree, items=tuple(_moved_value(item, classes, old, new) for item in tree.items))
    cls = _edit_class(tree) if len(classes) > 1 else classes[0]
    if cls is None:
        return tree
    if isinstance(tree, Map):
        return _moved(tree, cls, old, new)
    short = shapes.shorthand(cls)
    return _rebased(tree, old, new) if short and shapes.keys(cls)[short].metadata.get("path") else tree


def _edit_class(tree: Tree) -> type[Node] | None:
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
