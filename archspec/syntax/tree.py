"""The syntax tree that both spellings of the language parse to.

YAML and the DSL differ only in text: `yaml_syntax` and `dsl_syntax` each turn a `Source` into one `Map`, and
`build` turns a `Map` into a `Spec`. So the two spellings cannot drift apart, and `fmt` prints either from either.

Scalars are resolved here by one lexical rule for both spellings (YAML 1.1's surprises, `on`, `no`, `1e-4` read as
text, do not apply): integers may have `_`, floats may have an exponent, `10%` is the float 0.1, `true`, `false`,
`null`; a quoted scalar is always text; anything else is text.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from archspec.source import Span

Value = str | int | float | bool | None

_DIGITS = r"[0-9]+(_[0-9]+)*"
_INT = re.compile(rf"[+-]?{_DIGITS}\Z")
_FLOAT = re.compile(rf"[+-]?({_DIGITS}(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?\Z")
_PERCENT = re.compile(r"[+-]?[0-9]+(\.[0-9]+)?\s*%\Z")
_WORDS: dict[str, Value] = {"true": True, "false": False, "null": None, "none": "none"}


def resolve_scalar(text: str, *, quoted: bool = False) -> Value:
    """Return the value that a scalar's text stands for.

    >>> [resolve_scalar(t) for t in ("50_000", "1e-4", "10%", "true", "blocks[*]")]
    [50000, 0.0001, 0.1, True, 'blocks[*]']
    """
    if quoted:
        return text
    if text in _WORDS:
        return _WORDS[text]
    if _INT.match(text) and len(text) < 40:
        return int(text)
    if _FLOAT.match(text):
        return float(text)
    if _PERCENT.match(text):
        return float(text.rstrip("% ")) / 100
    return text


@dataclass(frozen=True)
class Comments:
    """Comment lines above an item and the one behind it, without their `#` and one space; "\\n" is a blank line."""

    above: tuple[str, ...] = ()
    behind: str = ""
    end: tuple[str, ...] = ()  # after the last item of a map or list


NO_COMMENTS = Comments()


@dataclass(frozen=True)
class Scalar:
    value: Value
    text: str
    span: Span = field(compare=False, repr=False)
    quoted: bool = False
    comments: Comments = field(default=NO_COMMENTS, compare=False)


@dataclass(frozen=True)
class Seq:
    items: tuple[Tree, ...]
    span: Span = field(compare=False, repr=False)
    comments: Comments = field(default=NO_COMMENTS, compare=False)


@dataclass(frozen=True)
class Entry:
    key: Scalar
    value: Tree
    comments: Comments = field(default=NO_COMMENTS, compare=False)


@dataclass(frozen=True)
class Map:
    entries: tuple[Entry, ...]
    span: Span = field(compare=False, repr=False)
    comments: Comments = field(default=NO_COMMENTS, compare=False)

    def entry(self, key: str) -> Entry | None:
        return next((e for e in self.entries if e.key.value == key), None)

    def span_of(self, key: str) -> Span:
        """Return the span of the value under `key`, or of the whole map when the key is not written."""
        found = self.entry(key)
        return found.value.span if found else self.span

    def key_span(self, key: str) -> Span:
        found = self.entry(key)
        return found.key.span if found else self.span

    def keys(self) -> Iterator[str]:
        return (str(e.key.value) for e in self.entries)


Tree = Scalar | Seq | Map


def plain(tree: Tree) -> object:
    """Return the tree as dicts, lists and scalars: for JSON Schema, hashes and tests."""
    match tree:
        case Map():
            return {str(e.key.value): plain(e.value) for e in tree.entries}
        case Seq():
            return [plain(item) for item in tree.items]
        case Scalar():
            return tree.value
