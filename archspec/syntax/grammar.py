"""Text of the DSL, a selector or an expectation to lark's tree.

`parse(text, start)` gives the tree or raises `Refused`, with the best message that the error allows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from archspec.syntax.grammar_errors import explain
from archspec.syntax.tables import parser
from archspec.syntax.words import CLOSING, MAX_DEPTH, SIGNS, Refused, Start

if TYPE_CHECKING:
    from lark import Token, Tree


def parse(text: str, start: Start) -> Tree[Token]:
    """Return lark's tree of `text`. Raises Refused."""
    from lark import UnexpectedInput

    _check_signs(text, start)
    try:
        return parser().parse(text, start=start)
    except UnexpectedInput as error:
        raise explain(error, text, start) from None


def _check_signs(text: str, start: Start) -> None:
    depth = 0
    for sign in SIGNS.finditer(text):
        depth += (sign[0] in CLOSING) - (sign[0] in (")", "]", "}"))
        if depth > MAX_DEPTH:
            raise Refused("AS112", f"brackets are nested more than {MAX_DEPTH} deep", sign.start(), sign.end())
        if start != "spec" and sign[0].startswith("#"):
            raise Refused("AS130" if start == "selector" else "AS135", "unexpected '#'", sign.start(), sign.start() + 1)
