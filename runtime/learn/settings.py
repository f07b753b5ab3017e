"""Settings of a task, from the plain data of a plan to the dataclass that the task takes. The data may be anyone's."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import fields
from types import UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

T = TypeVar("T")


def read_settings(cls: type[T], data: Mapping[str, Any]) -> T:
    """Return `cls(**data)`, restricted to the fields of `cls`; ValueError where a value is not of its field's type.

    Other keys of `data` belong to other readers of the same task.
    """
    if not isinstance(data, Mapping):
        raise ValueError(f"{str(data)[:80]!r} is no object")
    hints = get_type_hints(cls)
    found = {}
    for field in fields(cls):  # type: ignore[arg-type]
        if field.name not in data:
            continue
        value = data[field.name]
        value = tuple(value) if isinstance(value, list) else value
        if not fits(value, hints[field.name]):
            raise ValueError(f"'{field.name}' is {str(value)[:80]!r}")
        found[field.name] = value
    return cls(**found)


def fits(value: Any, hint: Any) -> bool:
    """Say whether a value of plain data is of a type; numbers are finite and not negative.

    >>> fits(3, int), fits(True, int), fits(3, float | None), fits((1, 2), tuple[int, ...])
    (True, False, True, True)
    """
    origin = get_origin(hint)
    if origin in (Union, UnionType):
        return any(fits(value, option) for option in get_args(hint))
    if origin is Literal:
        return value in get_args(hint)
    if origin is tuple:
        return isinstance(value, tuple) and all(fits(entry, get_args(hint)[0]) for entry in value)
    if hint is int:
        return type(value) is int and value >= 0
    if hint is float:
        return type(value) in (int, float) and math.isfinite(value) and value >= 0
    return isinstance(value, hint)
