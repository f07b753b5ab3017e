"""Comments and blank lines, put where they belong in a syntax tree.

Parsers drop comments. `find` recovers them from the gaps between opaque spans (quoted and plain scalars), and `attach`
gives each to an item, an entry of a map or an element of a list, by three rules:

* text stands before it on its line: *behind* the outermost item that ends, or begins, there;
* it closes a collection (no further item follows in braces or brackets, or it is indented as the items of a block that
  is over): at the *end* of that collection;
* else: *above* the next item.

Blank lines are kept as "\\n" lines among the comments, never two in a row.
"""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace

from archspec.source import Source
from archspec.syntax.tree import Comments, Entry, Map, Scalar, Seq, Tree

BLANK = "\n"
Path = tuple[int, ...]
"""Indices from the root: of an item, and of the collection that is its value."""

UNPRINTABLE = re.compile("[^\x20-\x7e\xa0-\u2027\u202a-\ud7ff\ue000-\ufefe\uff00-\ufffd\U00010000-\U0010ffff]")
"""What YAML does not take as text, or takes for the end of a line."""

_TRIVIA = re.compile(r"#[^\n]*|^[ \t\r]*\n", re.MULTILINE)


@dataclass(frozen=True)
class Trivia:
    """A comment's text without `#` and one space, or BLANK."""

    start: int
    text: str
    own_line: bool


@dataclass(frozen=True)
class _Item:
    path: Path
    start: int
    head: int
    """Where its key ends."""
    end: int


def find(text: str, opaque: Iterable[tuple[int, int]]) -> Iterator[Trivia]:
    """Yield comments and blank lines of `text` outside the `opaque` spans, which are in order."""
    position = 0
    for start, end in [*opaque, (len(text), len(text))]:
        for found in _TRIVIA.finditer(text, position, max(position, start)):
            yield _trivia(text, found)
        position = max(position, end)


def _trivia(text: str, found: re.Match[str]) -> Trivia:
    if not found[0].startswith("#"):
        return Trivia(found.start(), BLANK, True)
    line_start = text.rfind("\n", 0, found.start()) + 1
    own_line = not text[line_start : found.start()].strip()
    return Trivia(found.start(), found[0][1:].removeprefix(" ").rstrip(), own_line)


def written(comment: str) -> str:
    """Return a comment as it stands in a file.

    >>> written("why"), written(""), written("# title")
    ('# why', '#', '## title')
    """
    comment = UNPRINTABLE.sub("\ufffd", comment.replace("\t", " "))
    return f"#{comment}" if comment[:1] in ("", "#", "!") else f"# {comment}"


def has_comments(tree: Tree) -> bool:
    """Tell whether a comment (not a blank line alone) stands anywhere within a value."""
    if _said(Comments(end=tree.comments.end)):
        return True
    match tree:
        case Map():
            return any(_said(entry.comments) or has_comments(entry.value) for entry in tree.entries)
        case Seq():
            return any(_said(item.comments) or has_comments(item) for item in tree.items)
        case Scalar():
            return False


def _said(comments: Comments) -> bool:
    return bool(comments.behind) or any(line != BLANK for line in (*comments.above, *comments.end))


def attach(tree: Map, source: Source, trivia: Iterable[Trivia], closed: Callable[[Path, Map | Seq], bool]) -> Map:
    """Return the tree with its comments. `closed` tells which collections stand between brackets."""
    attacher = _Attacher(source, closed)
    attacher.register(tree, ())
    attacher.order()
    attacher.place(list(trivia))
    return attacher.rebuild(tree, ())


