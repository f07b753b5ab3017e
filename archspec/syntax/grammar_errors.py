"""What lark's parse errors mean in the words of the language.

The parser's state tells which terminals it would have accepted; `expected` names them as a person would. The common
slips (`=` for `==`, a misspelt statement, an open bracket, a reserved word) have rules of their own: each of `_RULES`
looks at the error and returns a better message, or None. The first rule that matches wins.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from archspec.diagnostics import nearest
from archspec.syntax import tables, words
from archspec.syntax.words import Refused, Start

if TYPE_CHECKING:
    from lark import Token, UnexpectedInput

CODES: dict[Start, str] = {"spec": "AS120", "selector": "AS130", "expectation": "AS135"}
EXAMPLES: dict[Start, tuple[str]] = {
    "selector": ("for example `blocks[0].attn`, `blocks[1::2]` or `first 4 of blocks`",),
    "expectation": ("for example `depth == 14` or `params <= 0.9x`",),
}

_STATEMENT = {"VERB", "STANZA", "LET", "EXPECT"}
_SELECTOR = {"NAME", "STRING", "TAKE", "RANK", "LPAR"}
_VALUE = {"NUMBER", "NAME", "STRING"}
_NAMES = {
    "KEY": "a setting (`name = value`)",
    "NAME": "a name",
    "INT": "a whole number",
    "NUMBER": "a number",
    "STRING": "a quoted text",
    "CMP": "a comparison",
    "OF": "'of'",
    "SPEC": "'spec'",
    "TAKE": "'first'",
    "RANK": "'top'",
    "BY": "'by'",
    "CLAUSE": "a clause (`with`, `init`, `by`, ...)",
    "FLAG": "'tie'",
    "TO": "'to'",
    "$END": "the end",
    "COLON": "':'",
}


@dataclass(frozen=True)
class Slip:
    """A parse error: the found token's `kind` and `text` (both "" for a character that no token begins with)."""

    text: str
    """The whole text that was parsed."""
    rule: Start
    kind: str
    found: str
    start: int
    end: int
    accepts: frozenset[str]
    before: str
    """The text of the token before."""

    @property
    def after(self) -> str:
        """What follows the found token, blanks skipped."""
        return self.text[self.end :].lstrip()

    def refused(self, message: str, *hints: str, code: str | None = None) -> Refused:
        return Refused(code or CODES[self.rule], message, self.start, self.end, hints)


def explain(error: UnexpectedInput, text: str, rule: Start) -> Refused:
    """Return what to tell the user of a parse error."""
    slip = _slip(error, text, rule)
    for explanation in _RULES:
        refused = explanation(slip)
        if refused:
            return refused
    found = "the end" if slip.kind == "$END" else f"'{slip.found}'"
    return slip.refused(f"expected {expected(slip.accepts)}, found {found}", *EXAMPLES.get(rule, ()))


def expected(accepts: frozenset[str]) -> str:
    """Name what could stand at a place, the widest words first."""
    rest, names = set(accepts) - {"HOLE"}, []  # an axis may stand for anything: saying so would help nobody
    for group, name in ((_STATEMENT, "a statement"), (_SELECTOR, "a selector"), (_VALUE, "a value")):
        if group <= rest:
            names.append(name)
            rest -= group | (
                {"SEMICOLON", "CLAUSE", "BY", "FLAG", "LBRACE", "LSQB", "LPAR"} if group is not _SELECTOR else {"LPAR"}
            )
    names += sorted(_NAMES.get(kind) or _sign(kind) for kind in rest)
    return " or ".join([", ".join(names[:5][:-1]), names[:5][-1]] if len(names) > 1 else names)


def _sign(kind: str) -> str:
    terminals = {t.name: t.pattern for t in tables.parser().terminals}
    return f"'{terminals[kind].value}'" if kind in terminals else kind.lower()


def _slip(error: UnexpectedInput, text: str, rule: Start) -> Slip:
    from lark import UnexpectedCharacters

    machine: Any = getattr(error, "interactive_parser", None)
    accepts = frozenset(machine.accepts() if machine else ()) or frozenset({"$END"})
    if isinstance(error, UnexpectedCharacters):
        at = error.pos_in_stream or 0
        history = error.token_history or []
        word = re.match(r"\w+", text[at:])
        found = word[0] if word else text[at]
        return Slip(text, rule, "", found, at, at + len(found), accepts, str(history[-1]) if history else "")
    token: Token = getattr(error, "token")  # noqa: B009
    history = [t for t in getattr(error, "token_history", None) or [] if t is not None]
    before = str(history[-1]) if history else ""
    if token.type == "$END":
        end = len(text.rstrip())
        return Slip(text, rule, "$END", "", end, end, accepts, before)
    start = token.start_pos or 0
    return Slip(text, rule, token.type, str(token), start, start + len(token), accepts, before)


def _open_text(slip: Slip) -> Refused | None:
    if slip.kind or slip.found not in "\"'":
        return None
    line_end = slip.text.find("\n", slip.start)
    end = len(slip.text) if line_end < 0 else line_end
    return Refused("AS121", f"this {slip.found} is never closed", slip.start, end, ("end the text on the same line",))


