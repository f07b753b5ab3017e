"""YAML text to the syntax tree.

Only a plain part of YAML is in the language: maps, lists and scalars. Anchors, aliases, merge keys, tags, directives,
several documents and keys that are not text are refused, each with its place. The tree is composed from PyYAML's events
(libyaml's, where it is built in), so nothing is ever expanded and depth is checked while reading; scalars are resolved
by `tree.resolve_scalar`, not by YAML's own rules.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import yaml

from archspec.diagnostics import Collector
from archspec.source import Source, Span
from archspec.syntax import comments
from archspec.syntax.tree import Entry, Map, Scalar, Seq, Tree, resolve_scalar
from archspec.syntax.words import MAX_DEPTH

MAX_SIZE = 1024**2
"""Longest spec, in characters."""

_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def parse_yaml(source: Source, *, foreign: str | None = None) -> Map:
    """Return the tree of a YAML spec. Raises ArchspecError with every mistake found. `foreign`: how a file begins that
    is no spec; its keys may be numbers and words."""
    collector = Collector()
    check_size(source, collector)
    collector.raise_if_errors()
    tree = _compose(source, collector, foreign is not None)
    collector.raise_if_errors()
    if not isinstance(tree, Map):
        span = tree.span if tree else source.span(0, 0)
        what, begin = ("this file", foreign) if foreign else ("a spec", "`name: ...` and `base: ...`")
        collector.report("AS113", f"{what} is a map of keys", span, f"begin with {begin}")
        collector.raise_if_errors()
    assert isinstance(tree, Map)
    trivia = comments.find(source.text, _opaque(tree, source.text))
    return comments.attach(tree, source, trivia, lambda _, part: part.span.text[:1] in ("{", "["))


def check_size(source: Source, collector: Collector) -> None:
    if len(source.text) > MAX_SIZE:
        collector.report("AS103", f"'{source.name}' has more than {MAX_SIZE // 1024**2} MiB", source.span(0, 0))


def _compose(source: Source, collector: Collector, foreign: bool) -> Tree | None:
    try:
        return _Composer(source, collector, foreign).document()
    except yaml.MarkedYAMLError as error:
        _report(error, source, collector)
    except yaml.reader.ReaderError as error:
        at = max(source.text.find(chr(error.character)), 0)  # libyaml's position counts bytes
        span = source.span(at, at + 1)
        collector.report("AS105", f"character #x{error.character:04x} is not allowed in YAML", span)
    except _TooDeep:
        pass
    return None


class _TooDeep(Exception):
    """Reading stopped at MAX_DEPTH."""


class _Composer:
    """Builds nodes from events; recursion is bounded by MAX_DEPTH."""

    def __init__(self, source: Source, collector: Collector, foreign: bool) -> None:
        self.source, self.collector, self.foreign = source, collector, foreign
        self.events: Iterator[yaml.Event] = yaml.parse(source.text, Loader=_LOADER)

    def document(self) -> Tree | None:
        next(self.events)
        tree: Tree | None = None
        for event in self.events:
            match event:
                case yaml.DocumentStartEvent():
                    self._document_start(event, first=tree is None)
                case yaml.DocumentEndEvent() | yaml.StreamEndEvent():
                    pass
                case _:
                    node = self.node(event, 0)
                    tree = tree or node
        return tree

    def _document_start(self, event: yaml.DocumentStartEvent, *, first: bool) -> None:
        span = self._span(event)
        if event.version or event.tags:
            self.collector.report("AS110", "directives are not part of the language", span, "remove the '%' lines")
        if not first:
            hint = "write it to a file of its own, or remove this `---` and what follows"
            self.collector.report("AS111", "a file holds one spec; this begins a second document", span, hint)

    def node(self, event: yaml.Event, depth: int) -> Tree:
        span = self._span(event)
        if depth > MAX_DEPTH:
            self.collector.report("AS112", f"nested more than {MAX_DEPTH} deep", span)
            raise _TooDeep
        self._refuse_extras(event, span)
        match event:
            case yaml.MappingStartEvent():
                return self._map(event, span, depth)
            case yaml.SequenceStartEvent():
                return self._list(event, span, depth)
            case yaml.ScalarEvent():
                return _scalar(event, span)
        return Scalar(None, "", span)  # an alias, which has been refused

    def _refuse_extras(self, event: yaml.Event, span: Span) -> None:
        if isinstance(event, yaml.AliasEvent):
            hint = "write the value again, or name a selection with `let`"
            self.collector.report("AS109", f"alias '*{event.anchor}' is not part of the language", span, hint)
        elif getattr(event, "anchor", None):
            self.collector.report("AS109", "anchors are not part of the language", span, "remove the '&' and its name")
        if getattr(event, "tag", None):
            self.collector.report("AS110", "tags are not part of the language", span, "remove the '!' and its name")

    def _map(self, start: yaml.MappingStartEvent, span: Span, depth: int) -> Map:
        entries: list[Entry] = []
        keys: dict[object, Scalar] = {}
        while not isinstance(event := next(self.events), yaml.MappingEndEvent):
            key = self.node(event, depth + 1)
            value = self.node(next(self.events), depth + 1)
            if self._key_is_fine(key, keys):
                assert isinstance(key, Scalar)
                keys[key.value] = key
                entries.append(Entry(key, value))
        end = _end(event) if start.flow_style else entries[-1].value.span.end if entries else span.end
        return Map(tuple(entries), self.source.span(span.start, end))

    def _key_is_fine(self, key: Tree, known: dict[object, Scalar]) -> bool:
        if not isinstance(key, Scalar) or not (isinstance(key.value, str) or self.foreign) or key.text == "":
            quote = (f'write "{key.text}" in quotes',) if isinstance(key, Scalar) and key.text else ()
            self.collector.report("AS108", "a key must be text", key.span, *quote)
        elif key.value == "<<" and not key.quoted:
            self.collector.report("AS109", "merge keys are not part of the language", key.span, "use `extends`")
        elif key.value in known:
            first = known[key.value].span
            hint = f"first written on line {first.line}"
            self.collector.report("AS107", f"key '{key.value}' is written twice", key.span, hint)
        else:
            return True
        return False

    def _list(self, start: yaml.SequenceStartEvent, span: Span, depth: int) -> Seq:
        items: list[Tree] = []
        while not isinstance(event := next(self.events), yaml.SequenceEndEvent):
            items.append(self.node(event, depth + 1))
        end = _end(event) if start.flow_style else items[-1].span.end if items else span.end
        return Seq(tuple(items), self.source.span(span.start, end))

    def _span(self, event: yaml.Event) -> Span:
        mark: Any = event.start_mark
        start, end = mark.index, _end(event)
        if isinstance(event, yaml.ScalarEvent) and event.style in ("|", ">"):
            end = start + len(self.source.text[start:end].rstrip())
        return self.source.span(start, end)


def _end(event: yaml.Event) -> int:
    mark: Any = event.end_mark
    return int(mark.index)


def _scalar(event: yaml.ScalarEvent, span: Span) -> Scalar:
    quoted = event.style in ("'", '"', "|", ">")
    if not event.value and not quoted:
        return Scalar(None, "null", span)
    return Scalar(resolve_scalar(event.value, quoted=quoted), event.value, span, quoted)


def _opaque(tree: Tree, text: str) -> Iterator[tuple[int, int]]:
    """Yield the spans of scalars in order; of a block scalar, what comes behind its first line (`key: |  # why`)."""
    match tree:
        case Map():
            for entry in tree.entries:
                yield from _opaque(entry.key, text)
                yield from _opaque(entry.value, text)
        case Seq():
            for item in tree.items:
                yield from _opaque(item, text)
        case Scalar():
            start = tree.span.start
            if tree.quoted and text[start : start + 1] in ("|", ">"):
                start = text.find("\n", start) if "\n" in text[start : tree.span.end] else tree.span.end
            yield start, tree.span.end


_HINTS: tuple[tuple[str, str], ...] = (
    ("mapping values are not allowed", "quote a text that holds ': ', and indent keys of one map alike"),
    ("found unexpected end of stream", "close the quotes"),
    ("expected ',' or ']'", "close the list with ']'"),
    ("expected ',' or '}'", "close the map with '}'"),
    ("expected '-' indicator", "indent the entries of one list alike"),
    ("expected key", "indent the keys of one map alike; write `key: value`"),
    ("could not find expected ':'", "write `key: value`"),
    ("expected alphabetic or numeric", "quote a text that begins with '*' or '&'"),
    ("unknown escape", "write '\\\\' for a backslash, or use single quotes"),
)


def _report(error: yaml.MarkedYAMLError, source: Source, collector: Collector) -> None:
    mark: Any = error.problem_mark or error.context_mark
    at = mark.index if mark else 0
    problem = str(error.problem or error.context)
    if source.text[at : at + 1] == "\t":
        collector.report("AS106", "a tab in the indentation", source.span(at, at + 1), "indent with spaces")
        return
    if "cannot start any token" in problem:
        sign = source.text[at : at + 1]
        collector.report("AS105", f"a text cannot begin with '{sign}'", source.span(at, at + 1), "quote the text")
        return
    if "expected ',' or" in problem and (value := _cut_value(source.text, at)):
        message = f"an unquoted value of a {{...}} or [...] ends before '{source.text[at]}'"
        collector.report("AS105", message, source.span(at, at + 1), f'quote it: `"{value}"`')
        return
    context: Any = error.context_mark
    opened = context and ("flow" in str(error.context) or "quoted" in str(error.context))
    span = source.span(context.index, context.index + 1) if opened else source.span(at, at + 1)
    hints = [hint for part, hint in _HINTS if part in problem]
    collector.report("AS105", _translate(problem, error), span, *hints[:1])


def _cut_value(text: str, at: int) -> str | None:
    """Return the value that a bracket at `at` is meant to be a part of, if it follows an unquoted one.

    >>> _cut_value("{a: blocks[1::2].mlp, b: 1}", 10), _cut_value("[blocks[}", 7), _cut_value('["a"[0]]', 4)
    ('blocks[1::2].mlp', 'blocks[0]', None)
    """
    before = re.search(r"""(?:[,{\[]|:\s)\s*([^\s,{}\[\]"'][^\n,{}\[\]"']*)$""", text[:at])
    if before is None or text[at : at + 1] != "[":
        return None
    value = before[1].rpartition(": ")[2]
    rest = re.match(r"\[[^\n\[\]{}]*\][^\n,\[\]{}]*", text[at:])
    return value + (rest[0].rstrip() if rest else "[0]")


def _translate(problem: str, error: yaml.MarkedYAMLError) -> str:
    """Say libyaml's complaint without its tense.

    >>> _translate("did not find expected key", yaml.MarkedYAMLError())
    'expected a key'
    """
    problem = re.sub(r"^(did not find|could not find) expected ", "expected ", problem)
    problem = re.sub(
        r"^expected (key|<document start>)$",
        lambda m: "expected a key" if m[1] == "key" else "text behind the end of the map",
        problem,
    )
    return re.sub(r"^found unexpected end of stream$", "the text ends inside quotes", problem)
