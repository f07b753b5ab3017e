"""Diagnostics as text for people and as JSON, GitHub annotations and SARIF for machines.

`FORMATS` is the table: name -> module with a function `render(diagnostics, color)`. No diagnostic holds markup or ANSI
codes; colour is added here, and only when the caller says that the stream is a terminal (`colored`).
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from importlib import import_module
from typing import TextIO, cast

from archspec.diagnostics import Diagnostic

FORMATS = ("text", "json", "github", "sarif")


def render(diagnostics: Iterable[Diagnostic], form: str = "text", *, color: bool = False) -> str:
    """Return the report in one of `FORMATS`, without a newline at its end."""
    return cast(str, import_module(f"archspec.render.{form}").render(tuple(diagnostics), color))


def colored(stream: TextIO) -> bool:
    """Whether to colour what goes to `stream`: a terminal, and `NO_COLOR` (no-color.org) not set."""
    return stream.isatty() and not os.environ.get("NO_COLOR")
