"""The DSL printer of `fmt`.

Statements are one line each where they fit and carry no comment inside, else one clause or setting a line. Kinds of
statements (host, selections, edits, stages, expectations) are set apart by a blank line. What the DSL has no words for
(a key of an unknown construct, a selector that does not parse) raises ArchspecError AS160 or the selector's own error.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from archspec.diagnostics import ArchspecError, fail
from archspec.language import shapes
from archspec.language.expectations import check_expectation
from archspec.language.selectors import check_selector
from archspec.source import Span
from archspec.syntax import words
from archspec.syntax.comments import BLANK, UNPRINTABLE, has_comments
from archspec.syntax.print_yaml import escape, lines_above, text_behind
from archspec.syntax.tree import Entry, Map, Scalar, Seq, Tree, resolve_scalar

WIDTH = 100

_WORD = re.compile(r"\$?[A-Za-z_][A-Za-z0-9_]*")
_NUMBER = re.compile(r"[+-]?([0-9][0-9_]*(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?[A-Za-z]*%?")
_KINDS = {"description": 0, "extends": 0, "base": 0, "let": 1, "edits": 2, "expect": 4}
"""What stands together without a blank line; all else are stages."""


def format_dsl(tree: Map) -> str:
    """Return the DSL text of a spec's tree. Raises ArchspecError."""
    printer = _Printer()
    printer.head(tree)
    for entry in tree.entries:
        if entry.key.value not in ("archspec", "name"):
            printer.entry(entry)
    printer.close(tree.comments.end)
    return "\n".join(printer.lines) + "\n"


@dataclass
class _Printer:
    lines: list[str] = field(default_factory=list)
    carried: tuple[str, ...] = ()
    """Comments that end a group of statements: they go above the next one."""
    kind: int = -1

    def head(self, tree: Map) -> None:
        version, name = tree.entry("archspec"), tree.entry("name")
        entries = [entry for entry in (version, name) if entry]
        above = tuple(line for entry in entries for line in entry.comments.above)
        self.lines += lines_above(above, 0, first=True)
        if version and (not _is_one(version.value) or version.comments.behind):
            self.lines.append(f"archspec {_inline(version.value)}{text_behind(version.comments.behind)}")
        text = f" {_quoted(_string(name.value, 'name'))}" if name else ""
        self.lines.append(f"spec{text} {{{text_behind(name.comments.behind if name else '')}")

    def entry(self, entry: Entry) -> None:
        key = str(entry.key.value)
        if key == "let" and isinstance(entry.value, Map):
            self._group(entry, [self._let(inner) for inner in entry.value.entries])
        elif key == "edits" and isinstance(entry.value, Seq):
            self._group(entry, [_edit(item) for item in entry.value.items])
        elif key == "expect" and isinstance(entry.value, Seq):
            self._statement(key, entry.comments.above, _expect(entry.value, entry.comments.behind))
        elif key in words.STANZAS:
            self._statement(key, entry.comments.above, list(_stanza(key, entry)))
        else:
            raise _unspeakable(f"'{key}'", entry.key.span)

    def close(self, end: tuple[str, ...]) -> None:
        self.lines += lines_above((*self.carried, *end), 2, first=False)
        self.lines.append("}")

    def _group(self, entry: Entry, statements: list[tuple[tuple[str, ...], list[str]]]) -> None:
        key, comments = str(entry.key.value), entry.comments
        lead = (*comments.above, *((comments.behind,) if comments.behind else ()))
        if not statements and key == "edits":  # over a parent's edits it means: none of them
            raise fail("AS160", "the DSL has no words for an empty 'edits'", entry.value.span, "leave it out")
        if not statements:
            self.carried = (*self.carried, *lead)
        for above, lines in statements:
            self._statement(key, (*lead, *above), lines)
            lead = ()
        self.carried = (*self.carried, *entry.value.comments.end)

    def _statement(self, key: str, above: tuple[str, ...], lines: list[str]) -> None:
        above, self.carried = (*self.carried, *above), ()
        kind = _KINDS.get(key, 3)
        first = self.kind < 0
        if not first and kind != self.kind and above[:1] != (BLANK,):
            above = (BLANK, *above)
        self.kind = kind
        self.lines += lines_above(above, 2, first=first)
        self.lines += lines

    def _let(self, entry: Entry) -> tuple[tuple[str, ...], list[str]]:
        text = f"  let {_key(entry.key)} = {_selector(entry.value)}{text_behind(entry.comments.behind)}"
        return entry.comments.above, [text]


