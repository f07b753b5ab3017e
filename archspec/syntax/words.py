"""The words and signs of the DSL, and what is said of text that is not in the language.

`Refused` carries offsets in the text that was parsed; the callers (`dsl_syntax`, `selectors`, `expectations`) know
where that text stands in a file and make the diagnostic of it, by `place`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from archspec.diagnostics import ArchspecError, fail
from archspec.source import Span

Start = Literal["spec", "selector", "expectation"]

STANZAS = (
    *("description", "extends", "base", "probe", "data"),
    *("distill", "finetune", "eval", "search", "pack", "attach", "route", "inject", "seed", "matrix", "arms"),
)
CLAUSES = ("with", "init", "by", "merge", "times", "to", "tie")
SELECTING = ("to",)
"""Clauses that hold a selector."""
VERBS = ("replace", "parallelize", "drop", "repeat", "share", "insert", "skip", "freeze")
RESERVED = frozenset(
    {
        *("spec", "archspec", "let", "expect"),
        *("first", "last", "top", "bottom", "of", "and", "or", "not"),
        *STANZAS,
        *CLAUSES,
        *VERBS,
    }
)
"""Words that cannot name a selection, an operator or a bare value, in either spelling."""

MAX_DEPTH = 32
"""Deepest nesting of brackets that is read."""

OPAQUE = r""""(?:[^"\\\n]|\\.)*"?|'[^'\n]*'?|\#[^\n]*"""
"""Strings (one that is never closed goes to the end of its line) and comments: there, other signs mean nothing."""

SIGNS = re.compile(rf"{OPAQUE}|[\[({{\])}}]")
CLOSING = {"(": ")", "[": "]", "{": "}"}

HOLE = re.compile(r"\$(\$|[A-Za-z_][A-Za-z0-9_]*)")
"""Where the value of an axis of the matrix stands; `$$` is a dollar."""


@dataclass
class Refused(Exception):
    """Text that is not in the language: `start` and `end` are offsets in it."""

    code: str
    message: str
    start: int
    end: int
    hints: tuple[str, ...] = ()

    def at(self, span: Span | None, text: str) -> ArchspecError:
        """Return the error for `text` that stands at `span`."""
        return fail(self.code, self.message, place(span, text, self.start, self.end), *self.hints)


def place(span: Span | None, text: str, start: int, end: int) -> Span | None:
    """Return the span of characters `start` to `end` of `text`, which stands at `span`, perhaps in quotes.

    Where the two differ (escapes, folded lines) that is the whole span.
    """
    if span is None:
        return None
    written = span.text
    for offset in (0, 1):
        if written[offset : offset + len(text)] == text:
            return span.source.span(span.start + offset + start, span.start + offset + max(end, start))
    return span


def refuse_holes(text: str) -> None:
    """Refuse a text in which a value is still to be put. Raises Refused."""
    found = HOLE.search(text)
    if found:
        raise Refused("AS183", f"'{found[0]}' is no axis of the matrix", found.start(), found.end())


def unclosed(text: str) -> tuple[int, str] | None:
    """Return the offset of the innermost bracket that is never closed, and the sign that would close it."""
    open_: list[int] = []
    for sign in SIGNS.finditer(text):
        if sign[0] in CLOSING:
            open_.append(sign.start())
        elif sign[0] in (")", "]", "}") and open_ and CLOSING[text[open_[-1]]] == sign[0]:
            open_.pop()
    return (open_[-1], CLOSING[text[open_[-1]]]) if open_ else None
