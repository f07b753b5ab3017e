"""The lark grammar of the DSL, selectors and expectations.

`parse(text, start)` gives lark's tree or raises `Refused`, whose offsets count in `text`; the callers (`dsl_syntax`,
`selectors`, `expectations`) know where that text stands in a file and make the diagnostic of it. lark is imported at
the first use. Its tables are kept in `grammars/tables.json` (generated), because building them would be a third of the
time of a whole `archspec validate`; when they are of another grammar or another lark they are built anew.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from importlib.resources import files
from typing import TYPE_CHECKING, Any, Literal

from archspec.diagnostics import ArchspecError, fail
from archspec.source import Span

if TYPE_CHECKING:
    from lark import Lark, Token, Tree

GRAMMAR, TABLES = "archspec.lark", "tables.json"
OPTIONS: dict[str, Any] = {
    "start": ["spec", "selector", "expectation"],
    "parser": "lalr",
    "maybe_placeholders": False,
    "propagate_positions": True,
}

Start = Literal["spec", "selector", "expectation"]

STANZAS = ("description", "extends", "base", "data", "distill", "finetune", "eval")
CLAUSES = ("with", "init", "by", "merge", "times", "tie")
VERBS = ("replace", "parallelize", "drop", "repeat", "share", "freeze")
RESERVED = frozenset(
    {"spec", "archspec", "let", "expect", "first", "last", "of", "and", "or", "not", *STANZAS, *CLAUSES, *VERBS}
)
"""Words that cannot name a selection, an operator or a bare value, in either spelling."""

MAX_DEPTH = 32
"""Deepest nesting of brackets that is read."""

OPAQUE = r""""(?:[^"\\\n]|\\.)*"?|'[^'\n]*'?|\#[^\n]*"""
"""Strings (one that is never closed goes to the end of its line) and comments: there, other signs mean nothing."""

_SIGNS = re.compile(rf"{OPAQUE}|[\[({{\])}}]")
CLOSING = {"(": ")", "[": "]", "{": "}"}


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


@cache
def parser() -> Lark:
    """Return the parser of all start rules, from the tables when they are of this grammar and this lark."""
    from lark import Lark

    kept = _kept()
    return Lark.load(_with_numbers(json.loads(kept))) if kept else _built()


def tables_text() -> str:
    """Return the text of the tables: what building the parser finds out, a tenth of a second's work, as JSON.

    Those that are kept and still valid are returned as they are: lark numbers its states differently in every process.
    """
    from lark.grammar import Rule
    from lark.lexer import TerminalDef

    data, memo = _built().memo_serialize([TerminalDef, Rule])
    tables = {"of": _identity(), "data": data, "memo": memo}
    return _kept() or json.dumps(tables, separators=(",", ":"), sort_keys=True) + "\n"


def _built() -> Lark:
    from lark import Lark

    return Lark(_file(GRAMMAR), **OPTIONS)


def _kept() -> str | None:
    """Return the text of the committed tables, None when they are of another grammar or another lark."""
    try:
        text = _file(TABLES)
    except FileNotFoundError:
        return None
    return text if json.dumps(_identity()) in text[-400:] else None


def _file(name: str) -> str:
    return files("archspec").joinpath("grammars", name).read_text("utf-8")


def _identity() -> str:
    """Return what tables are valid for: the version of lark, the grammar and the options."""
    from lark import __version__

    return f"{__version__} {sha256(f'{OPTIONS} {_file(GRAMMAR)}'.encode()).hexdigest()}"


def _with_numbers(value: Any) -> Any:
    """Undo what JSON does to a dict's whole numbers as keys."""
    match value:
        case dict():
            return {int(k) if k.isdigit() else k: _with_numbers(v) for k, v in value.items()}
        case list():
            return [_with_numbers(item) for item in value]
    return value


def parse(text: str, start: Start) -> Tree[Token]:
    """Return lark's tree of `text`. Raises Refused."""
    from lark import UnexpectedInput

    _check_signs(text, start)
    try:
        return parser().parse(text, start=start)
    except UnexpectedInput as error:
        from archspec.syntax.grammar_errors import explain

        raise explain(error, text, start) from None


def unclosed(text: str) -> tuple[int, str] | None:
    """Return the offset of the innermost bracket that is never closed, and the sign that would close it."""
    open_: list[int] = []
    for sign in _SIGNS.finditer(text):
        if sign[0] in CLOSING:
            open_.append(sign.start())
        elif sign[0] in (")", "]", "}") and open_ and CLOSING[text[open_[-1]]] == sign[0]:
            open_.pop()
    return (open_[-1], CLOSING[text[open_[-1]]]) if open_ else None


def _check_signs(text: str, start: Start) -> None:
    depth = 0
    for sign in _SIGNS.finditer(text):
        depth += (sign[0] in CLOSING) - (sign[0] in (")", "]", "}"))
        if depth > MAX_DEPTH:
            raise Refused("AS112", f"brackets are nested more than {MAX_DEPTH} deep", sign.start(), sign.end())
        if start != "spec" and sign[0].startswith("#"):
            raise Refused("AS130" if start == "selector" else "AS135", "unexpected '#'", sign.start(), sign.start() + 1)
