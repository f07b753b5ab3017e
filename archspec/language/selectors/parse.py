"""Text to selector: lark's tree, folded from the leaves to the root into `expressions`.

Parsed texts are cached, since a spec says `blocks[1::2].attn` many times; so the tree holds offsets, not spans.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, Any

from archspec.host.probes import measure_name
from archspec.language.selectors import expressions as ast
from archspec.source import Span
from archspec.syntax import grammar
from archspec.syntax.words import HOLE, Refused, refuse_holes

if TYPE_CHECKING:
    from lark import Token, Tree

MAX_LENGTH = 2000
"""Longest selector, in characters."""


def parse_selector(text: str, span: Span | None = None) -> ast.Selector:
    """Parse a selector that stands at `span`. Raises ArchspecError.

    >>> parse_selector("blocks[3].attn").expression.slot
    'attn'
    """
    try:
        return ast.Selector(text, _expression(text), span)
    except Refused as refused:
        raise refused.at(span, text) from None


def check_selector(text: str, span: Span | None = None) -> str:
    """Return a selector whose holes may be open, after looking at its syntax. Raises ArchspecError."""
    try:
        if HOLE.search(text):
            grammar.parse(text, "selector")
            return text
    except Refused as refused:
        raise refused.at(span, text) from None
    return parse_selector(text, span).text


@cache
def _expression(text: str) -> ast.Expression:
    if len(text) > MAX_LENGTH:
        raise Refused("AS131", f"a selector has at most {MAX_LENGTH} characters", 0, len(text))
    if not text.strip():
        raise Refused("AS130", "expected a selector, found nothing", 0, len(text), ("`blocks[*]` selects every block",))
    refuse_holes(text)
    return expression(grammar.parse(text, "selector"))


def expression(tree: Tree[Token]) -> ast.Expression:
    """Return the syntax tree of a `selector` of the grammar. Raises Refused."""
    return _RULES[str(tree.data)](tree)


def _at(tree: Tree[Token]) -> ast.At:
    return (tree.meta.start_pos, tree.meta.end_pos)


def _sets(op: Any) -> Any:
    def fold(tree: Tree[Token]) -> ast.Expression:
        if len(tree.children) == 1:
            return expression(_sub(tree, 0))
        return ast.Sets(op, tuple(expression(_sub(tree, k)) for k in range(len(tree.children))), _at(tree))

    return fold


def _sub(tree: Tree[Token], index: int) -> Tree[Token]:
    child = tree.children[index]
    assert not isinstance(child, str)
    return child


def _name(tree: Tree[Token]) -> ast.Name:
    index: ast.Index | None = None
    if len(tree.children) > 1:
        inner = _sub(tree, 1)
        if inner.data == "every":
            index = ast.Every()
        elif inner.data == "items":
            index = ast.Items(tuple(_item(_sub(inner, k)) for k in range(len(inner.children))))
        else:
            index = ast.Where(_test(inner))
    return ast.Name(str(tree.children[0]), index, _at(tree))


def _item(tree: Tree[Token]) -> ast.Item | ast.Slice:
    if tree.data != "slice":
        return ast.Item(_integer(tree), _at(tree))
    bounds = [_bound(part) for part in tree.children if not isinstance(part, str)]
    start, stop, step = [*bounds, None][:3]
    if step == 0:
        raise Refused("AS132", "the step of a slice cannot be 0", *_at(tree))
    return ast.Slice(start, stop, step, _at(tree))


def _bound(tree: Tree[Token]) -> int | None:
    return _integer(_sub(tree, 0)) if tree.children else None


def _integer(tree: Tree[Token]) -> int:
    digits = str(tree.children[-1])
    if len(digits) > 9:
        raise Refused("AS132", f"'{digits[:12]}...' is too large", *_at(tree))
    return -int(digits) if tree.data == "negative" else int(digits)


def _test(tree: Tree[Token]) -> ast.Test:
    parts = [child for child in tree.children if not isinstance(child, str)]
    match str(tree.data):
        case "either" | "both" if len(parts) == 1:
            return _test(parts[0])
        case "either":
            return ast.Logic("or", tuple(map(_test, parts)))
        case "both":
            return ast.Logic("and", tuple(map(_test, parts)))
        case "inverse":
            inner = _test(parts[0])
            return inner.inner if isinstance(inner, ast.Not) else ast.Not(inner)
    terms = list(map(_term, parts))
    comparisons = [str(child) for child in tree.children if isinstance(child, str)]
    return ast.Compare(terms[0], tuple(zip(comparisons, terms[1:], strict=True)))


def _term(tree: Tree[Token]) -> ast.Term:
    match str(tree.data):
        case "integer" | "negative":
            return _integer(tree)
        case "variable":
            name = str(tree.children[0])
            if name not in ("i", "n"):
                hint = "a predicate knows `i`, the index of a block, and `n`, the number of blocks"
                raise Refused("AS133", f"unknown variable '{name}'", *_at(tree), (hint,))
            return ast.Variable("i" if name == "i" else "n")
    op: Any = str(tree.children[1])
    return ast.Arithmetic(op, _term(_sub(tree, 0)), _term(_sub(tree, 2)), _at(tree))


def _take(tree: Tree[Token]) -> ast.Take:
    which: Any = str(tree.children[0])
    return ast.Take(which, _some(tree), expression(_sub(tree, 3)), _at(tree))


def _rank(tree: Tree[Token]) -> ast.Rank:
    which: Any = str(tree.children[0])
    return ast.Rank(which, _some(tree), expression(_sub(tree, 3)), _measure(_sub(tree, 5)), _at(tree))


def _some(tree: Tree[Token]) -> int:
    """Return the n of `first n of`, `top n of`."""
    which, digits = tree.children[0], str(tree.children[1])
    if len(digits) > 9 or int(digits) == 0:
        raise Refused("AS132", f"'{which}' takes at least one site", *_at(tree))
    return int(digits)


def _measure(tree: Tree[Token]) -> str:
    """Return a measure as probes name it: its settings in the order of their names."""
    settings = {}
    for setting in tree.children[1:]:
        assert not isinstance(setting, str)
        value = setting.children[1]
        if isinstance(value, str) or value.data != "scalar":
            raise Refused("AS132", "a measure is set by numbers and words", *_at(setting))
        settings[str(setting.children[0])] = str(value.children[0])
    return measure_name(str(tree.children[0]), settings)


def _slot(tree: Tree[Token]) -> ast.Slotted:
    return ast.Slotted(expression(_sub(tree, 0)), str(tree.children[1]), _at(tree))


def _glob(tree: Tree[Token]) -> ast.Glob:
    pattern = str(tree.children[0])[1:-1]
    if not pattern:
        raise Refused("AS132", "an empty module path selects nothing", *_at(tree))
    return ast.Glob(pattern, _at(tree))


_RULES: dict[str, Callable[[Tree[Token]], ast.Expression]] = {
    "union": _sets("|"),
    "meet": _sets("&"),
    "rest": _sets("-"),
    "group": lambda tree: expression(_sub(tree, 0)),
    "name": _name,
    "path": _glob,
    "slot": _slot,
    "take": _take,
    "rank": _rank,
}
