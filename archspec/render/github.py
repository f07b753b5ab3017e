"""Diagnostics as GitHub workflow commands: annotations in the diff of a pull request.

One line each, `::error file=a.yaml,line=2,col=5,endLine=2,endColumn=9,title=AS203::message`. Data escape `%` and
line feeds, properties `:` and `,` as well; other control characters are shown, not sent. GitHub ignores columns of an
annotation of several lines, so none are written.
"""

from __future__ import annotations

from collections.abc import Sequence

from archspec.diagnostics import Diagnostic, Severity
from archspec.render.text import visible

LEVELS = {Severity.ERROR: "error", Severity.WARNING: "warning", Severity.NOTE: "notice"}


def render(diagnostics: Sequence[Diagnostic], color: bool = False) -> str:
    return "\n".join(map(_command, diagnostics))


def _command(diagnostic: Diagnostic) -> str:
    properties = ",".join(f"{key}={_property(value)}" for key, value in _place(diagnostic).items())
    message = "\n".join((diagnostic.message, *(f"help: {hint}" for hint in diagnostic.hints)))
    return f"::{LEVELS[diagnostic.severity]} {properties}::{_data(message)}"


def _place(diagnostic: Diagnostic) -> dict[str, object]:
    if diagnostic.primary is None:
        return {"title": diagnostic.code}
    span = diagnostic.primary.span
    (line, column), (end_line, end_column) = span.source.position(span.start), span.source.position(span.end)
    columns = {"col": column, "endColumn": max(end_column - 1, column)} if line == end_line else {}
    lines = {"file": span.source.name, "line": line, "endLine": end_line}
    return {**lines, **columns, "title": diagnostic.code}


def _data(text: str) -> str:
    return "%0A".join(visible(line).replace("%", "%25") for line in text.split("\n"))


def _property(value: object) -> str:
    return _data(str(value)).replace(":", "%3A").replace(",", "%2C")
