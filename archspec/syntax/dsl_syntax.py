"""DSL text to the syntax tree that YAML gives: `let` and edit statements are gathered under `let` and `edits`.

    replace odd.attn with hyena_x(kernel=4) init random
    -> edits: [{replace: odd.attn, with: {op: hyena_x, kernel: 4}, init: random}]

A word in front of parentheses or braces is the value of its construct's shorthand key (`op`, `kind`, `from`). After a
syntax error the statement that holds it is blanked and the text is read again, so that one run reports every error.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from archspec.diagnostics import Collector
from archspec.language.shapes import shorthands
from archspec.source import Source, Span
from archspec.syntax import comments, grammar, words
from archspec.syntax.tree import Entry, Map, Scalar, Seq, Tree, resolve_scalar
from archspec.syntax.words import Refused
from archspec.syntax.yaml_syntax import check_size

if TYPE_CHECKING:
    from lark import Token
    from lark import Tree as Parsed

MAX_ERRORS = 20

_OPENING = ("let", "expect", *words.VERBS, *words.STANZAS)
_START = re.compile(rf"(?:^[ \t]*|[;{{][ \t]*(?={'|'.join(_OPENING)}))(\w+)\b(?!\s*=(?!=))", re.MULTILINE)
"""A word that may begin a statement: the first of a line, or a reserved one behind `;` or `{`; none that is set."""
_SIGN = re.compile(rf"{words.OPAQUE}|[\[({{\])}};]|^[ \t]*(?P<word>\w+)\b(?P<set>\s*=(?!=))?", re.MULTILINE)


def parse_dsl(source: Source) -> Map:
    """Return the tree of a DSL spec. Raises ArchspecError with every mistake found."""
    collector = Collector()
    check_size(source, collector)
    collector.raise_if_errors()
    parsed = _parse(source, collector)
    collector.raise_if_errors()
    assert parsed is not None
    tree = _Builder(source, collector).spec(parsed)
    collector.raise_if_errors()
    opaque = ((s.start(), s.end()) for s in re.finditer(words.OPAQUE, source.text) if s[0][0] != "#")
    return comments.attach(tree, source, comments.find(source.text, opaque), _bracketed)


def _bracketed(path: comments.Path, part: Map | Seq) -> bool:
    return path == () or part.span.text[-1:] in ("}", ")") or part.span.text[:1] == "["


def _parse(source: Source, collector: Collector) -> Parsed[Token] | None:
    text: str | None = source.text
    for _ in range(MAX_ERRORS):
        if text is None:
            break
        try:
            return grammar.parse(text, "spec")
        except Refused as refused:
            span = source.span(refused.start, refused.end)
            collector.report(refused.code, refused.message, span, *refused.hints)
            text = _without(text, refused.start)
    return None


def _without(text: str, offset: int) -> str | None:
    """Return the text with the statement around `offset` blanked; None when nothing is left to leave out."""
    starts = [s for s in _START.finditer(text) if s.start(1) <= offset and s[1] not in words.CLAUSES]
    if starts and starts[-1].start(1) == offset and starts[-1][1] in _OPENING:
        starts.pop()  # a statement begins where the one before it should go on
    if not starts or "{" not in text[: starts[-1].start(1)]:
        return None
    begin = starts[-1].start(1)
    end = _end_of_statement(text, begin)
    return text[:begin] + re.sub(r"[^\n]", " ", text[begin:end]) + text[end:]


def _end_of_statement(text: str, begin: int) -> int:
    """Return where the next statement or setting begins, or the braces around this one end."""
    open_: list[str] = []
    for sign in _SIGN.finditer(text, begin):
        word = sign["word"]
        if sign[0] in words.CLOSING:
            open_.append(words.CLOSING[sign[0]])
        elif sign[0] in open_:  # closes what is open within as well
            del open_[len(open_) - 1 - open_[::-1].index(sign[0]) :]
        elif sign[0] in words.CLOSING.values():
            return sign.start()
        elif not open_ and sign[0] == ";":
            return sign.end()
        if word and sign.start("word") > begin:
            opening = word in _OPENING and not sign["set"]
            if opening or (not open_ and word not in words.CLAUSES):
                return sign.start("word")
    return len(text)


@dataclass
class _Builder:
    source: Source
    collector: Collector

    def spec(self, parsed: Parsed[Token]) -> Map:
        entries: dict[str, Entry] = {}
        lets: list[Entry] = []
        edits: list[Tree] = []
        for part in parsed.children:
            for entry in self._statement(part, lets, edits):
                self._add(entries, entry)
        span = self.source.span(_start(parsed.children[0]), len(self.source.text))
        ordered = list(entries.values())
        groups = [_group("let", Map(tuple(lets), _cover(lets)))] if lets else []
        groups += [_group("edits", Seq(tuple(edits), _cover(edits)))] if edits else []
        for group in groups:
            where = next((k for k, e in enumerate(ordered) if e.key.span.start > group.key.span.start), len(ordered))
            ordered.insert(where, group)
        return Map(tuple(ordered), span)

    def _add(self, entries: dict[str, Entry], entry: Entry) -> None:
        name = str(entry.key.value)
        if name in entries:
            first = entries[name].key.span
            self.collector.report("AS107", f"'{name}' is written twice", entry.key.span,
                                  f"first written on line {first.line}")  # fmt: skip
        entries.setdefault(name, entry)

    def _statement(self, part: Token | Parsed[Token], lets: list[Entry], edits: list[Tree]) -> Iterator[Entry]:
        """Yield the entries of the top level that a part of the file gives; lets and edits go to their lists."""
        if isinstance(part, str):
            yield from self._head(part)
            return
        match str(part.data):
            case "version":
                yield Entry(self._word(part.children[0]), self._scalar(part.children[1]))
            case "let":
                self._let(part, lets)
            case "edit":
                edits.append(self._edit(part))
            case "stanza":
                yield self._stanza(part)
            case "expect":
                items = tuple(self._text(child) for child in _trees(part))
                yield Entry(self._word(part.children[0]), Seq(items, self._brace(part)))

    def _head(self, token: Token) -> Iterator[Entry]:
        """`spec "name"`: the word stands for the version, unless that is written."""
        if token.type == "SPEC":
            span = self._span(token)
            if not re.match(r"\s*(#[^\n]*\s*)*archspec\b", self.source.text):
                yield Entry(Scalar("archspec", "archspec", span), Scalar(1, "1", span))
        elif token.type == "STRING":
            span = self._span(token)
            yield Entry(Scalar("name", "name", span), self._scalar(token))

    def _let(self, part: Parsed[Token], lets: list[Entry]) -> None:
        entry = Entry(self._word(part.children[1]), self._text(part.children[2]))
        known = {e.key.value: e.key.span for e in lets}
        if entry.key.value in known:
            hint = f"first written on line {known[entry.key.value].line}"
            self.collector.report("AS107", f"'{entry.key.value}' is written twice", entry.key.span, hint)
            return
        lets.append(entry)

    def _edit(self, part: Parsed[Token]) -> Map:
        entries: dict[str, Entry] = {}
        self._add(entries, Entry(self._word(part.children[0]), self._text(part.children[1])))
        for clause in _trees(part)[1:]:
            word = self._word(clause.children[0])
            self._add(entries, Entry(word, self._clause(word, clause.children[1:])))
        return Map(tuple(entries.values()), self._span(part))

    def _clause(self, word: Scalar, rest: list[Token | Parsed[Token]]) -> Tree:
        if not rest:
            return self._true(word)
        return self._text(rest[0]) if word.value in words.SELECTING else self._value(rest[0], str(word.value))

    def _stanza(self, part: Parsed[Token]) -> Entry:
        word = self._word(part.children[0])
        values = [self._value(child, str(word.value)) for child in part.children[1:]]
        if len(values) == 1:
            return Entry(word, values[0])
        head, settings = values
        assert isinstance(head, Scalar)
        assert isinstance(settings, Map)
        span = self.source.span(head.span.start, settings.span.end)
        return Entry(word, self._headed(str(word.value), head, settings.entries, span))

    def _value(self, part: Token | Parsed[Token], owner: str) -> Tree:
        """Return a scalar, list, map or call; `owner` is the key it stands under."""
        if isinstance(part, str):
            return self._scalar(part)
        match str(part.data):
            case "scalar":
                return self._scalar(part.children[0])
            case "list":
                return Seq(tuple(self._value(child, owner) for child in part.children), self._span(part))
            case "map":
                return Map(self._settings(_trees(part)), self._span(part))
        head = self._scalar(part.children[0])
        return self._headed(owner, head, self._settings(_trees(part)), self._span(part))

    def _headed(self, owner: str, head: Scalar, settings: tuple[Entry, ...], span: Span) -> Map:
        key = shorthands().get(owner)
        if key is None:
            self.collector.report("AS123", f"'{owner}' takes settings, or one value; not both", head.span,
                                  f"write `{owner} {{ ... }}`")  # fmt: skip
            return Map(settings, span)
        written = next((entry for entry in settings if entry.key.value == key), None)
        if written:
            self.collector.report("AS107", f"'{key}' is written twice", written.key.span, f"'{head.text}' is its value")
        return Map((Entry(Scalar(key, key, head.span), head), *settings), span)

    def _settings(self, parts: list[Parsed[Token]]) -> tuple[Entry, ...]:
        entries: dict[str, Entry] = {}
        for part in parts:
            key = self._word(part.children[0])
            self._add(entries, Entry(key, self._value(part.children[1], str(key.value))))
        return tuple(entries.values())

    def _text(self, part: Token | Parsed[Token]) -> Scalar:
        """Return a selector or an expectation as its text, on one line and without comments."""
        span = self._span(part)
        text = re.sub(words.OPAQUE, lambda s: " " if s[0][0] == "#" else s[0].replace(" ", "\0"), span.text)
        text = " ".join(text.split()).replace("\0", " ")
        return Scalar(text, text, span)

    def _scalar(self, part: Token | Parsed[Token]) -> Scalar:
        assert isinstance(part, str)
        span, text = self._span(part), str(part)
        if part.type != "STRING":
            return Scalar(resolve_scalar(text), text, span)
        if text.startswith("'"):
            return Scalar(text[1:-1], text[1:-1], span, quoted=True)
        try:
            value = str(json.loads(text, strict=False))
        except json.JSONDecodeError as error:
            at = span.narrow(error.pos, error.pos + 1)
            self.collector.report("AS124", "unknown escape in a text", at, "write '\\\\' for a backslash")
            value = ""
        return Scalar(value, value, span, quoted=True)

    def _word(self, part: Token | Parsed[Token]) -> Scalar:
        return Scalar(str(part), str(part), self._span(part))

    def _true(self, word: Scalar) -> Scalar:
        end = word.span.end
        return Scalar(True, "true", self.source.span(end, end))

    def _span(self, part: Token | Parsed[Token]) -> Span:
        return self.source.span(_start(part), _end(part))

    def _brace(self, part: Parsed[Token]) -> Span:
        """Return the span of the braces behind a word."""
        word = self._span(part.children[0])
        return self.source.span(word.end, _end(part))


def _group(name: str, value: Map | Seq) -> Entry:
    """Return the entry of scattered statements; its key is written nowhere, so its span is empty."""
    span = value.span.source.span(value.span.start, value.span.start)
    return Entry(Scalar(name, name, span), value)


def _cover(parts: list[Entry] | list[Tree]) -> Span:
    spans = [part.key.span if isinstance(part, Entry) else part.span for part in parts]
    return spans[0].source.span(spans[0].start, max(span.end for span in spans))


def _trees(part: Parsed[Token]) -> list[Parsed[Token]]:
    return [child for child in part.children if not isinstance(child, str)]


def _start(part: Token | Parsed[Token]) -> int:
    return (part.start_pos or 0) if isinstance(part, str) else part.meta.start_pos


def _end(part: Token | Parsed[Token]) -> int:
    return (part.end_pos or 0) if isinstance(part, str) else part.meta.end_pos
