"""Declared fields: one declaration serves the builder, the JSON Schema, the operator reference and the checks.

`Node` is the base of everything a spec is made of. A subclass is a frozen dataclass whose fields are made with
`arg(...)`: the annotation is the type, the metadata the rest (doc, bounds, YAML key). A field named `with_` is
written `with`. `shorthand` names the field that a bare scalar fills (`init: random` for `init: {kind: random}`).
"""

from __future__ import annotations

from dataclasses import MISSING, dataclass, field, fields
from typing import Any, ClassVar, Literal, dataclass_transform

from archspec.source import Span
from archspec.syntax.tree import Map, Scalar, Seq


def arg(
    doc: str,
    *,
    default: Any = MISSING,
    default_factory: Any = MISSING,
    least: float | None = None,
    most: float | None = None,
    above: float | None = None,
    example: Any = None,
    unit: str | None = None,
    pattern: str | None = None,
    keys: tuple[str, ...] | None = None,
    path: Literal["file", "folder"] | bool = False,
) -> Any:
    """Declare a field: `least`/`most` are inclusive bounds, `above` an exclusive lower one.

    `unit="bytes"` lets `2GiB` stand for an integer; `pattern` must match the whole text (of a mapping: every key);
    `keys` are the only keys of a mapping; `path` marks a text that may be a path relative to the spec,
    `path="file"` and `path="folder"` one that can be nothing else.
    """
    metadata = {"doc": doc, "least": least, "most": most, "above": above, "example": example}
    metadata |= {"default": default, "unit": unit, "pattern": pattern, "keys": keys, "path": path}
    if default_factory is not MISSING:
        return field(default_factory=default_factory, metadata=metadata)
    return field(default=default, metadata=metadata)


@dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(arg, field))
def node(cls: type) -> type:
    """Make a frozen, keyword-only dataclass: the form of every `Node`."""
    return dataclass(frozen=True, kw_only=True)(cls)


@dataclass(frozen=True, kw_only=True)
class Node:
    """Part of a spec. `origin` is the piece of syntax it was built from (absent when built in Python)."""

    shorthand: ClassVar[str | None] = None
    called: ClassVar[str | None] = None
    """What messages call it; default: the verb, or the name of the class, which then is its key."""
    origin: Map | None = field(default=None, compare=False, repr=False, metadata={"hidden": True})

    def span(self, name: str | None = None) -> Span | None:
        """Return the span of a field's value (by its written key), or of the whole node."""
        if self.origin is None:
            return None
        return self.origin.span_of(name) if name else self.origin.span

    def item_span(self, name: str, value: object) -> Span | None:
        """Return the span of one item of a list, of the whole list where it is not found."""
        entry = self.origin.entry(name) if self.origin else None
        items = entry.value.items if entry and isinstance(entry.value, Seq) else ()
        return next((item.span for item in items if isinstance(item, Scalar) and item.value == value), self.span(name))


def written(name: str) -> str:
    """Return the key under which a dataclass field is written.

    >>> written("with_"), written("label_dropout")
    ('with', 'label_dropout')
    """
    return name.rstrip("_")


def declared(cls: type) -> list[Any]:
    """Return the dataclass fields that a user may write."""
    return [f for f in fields(cls) if not f.metadata.get("hidden")]
