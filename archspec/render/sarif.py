"""Diagnostics as SARIF 2.1.0 (OASIS): for code scanning services. Every code of archspec is declared as a rule."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import PurePath
from typing import Any

from archspec import __version__
from archspec.codes import table
from archspec.codes.base import Code
from archspec.diagnostics import Diagnostic, Label

SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"


def render(diagnostics: Sequence[Diagnostic], color: bool = False) -> str:
    return json.dumps(report(diagnostics), indent=2, ensure_ascii=False)


def report(diagnostics: Sequence[Diagnostic]) -> dict[str, Any]:
    """Return the log as plain data: one run, all rules, one result per diagnostic."""
    rules = table()
    order = {code: number for number, code in enumerate(rules)}
    driver = {
        "name": "archspec",
        "version": __version__,
        "rules": [_rule(code) for code in rules.values()],
    }
    run = {
        "tool": {"driver": driver},
        "columnKind": "unicodeCodePoints",
        "results": [_result(d, order) for d in diagnostics],
    }
    return {"$schema": SCHEMA, "version": "2.1.0", "runs": [run]}


def _rule(code: Code) -> dict[str, Any]:
    return {
        "id": code.id,
        "shortDescription": {"text": code.title},
        "fullDescription": {"text": code.explanation},
        "help": {"text": f"{code.explanation}\n\nWrong:\n{code.bad}\n\nRight:\n{code.good}"},
    }


def _result(diagnostic: Diagnostic, order: dict[str, int]) -> dict[str, Any]:
    text = ". ".join((diagnostic.message, *diagnostic.hints))
    result: dict[str, Any] = {
        "ruleId": diagnostic.code,
        "ruleIndex": order[diagnostic.code],
        "level": str(diagnostic.severity),
        "message": {"text": text},
    }
    if diagnostic.primary:
        result["locations"] = [_location(diagnostic.primary)]
    if diagnostic.related:
        result["relatedLocations"] = [{"id": n, **_location(label)} for n, label in enumerate(diagnostic.related, 1)]
    return result


def _location(label: Label) -> dict[str, Any]:
    span = label.span
    (line, column), (end_line, end_column) = span.source.position(span.start), span.source.position(span.end)
    region: dict[str, Any] = {"startLine": line, "startColumn": column, "endLine": end_line, "endColumn": end_column}
    if span.text:
        region["snippet"] = {"text": span.text}
    location: dict[str, Any] = {
        "physicalLocation": {"artifactLocation": {"uri": _uri(span.source.name)}, "region": region}
    }
    if label.text:
        location["message"] = {"text": label.text}
    return location


def _uri(name: str) -> str:
    """Return the URI of a path as the user gave it: relative stays relative, so that services can match it."""
    from urllib.parse import quote

    path = PurePath(name)
    return path.as_uri() if path.is_absolute() else quote(path.as_posix())
