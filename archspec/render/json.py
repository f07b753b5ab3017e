"""Diagnostics as JSON, `format_version` 1: for editors, scripts and dashboards.

Lines and columns count from 1, `offset` counts characters from 0, and an end is exclusive. Keys are only ever added
within a format version.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from archspec.diagnostics import Diagnostic, Label, Severity
from archspec.source import Span

VERSION = 1


def render(diagnostics: Sequence[Diagnostic], color: bool = False) -> str:
    return json.dumps(report(diagnostics), indent=2, ensure_ascii=False)


def report(diagnostics: Sequence[Diagnostic]) -> dict[str, Any]:
    """Return the report as plain data."""
    counts = {kind: sum(d.severity is kind for d in diagnostics) for kind in Severity}
    return {
        "format_version": VERSION,
        "valid": not counts[Severity.ERROR],
        **{f"{kind}_count": count for kind, count in counts.items()},
        "diagnostics": [_diagnostic(d) for d in diagnostics],
    }


def _diagnostic(diagnostic: Diagnostic) -> dict[str, Any]:
    return {
        "code": diagnostic.code,
        "severity": str(diagnostic.severity),
        "message": diagnostic.message,
        **(_label(diagnostic.primary) if diagnostic.primary else {"file": None, "range": None}),
        "related": [_label(label) for label in diagnostic.related],
        "hints": list(diagnostic.hints),
    }


def _label(label: Label) -> dict[str, Any]:
    span = label.span
    return {
        "file": span.source.name,
        "range": {"start": _position(span, span.start), "end": _position(span, span.end)},
        "snippet": span.source.line(span.line),
        "label": label.text,
    }


def _position(span: Span, offset: int) -> dict[str, int]:
    line, column = span.source.position(offset)
    return {"line": line, "column": column, "offset": offset}
