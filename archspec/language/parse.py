"""From a file to a Spec: reading, the choice of the spelling, `extends`.

`extends` works on syntax trees (`archspec.language.merge`). A parent may be written in the other spelling, and may
extend a third. What a parent contributes has its paths rewritten relative to the child's folder: what reads the merged
spec needs to know one folder only. A merged tree with a matrix is several specs (`archspec.language.matrix`): whoever
wants one of them says which.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from archspec.diagnostics import Collector, fail, nearest
from archspec.language.choice import choose
from archspec.language.matrix import Member, expand
from archspec.language.merge import is_none, merge, moved
from archspec.language.partial import build_spec
from archspec.language.spec import Spec
from archspec.source import Source, Span
from archspec.syntax.dsl_syntax import parse_dsl
from archspec.syntax.tree import Map, Scalar
from archspec.syntax.yaml_syntax import MAX_SIZE, parse_yaml

YAML, DSL = (".yaml", ".yml"), (".arch",)
MAX_CHAIN = 16
"""Longest chain of `extends`."""


def load(path: str | Path, member: str | None = None) -> Spec:
    """Read a spec file with all that it extends. `member` names one of its matrix. Raises ArchspecError."""
    return _spec(load_tree(path), member)


def load_source(source: Source, member: str | None = None) -> Spec:
    """Parse a text with all that it extends; its paths start at the folder of its name. Raises ArchspecError."""
    return _spec(_extended(parse_tree(source), Path(source.name), ()), member)


def load_members(of: str | Path | Source, collector: Collector) -> tuple[Member, ...]:
    """Return the members of a file or a text, none after a report of what is wrong with its matrix: one, the spec
    itself, where it has none. Raises ArchspecError when there is no syntax tree: a mistake in the syntax, or an
    `extends` that cannot be followed."""
    tree = _extended(parse_tree(of), Path(of.name), ()) if isinstance(of, Source) else load_tree(of)
    return expand(tree, collector)


def parse(source: Source) -> Spec:
    """Parse one text, its syntax told by the suffix of its name; `extends` is not followed. Raises ArchspecError."""
    return _spec(parse_tree(source))


def load_tree(path: str | Path) -> Map:
    """Return the syntax tree of a spec file, merged with what it extends. Raises ArchspecError."""
    return _extended(parse_tree(read_source(path)), Path(path), ())


def files_of(path: Path) -> Iterator[Path]:
    """Yield a spec file that was loaded, and those that it extends."""
    yield path
    named = _extends(parse_tree(read_source(path)))
    if named is not None:
        yield from files_of(path.parent / str(named.value))


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


def _spec(tree: Map, member: str | None = None) -> Spec:
    collector = Collector()
    members = expand(tree, collector)
    collector.raise_if_errors()
    partial = build_spec(choose(members, member, tree).tree, collector)
    collector.raise_if_errors()
    return partial.spec


def _extended(tree: Map, path: Path, children: tuple[Path, ...]) -> Map:
    """Return `tree`, the spec at `path`, merged with its ancestors. `children` are the specs that led to it."""
    named = _extends(tree)
    if named is None:
        return _without_none(tree)
    span, target = named.span, path.parent / str(named.value)
    chain = (*children, path.resolve())
    if target.resolve() in chain:
        names = [_short(p, path) for p in (*chain[chain.index(target.resolve()) :], target.resolve())]
        raise fail("AS151", f"specs extend each other in a circle: {' -> '.join(names)}", span)
    if len(chain) > MAX_CHAIN:
        raise fail("AS152", f"more than {MAX_CHAIN} specs extend each other", span)
    parent = _extended(parse_tree(read_source(target, span)), target, chain)
    return merge(moved(parent, Spec, target.parent, path.parent), tree, Spec)


def _extends(tree: Map) -> Scalar | None:
    """Return the name of the spec that a tree extends, if it names one."""
    entry = tree.entry("extends")
    if entry is None or not isinstance(entry.value, Scalar) or not isinstance(entry.value.value, str):
        return None
    return None if is_none(entry.value) else entry.value


def _short(path: Path, near: Path) -> str:
    return os.path.relpath(path, near.resolve().parent)


def _without_none(tree: Map) -> Map:
    """Leave out the stanzas that are `none`."""
    return replace(tree, entries=tuple(entry for entry in tree.entries if not is_none(entry.value)))