def _edit(item: Tree) -> tuple[tuple[str, ...], list[str]]:
    """Return the comments above an edit, and its lines."""
    verb = next((e for e in item.entries if e.key.value in words.VERBS), None) if isinstance(item, Map) else None
    if verb is None or not isinstance(item, Map):
        raise _unspeakable("an edit without a verb", item.span)
    clauses = [entry for entry in item.entries if entry is not verb]
    head = f"  {verb.key.value} {_selector(verb.value)}"
    above = (*item.comments.above, *_said(verb.comments.above), *_said(item.comments.end))
    texts = [text for text in (verb.comments.behind, item.comments.behind) if text]
    said = [e for e in (verb, *clauses[:-1]) if e.comments.behind] if clauses else []
    inner = [e for e in clauses if _said(e.comments.above) or has_comments(e.value)]
    line = " ".join([head, *(_clause(entry) for entry in clauses)])
    if not said and not inner and len(line) <= WIDTH:
        last = clauses[-1].comments.behind if clauses else ""
        return above, [f"{line}{text_behind('; '.join([*texts, *([last] if last else [])]))}"]
    lines = [f"{head}{text_behind('; '.join(texts))}"]
    for entry in clauses:
        lines += lines_above(_said(entry.comments.above), 4, first=True)
        lines += _put(f"    {_clause_word(entry)} ", str(entry.key.value), entry.value, "", entry.comments.behind, 4)
    return above, lines


def _clause_word(entry: Entry) -> str:
    if entry.key.value not in words.CLAUSES:
        raise _unspeakable(f"'{entry.key.value}' in an edit", entry.key.span)
    return str(entry.key.value)


def _clause(entry: Entry) -> str:
    word = _clause_word(entry)
    if isinstance(entry.value, Scalar) and entry.value.value is True:
        return word
    return f"{word} {_inline(entry.value, word)}"


def _stanza(key: str, entry: Entry) -> Iterator[str]:
    value, behind = entry.value, entry.comments.behind
    if isinstance(value, Seq):
        raise _unspeakable(f"a list under '{key}'", value.span)
    head = _head(value, key)
    if head and isinstance(value, Map):
        rest = replace(value, entries=tuple(e for e in value.entries if e is not head))
        yield from _put(f"  {key} {_inline(head.value, str(head.key.value))} ", "", rest, "", behind, 2)
    else:
        owner = shapes.shorthands().get(key, key) if isinstance(value, Scalar) else ""
        yield from _put(f"  {key} ", owner, value, "", behind, 2)


def _expect(value: Seq, behind: str) -> list[str]:
    texts = [_expectation(item) for item in value.items]
    line = f"  expect {{ {'; '.join(texts)} }}" if texts else "  expect {}"
    if not has_comments(value) and len(line) <= WIDTH:
        return [f"{line}{text_behind(behind)}"]
    lines = [f"  expect {{{text_behind(behind)}"]
    for number, (item, text) in enumerate(zip(value.items, texts, strict=True)):
        lines += lines_above(item.comments.above, 4, first=number == 0)
        lines.append(f"    {text}{text_behind(item.comments.behind)}")
    return [*lines, *lines_above(value.comments.end, 4, first=False), "  }"]


def _put(prefix: str, owner: str, value: Tree, suffix: str, behind: str, indent: int) -> list[str]:
    """Return the lines of a value behind `prefix`. `owner` is the key it stands under, whose value may be a call."""
    if isinstance(value, Scalar) and value.value is True and not suffix and owner in words.CLAUSES:
        return [f"{prefix.rstrip()}{text_behind(behind)}"]
    line = f"{prefix}{_inline(value, owner)}"
    if isinstance(value, Scalar) or (not has_comments(value) and len(line) <= WIDTH) or _is_empty(value):
        return [f"{line}{suffix}{text_behind(behind)}"]
    if isinstance(value, Seq):
        return [f"{prefix}[{text_behind(behind)}", *_list_lines(value, indent), f"{' ' * indent}]{suffix}"]
    head = _head(value, owner) if owner in words.CLAUSES else None
    entries = tuple(entry for entry in value.entries if entry is not head)
    body = _map_lines(replace(value, entries=entries), indent, "," if head else "")
    opening, closing = (f"{_inline(head.value)}(", ")") if head else ("{", "}")
    return [f"{prefix}{opening}{text_behind(behind)}", *body, f"{' ' * indent}{closing}{suffix}"]


