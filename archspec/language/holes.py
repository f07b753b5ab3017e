"""`$name` in a spec: where the value of an axis stands.

A value that is `$name` alone becomes the axis's value as it is: a number stays a number, a map a map, and its span is
that of the value in the matrix, so a finding points at the value that caused it. Within a longer text (a selector, an
expectation, a name) the value's text is put in; in selectors and expectations, in parentheses unless it is one word or
number, so that `$layers.attn` means what it says. `$$` is a dollar.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from archspec.language.edits import EDITS
from archspec.source import Span
from archspec.syntax.tree import NO_COMMENTS, Map, Scalar, Seq, Tree, resolve_scalar
from archspec.syntax.words import HOLE

_WORD = re.compile(r"-?[A-Za-z0-9_.]+%?")
_SENTENCES = frozenset({"let", "expect", *(cls.verb for cls in EDITS)})
"""Keys under which selectors and expectations stand."""


@dataclass(frozen=True)
class Hole:
    name: str
    span: Span


def holes(tree: Tree) -> Iterator[Hole]:
    """Yield every `$name` in the values of a tree."""
    match tree:
        case Map():
            for entry in tree.entries:
                yield from holes(entry.value)
        case Seq():
            for item in tree.items:
                yield from holes(item)
        case Scalar(value=str(text)):
            for found in HOLE.finditer(text):
                if found[1] != "$":
                    yield Hole(found[1], _narrowed(tree, found[0]))


def filled(tree: Tree, values: Mapping[str, Tree], sentence: bool = False) -> Tree:
    """Return the tree with values in its holes; those of no known name stay. `sentence`: within a selector or an
    expectation."""
    match tree:
        case Map():
            entries = (
                replace(e, value=filled(e.value, values, sentence or e.key.value in _SENTENCES)) for e in tree.entries
            )
            return replace(tree, entries=tuple(entries))
        case Seq():
            return replace(tree, items=tuple(filled(item, values, sentence) for item in tree.items))
        case Scalar(value=str(text)) if "$" in text:
            whole = HOLE.fullmatch(text)
            if whole and whole[1] in values:
                return replace(values[whole[1]], comments=NO_COMMENTS)
            return _put(tree, text, values, sentence)
    return tree


def _put(scalar: Scalar, text: str, values: Mapping[str, Tree], sentence: bool) -> Scalar:
    def value(found: re.Match[str]) -> str:
        known = values.get(found[1])
        if found[1] == "$":
            return "$"
        if not isinstance(known, Scalar):
            return found[0]
        return f"({known.text})" if sentence and not _WORD.fullmatch(known.text) else known.text

    text = HOLE.sub(value, text)
    return replace(scalar, text=text, value=resolve_scalar(text, quoted=scalar.quoted))


def _narrowed(scalar: Scalar, hole: str) -> Span:
    at = scalar.span.text.find(hole)
    return scalar.span.narrow(at, at + len(hole)) if at >= 0 else scalar.span
