"""The paths that a spec names: values of fields declared with `path=True`, found in its tree without building it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from archspec.language import shapes
from archspec.language.fields import Node
from archspec.language.merge import edit_class
from archspec.language.spec import Spec
from archspec.syntax.tree import Map, Scalar, Seq, Tree


@dataclass(frozen=True)
class Named:
    """`text` is written under `key` of a node of the class `owner`. It may be a hub id, or a bundled data set."""

    owner: type[Node]
    key: str
    text: str


def named_paths(tree: Map, cls: type[Node] = Spec) -> Iterator[Named]:
    """Yield what the path fields of a spec hold; of one with a matrix, take a member."""
    known = shapes.keys(cls)
    for entry in tree.entries:
        key = str(entry.key.value)
        field = known.get(key)
        if field is not None and field.metadata.get("path"):
            yield from _text(cls, key, entry.value)
        elif field is not None:
            yield from _under(entry.value, list(shapes.nodes(shapes.hints(cls)[field.name])))


def _under(tree: Tree, classes: list[type[Node]]) -> Iterator[Named]:
    if isinstance(tree, Seq):
        for item in tree.items:
            yield from _under(item, classes)
        return
    cls = edit_class(tree) if len(classes) > 1 else next(iter(classes), None)
    short = shapes.shorthand(cls) if cls else None
    if cls and isinstance(tree, Map):
        yield from named_paths(tree, cls)
    elif cls and short and shapes.keys(cls)[short].metadata.get("path"):
        yield from _text(cls, short, tree)


def _text(cls: type[Node], key: str, tree: Tree) -> Iterator[Named]:
    if isinstance(tree, Scalar) and isinstance(tree.value, str):
        yield Named(cls, key, tree.value)