def _map_lines(value: Map, indent: int, comma: str) -> Iterator[str]:
    for number, entry in enumerate(value.entries):
        yield from lines_above(entry.comments.above, indent + 2, first=number == 0)
        prefix = f"{' ' * (indent + 2)}{_key(entry.key)} = "
        suffix = comma if number + 1 < len(value.entries) else ""
        yield from _put(prefix, str(entry.key.value), entry.value, suffix, entry.comments.behind, indent + 2)
    yield from lines_above(value.comments.end, indent + 2, first=not value.entries)


def _list_lines(value: Seq, indent: int) -> Iterator[str]:
    for number, item in enumerate(value.items):
        yield from lines_above(item.comments.above, indent + 2, first=number == 0)
        suffix = "," if number + 1 < len(value.items) else ""
        yield from _put(" " * (indent + 2), "", item, suffix, item.comments.behind, indent + 2)
    yield from lines_above(value.comments.end, indent + 2, first=False)


def _inline(value: Tree, owner: str = "") -> str:
    match value:
        case Scalar():
            return _selector(value) if owner in words.SELECTING else _scalar(value, owner)
        case Seq():
            return f"[{', '.join(map(_inline, value.items))}]"
    head = _head(value, owner) if owner in words.CLAUSES else None
    settings = [f"{_key(e.key)} = {_inline(e.value, str(e.key.value))}" for e in value.entries if e is not head]
    if head:
        return f"{_inline(head.value)}({', '.join(text.replace(' = ', '=', 1) for text in settings)})"
    return f"{{ {'; '.join(settings)} }}" if settings else "{}"


def _head(value: Tree, owner: str) -> Entry | None:
    """Return the entry that stands in front of the braces: that of the shorthand key, unless it carries comments."""
    short = shapes.shorthands().get(owner)
    entry = value.entry(short) if short and isinstance(value, Map) else None
    if entry is None or not isinstance(entry.value, Scalar) or _said(entry.comments.above) or entry.comments.behind:
        return None
    if owner in words.CLAUSES and not _is_word(entry.value):
        return None
    return entry


def _is_word(value: Scalar) -> bool:
    return isinstance(value.value, str) and _scalar(value) == value.value and bool(_WORD.fullmatch(value.value))


def _is_one(value: Tree) -> bool:
    return isinstance(value, Scalar) and value.value == 1


def _is_empty(value: Map | Seq) -> bool:
    return not (value.entries if isinstance(value, Map) else value.items) and not value.comments.end


def _scalar(scalar: Scalar, key: str = "") -> str:
    """Print a scalar; texts that are no choice among words stand in quotes, as do those that need them."""
    value, text = scalar.value, scalar.text
    if isinstance(value, str) and key in shapes.texts() and (value != "none" or scalar.quoted):
        return _quoted(value)
    if not isinstance(value, str):
        bare = (_NUMBER.fullmatch(text) or _WORD.fullmatch(text)) and resolve_scalar(text) == value
        return text if bare else json.dumps(value)
    word = (_WORD.fullmatch(value) and value not in words.RESERVED) or _NUMBER.fullmatch(value)
    if word and isinstance(resolve_scalar(value), str) and not (value == "none" and scalar.quoted):
        return value
    return _quoted(value)


def _quoted(text: str) -> str:
    return UNPRINTABLE.sub(escape, json.dumps(text, ensure_ascii=False))


def _string(value: Tree, what: str) -> str:
    if not isinstance(value, Scalar) or not isinstance(value.value, str):
        raise _unspeakable(f"a {what} that is no text", value.span)
    return value.value


def _key(key: Scalar) -> str:
    if not _WORD.fullmatch(str(key.value)) or str(key.value).startswith("$"):
        raise _unspeakable(f"the key '{key.value}'", key.span)
    return str(key.value)


def _selector(value: Tree) -> str:
    return check_selector(_string(value, "selector"), value.span).strip()


def _expectation(value: Tree) -> str:
    return check_expectation(_string(value, "expectation"), value.span).strip()


def _unspeakable(what: str, span: Span) -> ArchspecError:
    return fail("AS160", f"the DSL has no words for {what}", span, "'archspec validate' tells what is wrong with it")


def _said(lines: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(line for line in lines if line != BLANK)
