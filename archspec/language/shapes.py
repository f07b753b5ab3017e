"""What the declared types of nodes say: the view of `fields` that the builder, `extends` and the printers share."""

from __future__ import annotations

import types
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from archspec.language.fields import Node, declared, written


def hints(cls: type) -> Mapping[str, Any]:
    """Return the evaluated annotation of every field."""
    return _hints(cls)


def keys(cls: type) -> Mapping[str, Any]:
    """Return written key -> dataclass field. The target of an edit is written as its verb."""
    return _keys(cls)


@cache
def _hints(cls: type) -> Mapping[str, Any]:
    return get_type_hints(cls)


@cache
def _keys(cls: type) -> Mapping[str, Any]:
    verb = getattr(cls, "verb", None)
    return {verb if verb and field.name == "target" else written(field.name): field for field in declared(cls)}


def options(hint: Any) -> tuple[Any, ...]:
    """Return the members of a union (of `T | None`: T and NoneType), or the type itself."""
    return get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)


def nodes(hint: Any) -> Iterator[type[Node]]:
    """Yield the node classes that a value of this type may be or hold."""
    for option in options(hint):
        if isinstance(option, type) and issubclass(option, Node):
            yield option
        elif get_origin(option) not in (None, Literal):
            for inner in get_args(option):
                if inner is not Ellipsis:
                    yield from nodes(inner)


def shorthand(cls: type[Node]) -> str | None:
    """Return the key that a bare scalar stands for."""
    return written(cls.shorthand) if cls.shorthand else None


@cache
def shorthands() -> Mapping[str, str]:
    """Return, for every key of the language whose value may be a bare scalar, the key that this scalar stands for.

    >>> shorthands()["with"], shorthands()["base"]
    ('op', 'from')
    """
    from archspec.language.spec import Spec

    found: dict[str, str] = {}
    for cls in every(Spec):
        for key, field in keys(cls).items():
            short = [shorthand(node) for node in nodes(hints(cls)[field.name])]
            if len(short) == 1 and short[0]:
                found[key] = short[0]
    return found


@cache
def texts() -> frozenset[str]:
    """Return the keys of the language whose value is any text: the DSL prints it in quotes."""
    from archspec.language.spec import Spec

    return frozenset(
        key
        for cls in every(Spec)
        for key, field in keys(cls).items()
        if set(options(hints(cls)[field.name])) <= {str, types.NoneType}
    ) - {"op"}


def every(root: type[Node]) -> list[type[Node]]:
    """Return `root` and all node classes within it."""
    found = [root]
    for cls in found:
        for field in declared(cls):
            found += [node for node in nodes(hints(cls)[field.name]) if node not in found]
    return found
