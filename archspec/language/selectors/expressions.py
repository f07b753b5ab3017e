"""The syntax tree of selectors. `at` is the pair of offsets (start, end) of a node in the selector's text."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from archspec.source import Span
from archspec.syntax import words

At = tuple[int, int]


@dataclass(frozen=True)
class Name:
    """A list of blocks of the host, or a name of `let`; `index` chooses from a list of blocks."""

    name: str
    index: Index | None
    at: At = field(compare=False)


@dataclass(frozen=True)
class Glob:
    """Module paths: `*` is any run of characters without a dot, `**` any run, `?` one character, `[..]` a class."""

    pattern: str
    at: At = field(compare=False)


@dataclass(frozen=True)
class Slotted:
    """The sites of one slot within the selected blocks."""

    inner: Expression
    slot: str
    at: At = field(compare=False)


@dataclass(frozen=True)
class Take:
    """The first or last `count` sites, in the order of the host."""

    which: Literal["first", "last"]
    count: int
    inner: Expression
    at: At = field(compare=False)


@dataclass(frozen=True)
class Rank:
    """The `count` sites of which a probe measured most (top) or least (bottom); of equal ones the earlier."""

    which: Literal["top", "bottom"]
    count: int
    inner: Expression
    measure: str
    """As probes name it: `locality(k=32)`."""
    at: At = field(compare=False)


@dataclass(frozen=True)
class Sets:
    """Set algebra, from left to right: union, intersection or difference of at least two parts."""

    op: Literal["|", "&", "-"]
    parts: tuple[Expression, ...]
    at: At = field(compare=False)


Expression = Name | Glob | Slotted | Take | Rank | Sets


@dataclass(frozen=True)
class Every:
    """`[*]`"""


@dataclass(frozen=True)
class Item:
    value: int
    at: At = field(compare=False)


@dataclass(frozen=True)
class Slice:
    """As Python's, but a bound beyond the list is an error."""

    start: int | None
    stop: int | None
    step: int | None
    at: At = field(compare=False)


@dataclass(frozen=True)
class Items:
    parts: tuple[Item | Slice, ...]


@dataclass(frozen=True)
class Where:
    test: Test


Index = Every | Items | Where


@dataclass(frozen=True)
class Variable:
    """`i`, the index of a block, or `n`, the number of blocks."""

    name: Literal["i", "n"]


@dataclass(frozen=True)
class Arithmetic:
    op: Literal["+", "-", "*", "//", "%"]
    left: Term
    right: Term
    at: At = field(compare=False)


Term = int | Variable | Arithmetic


@dataclass(frozen=True)
class Compare:
    """`first op term op term ...`, chained as in Python."""

    first: Term
    rest: tuple[tuple[str, Term], ...]


@dataclass(frozen=True)
class Logic:
    op: Literal["and", "or"]
    parts: tuple[Test, ...]


@dataclass(frozen=True)
class Not:
    inner: Test


Test = Compare | Logic | Not


@dataclass(frozen=True)
class Selector:
    """A parsed selector. Two selectors are equal when their expressions are."""

    text: str = field(compare=False)
    expression: Expression
    span: Span | None = field(default=None, compare=False, repr=False)

    def at(self, at: At) -> Span | None:
        """Return where a node of the expression stands in the spec."""
        return words.place(self.span, self.text, *at)

    def __str__(self) -> str:
        return self.text


def names_in(node: Expression) -> set[str]:
    """Return the names that an expression uses: lists of blocks, and those of `let`."""
    match node:
        case Name():
            return {node.name}
        case Glob():
            return set()
        case Sets():
            return set().union(*map(names_in, node.parts))
    return names_in(node.inner)


def bare_name(selector: Selector) -> str | None:
    """Return the name that a selector is nothing but: where slots or roles are named too, it may be one of them."""
    node = selector.expression
    return node.name if isinstance(node, Name) and node.index is None else None
