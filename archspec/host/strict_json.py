"""Strict reading of small JSON files that others wrote: configs, indexes, headers.

Hostile until checked: only regular files are opened (a pipe would block), sizes are bounded before reading, a key may
stand only once in an object, NaN and infinity are refused, and deep nesting ends in an error instead of a crash.
"""

from __future__ import annotations

import json
import stat
import sys
from io import BufferedReader
from pathlib import Path
from typing import Any, TypeGuard

from archspec.diagnostics import fail
from archspec.source import Span

LARGEST = 64_000_000
"""Bytes of an index or a config."""


class Malformed(ValueError):
    """JSON that is readable but not acceptable."""


def read_json(path: Path, code: str, span: Span | None = None) -> dict[str, Any]:
    """Return the object in a JSON file; anything else is an error of code `code` at `span`."""
    with open_regular(path, span) as file:
        text = file.read(LARGEST + 1)
    if len(text) > LARGEST:
        raise fail(code, f"'{path}' is larger than {LARGEST} bytes", span)
    try:
        found = parse_json(text)
    except ValueError as error:
        raise fail(code, f"'{path}' is not readable JSON: {error}", span) from error
    if not isinstance(found, dict):
        raise fail(code, f"'{path}' holds a {type(found).__name__}, not an object", span)
    return found


def parse_json(text: bytes) -> Any:
    """Parse JSON strictly: UTF-8, no repeated keys, no NaN. Raises ValueError."""
    try:
        return json.loads(text.decode(), object_pairs_hook=_unique, parse_constant=_no_constant)
    except RecursionError:
        raise Malformed("it is nested too deeply") from None


def is_real(value: Any) -> TypeGuard[int | float]:
    """Whether a value of JSON is a number that a float can hold: 1e999 is none, and neither are 400 digits."""
    return type(value) in (int, float) and abs(value) <= sys.float_info.max


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) == len(pairs):
        return found
    seen: set[str] = set()
    for key, _ in pairs:
        if key in seen:
            raise Malformed(f"key {key!r} stands twice in one object")
        seen.add(key)
    return found


def _no_constant(name: str) -> Any:
    raise Malformed(f"{name} is not a number")


def open_regular(path: Path, span: Span | None) -> BufferedReader:
    """Open a regular file for reading. What is absent, unreadable or no file (a pipe, a device) is error AS610."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise fail("AS610", f"'{path}' is not a regular file", span)
        return path.open("rb")
    except FileNotFoundError:
        raise fail("AS610", f"there is no file '{path}'", span) from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        reason = getattr(error, "strerror", None) or error
        raise fail("AS610", f"cannot read '{path}': {reason}", span) from error