def _open_bracket(slip: Slip) -> Refused | None:
    """The text ends, the next statement begins, or brackets around are closed, inside brackets."""
    opening = slip.kind in _STATEMENT and not slip.after.startswith("=")
    closes = slip.found in words.CLOSING.values()
    found = words.unclosed(slip.text[: slip.start]) if opening or closes or slip.kind == "$END" else None
    if found is None or (opening and words.unclosed(slip.text[: found[0]]) is None):
        return None
    at, closing = found
    if slip.found == closing:
        return None
    return Refused("AS121", f"this '{slip.text[at]}' is never closed", at, at + 1, (f"close it with '{closing}'",))


def _extra_bracket(slip: Slip) -> Refused | None:
    if slip.accepts == {"$END"} and slip.found in (")", "]", "}"):
        return slip.refused(f"this '{slip.found}' closes nothing", "remove it", code="AS121")
    return None


def _not_a_spec(slip: Slip) -> Refused | None:
    if slip.rule != "spec" or "SPEC" not in slip.accepts:
        return None
    return slip.refused("a spec begins with `spec`", 'write `spec "name" { ... }`')


def _after_the_spec(slip: Slip) -> Refused | None:
    if slip.rule != "spec" or slip.accepts != {"$END"}:
        return None
    return slip.refused("a file holds one spec; this stands behind its end", "move it inside the braces")


def _misspelt(slip: Slip) -> Refused | None:
    if not (slip.accepts >= _STATEMENT) or slip.kind not in ("NAME", "KEY"):
        return None
    known: tuple[str, ...] = (*words.VERBS, *words.STANZAS, "let", "expect")
    if "CLAUSE" in slip.accepts:
        known = (*known, *words.CLAUSES)
    hints = nearest(slip.found, known) or (f"statements are {', '.join(known)}",)
    return slip.refused(f"unknown statement '{slip.found}'", *hints, code="AS122")


def _assignment(slip: Slip) -> Refused | None:
    if slip.found == "=" and "CMP" in slip.accepts:
        return slip.refused("'=' does not compare", "write '=='")
    if slip.kind == "CMP" and "KEY" in slip.accepts:
        return slip.refused(f"'{slip.found}' does not set", "write '='")
    return None


def _setting(slip: Slip) -> Refused | None:
    """A word in braces or parentheses that no `=` follows."""
    if "KEY" not in slip.accepts or slip.kind not in ("NAME", "STRING", "VERB", "STANZA", "CLAUSE", "BY", "FLAG"):
        return None
    word = slip.found.strip("\"'")
    if slip.after.startswith(":"):
        return slip.refused("settings are written with '='", f"write `{word} = ...`")
    nested = re.match(r"\.\s*(\w+)\s*=", slip.after)
    if nested:
        return slip.refused("settings have no dots", f"write `{nested[1]} = {{ {word} = ... }}`")
    if slip.rule == "expectation" or "NAME" in slip.accepts:
        return None
    return slip.refused(f"'{word}' is not set to anything", f"write `{word} = ...`")


def _separator(slip: Slip) -> Refused | None:
    if slip.found == "," and "SEMICOLON" in slip.accepts:
        return slip.refused("no ',' between settings or statements", "separate them with ';' or a new line")
    if slip.found == ";" and "COMMA" in slip.accepts:
        return slip.refused("no ';' inside parentheses or a list", "separate with ','")
    return None


def _braced_parameters(slip: Slip) -> Refused | None:
    if slip.found == "{" and "LPAR" in slip.accepts and "CLAUSE" in slip.accepts:
        return slip.refused("parameters stand in parentheses", f"write `{slip.before}(name=value, ...)`")
    return None


def _measure(slip: Slip) -> Refused | None:
    """What `top n of ...` ranks by is missing."""
    if slip.before != "by" or slip.accepts != {"NAME"}:
        return None
    found = f"'{slip.found}'" if slip.found else "the end"
    hint = "write what a probe measured: `by influence`, `by locality(k=32)`"
    return slip.refused(f"expected a measure, found {found}", hint)


def _reserved(slip: Slip) -> Refused | None:
    if slip.found not in words.RESERVED or "NAME" not in slip.accepts or slip.accepts >= _STATEMENT:
        return None
    hint = (f'write "{slip.found}" in quotes',) if "STRING" in slip.accepts and "NUMBER" in slip.accepts else ()
    return slip.refused(f"expected {expected(slip.accepts)}, found the reserved word '{slip.found}'", *hint)


def _module_path(slip: Slip) -> Refused | None:
    """Dots and stars of a module path that is not quoted: `h.*.attn`, `h.0.attn`."""
    if slip.rule != "selector" or not re.search(r"\.\s*(\*|[0-9]|\w+\s*\.)", slip.text):
        return None
    return slip.refused(f"unexpected '{slip.found}'", f"quote module paths: '\"{slip.text.strip()}\"'")


def _chained(slip: Slip) -> Refused | None:
    if slip.rule == "expectation" and slip.kind == "CMP" and slip.accepts <= {"$END", "SEMICOLON"}:
        return slip.refused("one comparison per expectation", "write two expectations")
    return None


_RULES: tuple[Callable[[Slip], Refused | None], ...] = (
    _open_text,
    _open_bracket,
    _extra_bracket,
    _not_a_spec,
    _after_the_spec,
    _misspelt,
    _assignment,
    _setting,
    _separator,
    _braced_parameters,
    _measure,
    _reserved,
    _module_path,
    _chained,
)