@dataclass
class _Attacher:
    source: Source
    closed: Callable[[Path, Map | Seq], bool]
    items: list[_Item] = field(default_factory=list)
    starts: list[int] = field(default_factory=list)
    by_path: dict[Path, _Item] = field(default_factory=dict)
    collections: dict[Path, Map | Seq] = field(default_factory=dict)
    above: dict[Path, list[str]] = field(default_factory=dict)
    behind: dict[Path, str] = field(default_factory=dict)
    end: dict[Path, list[str]] = field(default_factory=dict)

    def register(self, tree: Tree, path: Path) -> None:
        if isinstance(tree, Scalar):
            return
        self.collections[path] = tree
        for number, child in enumerate(tree.entries if isinstance(tree, Map) else tree.items):
            inner = (*path, number)
            value = child.value if isinstance(child, Entry) else child
            span = child.key.span if isinstance(child, Entry) else child.span
            if span.end > span.start:  # else it is not written: the list that scattered statements make up
                head = span.end if isinstance(child, Entry) else span.start
                self.by_path[inner] = _Item(inner, span.start, head, max(head, value.span.end))
            self.register(value, inner)

    def order(self) -> None:
        self.items = sorted(self.by_path.values(), key=lambda item: (item.start, len(item.path)))
        self.starts = [item.start for item in self.items]

    def place(self, trivia: list[Trivia]) -> None:
        blank: list[str] | None = None
        nothing: list[str] = []
        for one in trivia:
            above, previous = self._next(one.start), self._previous(one.start)
            target = self.above.setdefault(above.path, []) if above else nothing
            if blank is not None and blank is not target:
                self._add(blank, BLANK)
                blank = None
            if one.text == BLANK:
                blank = target
                continue
            owner = None if one.own_line or previous is None else self._owner(previous, one.start)
            if owner:
                known = self.behind.get(owner.path)
                self.behind[owner.path] = f"{known}; {one.text}" if known else one.text
                continue
            over = self._over(previous, above, one)
            if over is not None:
                target = self.end.setdefault(over, [])
            if blank is not None:
                self._add(target, BLANK)
                blank = None
            target.append(one.text)
        if blank is not None:
            self._add(blank, BLANK)

    @staticmethod
    def _add(lines: list[str], line: str) -> None:
        if not lines or lines[-1] != line:
            lines.append(line)

    def _next(self, offset: int) -> _Item | None:
        index = bisect_right(self.starts, offset)
        return self.items[index] if index < len(self.items) else None

    def _previous(self, offset: int) -> _Item | None:
        index = bisect_left(self.starts, offset)
        return self.items[index - 1] if index else None

    def _owner(self, item: _Item, offset: int) -> _Item | None:
        """Return the item that a comment behind some text belongs to, given the last item that began before it."""
        while (parent := self.by_path.get(item.path[:-1])) and item.end < parent.end <= offset:
            item = parent
        anchor = item.end if item.end <= offset else item.head
        return None if "\n" in self.source.text[anchor:offset] else item

    def _over(self, previous: _Item | None, following: _Item | None, one: Trivia) -> Path | None:
        """Return the path of the collection that a comment on its own line closes, if it does."""
        if previous is None:
            return None if following else ()
        chain = [previous.path[:k] for k in range(len(previous.path) + 1)]
        open_ = [p for p in chain if p in self.collections and not _within(following, p)]
        for path in reversed(chain):
            collection = self.collections.get(path)
            if collection and self.closed(path, collection) and collection.span.end > one.start:
                return path if path in open_ else None
        column = self.source.position(one.start)[1]
        if following and column <= self._indent(following):
            return None
        found: Path | None = () if following is None else None
        deepest = 0
        for path in open_:
            indent = self.collections[path].span.column
            deeper = deepest < indent <= column or deepest == indent < column  # a list may stand as far left as its key
            if deeper and not self.closed(path, self.collections[path]):
                found, deepest = path, indent
        return found

    def _indent(self, item: _Item) -> int:
        """Return the column of an item; of an element of a block list, that of its dash."""
        parent = self.collections[item.path[:-1]]
        if isinstance(parent, Seq) and not self.closed(item.path[:-1], parent):
            return parent.span.column
        return self.source.position(item.start)[1]

    def rebuild(self, tree: Map, path: Path) -> Map:
        rebuilt = self._rebuild(tree, path, item=False)
        assert isinstance(rebuilt, Map)
        return rebuilt

    def _rebuild(self, tree: Tree, path: Path, *, item: bool) -> Tree:
        """`item`: an element of a list, which carries its own comments; a value's are at its entry."""
        comments = self._comments(path, item=item, end=True)
        match tree:
            case Scalar():
                return replace(tree, comments=comments)
            case Seq():
                items = (self._rebuild(x, (*path, k), item=True) for k, x in enumerate(tree.items))
                return replace(tree, items=tuple(items), comments=comments)
            case Map():
                entries = (
                    replace(
                        entry,
                        value=self._rebuild(entry.value, (*path, k), item=False),
                        comments=self._comments((*path, k), item=True, end=False),
                    )
                    for k, entry in enumerate(tree.entries)
                )
                return replace(tree, entries=tuple(entries), comments=comments)

    def _comments(self, path: Path, *, item: bool, end: bool) -> Comments:
        above = tuple(self.above.get(path, ())) if item else ()
        behind = self.behind.get(path, "") if item else ""
        return Comments(above, behind, tuple(self.end.get(path, ())) if end else ())


def _within(item: _Item | None, path: Path) -> bool:
    return item is not None and item.path[: len(path)] == path and len(item.path) > len(path)
