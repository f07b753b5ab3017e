"""The syntax tree to typed nodes: one builder for the spec and for operators' parameters.

`build(tree, cls, collector)` reads the declared fields of `cls` (annotation, bounds, pattern, ...) and reports every
mistake it finds: unknown and missing keys, wrong types, values out of bounds, selectors and expectations that do not
parse. It returns None where there was any. `with: hyena_x` and the like are spelled out first, so every node has a map
as its origin.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, dataclass
from functools import partial
from types import NoneType
from typing import Any, Literal, TypeVar, cast, get_args, get_origin

from archspec.diagnostics import ArchspecError, Collector, meant, nearest, setting
from archspec.language import shapes
from archspec.language.advice import advice
from archspec.language.edits import EDITS, OperatorCall
from archspec.language.expectations import Expectation, parse_bytes, parse_expectation
from archspec.language.fields import Node
from archspec.language.selectors import Selector, parse_selector
from archspec.operators.base import Signature
from archspec.source import Source, Span
from archspec.syntax.tree import Entry, Map, Scalar, Seq, Tree, plain
from archspec.syntax.words import RESERVED

T = TypeVar("T", bound=Node)


class Wrong(Exception):
    """A value that has been reported."""


def build(tree: Tree, cls: type[T], collector: Collector) -> T | None:
    """Build a node of class `cls`; None after a report to the collector."""
    try:
        return cast(T, Builder(collector).node(tree, cls))
    except Wrong:
        return None


def build_signature(call: OperatorCall, collector: Collector) -> Signature | None:
    """Build the parameters of an operator call into its signature; None after a report to the collector."""
    from archspec.operators import OPERATORS, signature

    if call.op not in OPERATORS:
        hints = nearest(call.op, OPERATORS) or (f"operators are {', '.join(sorted(OPERATORS))}",)
        collector.report("AS147", f"unknown operator '{call.op}'", call.span("op"), *hints)
        return None
    if call.origin is None:
        tree = _written(dict(call.params))
        assert isinstance(tree, Map)
    else:
        entries = tuple(entry for entry in call.origin.entries if entry.key.value != "op")
        tree = Map(entries, call.origin.span)
    try:
        return cast(Signature, Builder(collector, f"operator '{call.op}'").node(tree, signature(call.op)))
    except Wrong:
        return None


@dataclass
class Builder:
    collector: Collector
    owner: str = ""
    """Whose keys they are, in messages; default: the class."""

    def wrong(self, code: str, message: str, span: Span, *hints: str) -> Wrong:
        self.collector.report(code, message, span, *hints)
        return Wrong()

    def unfit(
        self, message: str, tree: Tree, option: Any, rules: Mapping[str, Any], key: str, code: str = "AS142"
    ) -> Wrong:
        """Report a value that its key cannot have, with one that it can."""
        return self.wrong(code, message, tree.span, advice(key, tree.span, rules.get("declared", option), rules))

    def node(self, tree: Tree, cls: type[Node]) -> Node:
        origin = self._map(tree, cls)
        if cls is OperatorCall:
            return self._call(origin)
        known = shapes.keys(cls)
        values: dict[str, Any] = {}
        misspelt = self.unknown(origin, cls, known)
        failed = any(entry.key.value not in known for entry in origin.entries)
        for key, field in known.items():
            entry = origin.entry(key)
            if entry is None:
                failed |= key not in misspelt and self.missing(key, field, origin, cls)
                continue
            try:
                hint = shapes.hints(cls)[field.name]
                values[field.name] = self.value(entry.value, hint, {**field.metadata, "declared": hint}, key)
            except Wrong:
                failed = True
        if failed:
            raise Wrong
        return cls(origin=origin, **values)

    def _map(self, tree: Tree, cls: type[Node]) -> Map:
        short = shapes.shorthand(cls)
        if isinstance(tree, Scalar) and short and tree.value is not None:
            return Map((Entry(Scalar(short, short, tree.span), tree),), tree.span)
        if isinstance(tree, Map):
            return tree
        keys = ", ".join(f"'{key}'" for key in list(shapes.keys(cls))[:3])
        one = f"a {'value or a ' if short else ''}map of keys"
        raise self.wrong("AS142", f"expected {one}, found {_kind(tree)}", tree.span, f"its keys are {keys}, ...")

    def unknown(self, origin: Map, cls: type[Node], known: Mapping[str, Any]) -> set[str]:
        """Report keys that are none; return those that may have been meant."""
        found = set()
        for entry in (entry for entry in origin.entries if entry.key.value not in known):
            key = str(entry.key.value)
            found |= {word for word in [meant(key, known)] if word}
            hints = nearest(key, known) or (f"its keys are {', '.join(known)}" if known else "it takes none",)
            owner = self.owner or _name(cls)
            self.collector.report("AS140", f"{owner} has no key '{key}'", entry.key.span, *hints)
        return found

    def missing(self, key: str, field: Any, origin: Map, cls: type[Node]) -> bool:
        if field.default is not MISSING or field.default_factory is not MISSING:
            return False
        first = origin.entries[0].key.span if origin.entries else origin.span
        hint = advice(key, first, shapes.hints(cls)[field.name], field.metadata)
        self.collector.report("AS141", f"{self.owner or _name(cls)} needs '{key}'", first, hint)
        return True

    def _call(self, origin: Map) -> OperatorCall:
        entry = origin.entry("op")
        if entry is None:
            raise self.wrong("AS141", "an operator needs 'op'", origin.span, "write `op: hyena_x`, the operator's name")
        op = self.value(entry.value, str, {}, "op")
        params = {str(e.key.value): plain(e.value) for e in origin.entries if e is not entry}
        return OperatorCall(origin=origin, op=op, params=params)

    def attempt(self, entry: Entry | None, hint: Any) -> Any:
        """Return the value of an entry, None where there is none or it is wrong."""
        try:
            return self.value(entry.value, hint, {}, str(entry.key.value)) if entry else None
        except Wrong:
            return None

    def value(self, tree: Tree, hint: Any, rules: Mapping[str, Any], key: str) -> Any:
        """Return the value of type `hint`; `rules` are the field's metadata and its declared type. Raises Wrong."""
        options = shapes.options(hint)
        if NoneType in options and isinstance(tree, Scalar) and _is_none(tree, options):
            return None
        options = tuple(option for option in options if option is not NoneType)
        if options and all(option in EDITS for option in options):
            return self._edit(tree)
        option = _choose(tree, options)
        if get_origin(option) is tuple:
            return self._tuple(tree, get_args(option)[0], rules, key)
        if get_origin(option) is Mapping or option is Mapping:
            return self._mapping(tree, option, rules, key)
        if isinstance(option, type) and issubclass(option, Node):
            return self.node(tree, option)
        if not isinstance(tree, Scalar):
            raise self.unfit(f"'{key}' is {_article(option)}, not {_kind(tree)}", tree, option, rules, key)
        return self._scalar(tree, option, rules, key)

    def _scalar(self, tree: Scalar, option: Any, rules: Mapping[str, Any], key: str) -> Any:
        if option in (Selector, Expectation):
            return self._parsed(tree, option, rules, key)
        if get_origin(option) is Literal:
            return self._literal(tree, get_args(option), key)
        if option is str:
            return self._string(tree, rules, key)
        if option is bool:
            if isinstance(tree.value, bool):
                return tree.value
            raise self.unfit(f"'{key}' is true or false, not '{tree.text}'", tree, option, rules, key)
        return self._number(tree, option, rules, key)

    def _parsed(self, tree: Scalar, option: type, rules: Mapping[str, Any], key: str) -> Selector | Expectation:
        if not isinstance(tree.value, str):
            raise self.unfit(f"'{key}' is {_article(option)}, not {_kind(tree)}", tree, option, rules, key)
        try:
            if option is Selector:
                return parse_selector(tree.value, tree.span)
            return parse_expectation(tree.value, tree.span)
        except ArchspecError as error:
            self.collector.add(error.diagnostics)
            raise Wrong from None

    def _literal(self, tree: Scalar, choices: tuple[Any, ...], key: str) -> Any:
        if any(tree.value == choice and type(tree.value) is type(choice) for choice in choices):
            return tree.value
        hints = nearest(tree.text, map(str, choices)) or (f"it is one of {', '.join(map(str, choices))}",)
        raise self.wrong("AS144", f"'{key}' cannot be '{tree.text}'", tree.span, *hints)

    def _string(self, tree: Scalar, rules: Mapping[str, Any], key: str) -> str:
        if not isinstance(tree.value, str):
            quote = f'write "{tree.text}" in quotes'
            hints = ("write `fraction` for a part of the data",) if tree.text.endswith("%") else (quote,)
            raise self.wrong("AS142", f"'{key}' is a text, not {_kind(tree)}", tree.span, *hints)
        self._pattern(tree, tree.value, rules, key)
        if not tree.value.strip():
            raise self.unfit(f"'{key}' is empty", tree, str, rules, key)
        return tree.value

    def _pattern(self, tree: Scalar, text: str, rules: Mapping[str, Any], key: str) -> None:
        pattern = rules.get("pattern")
        if pattern and not re.fullmatch(pattern, text):
            hints = [rules["doc"]]
            if "$" in text:
                hints.append("values that are maps have no text to stand for '$...': leave their axis out")
            raise self.wrong("AS146", f"'{text}' cannot be a {key}", tree.span, *hints)

    def _number(self, tree: Scalar, option: type, rules: Mapping[str, Any], key: str) -> int | float:
        value = tree.value
        if rules.get("unit") == "bytes" and isinstance(value, str):
            value = parse_bytes(value)
        if isinstance(value, bool) or not isinstance(value, int | float) or not _finite(value):
            what = "a whole number" if option is int else "a number"
            size = ", as 500MB or 2GiB" if rules.get("unit") == "bytes" else ""
            raise self.unfit(f"'{key}' is {what}{size}, not {_kind(tree)}", tree, option, rules, key)
        if option is int:
            if not float(value).is_integer():
                raise self.unfit(f"'{key}' is a whole number, not {tree.text}", tree, option, rules, key)
            value = int(value)
        self._bounds(tree, value, option, rules, key)
        return float(value) if option is float else value

    def _bounds(self, tree: Scalar, value: float, option: type, rules: Mapping[str, Any], key: str) -> None:
        least, most, above = (rules.get(name) for name in ("least", "most", "above"))
        bounds = [f"at least {least:.15g}"] if least is not None else []
        bounds += [f"above {above:.15g}"] if above is not None else []
        bounds += [f"at most {most:.15g}"] if most is not None else []
        low = (least is not None and value < least) or (above is not None and value <= above)
        if low or (most is not None and value > most):
            message = f"'{key}' is {tree.text}, but must be {' and '.join(bounds)}"
            raise self.unfit(message, tree, option, rules, key, code="AS143")

    def _tuple(self, tree: Tree, option: Any, rules: Mapping[str, Any], key: str) -> tuple[Any, ...]:
        if not isinstance(tree, Seq):
            message = f"'{key}' is a list, not {_kind(tree)}"
            whole = rules.get("declared", tuple[option, ...])
            if isinstance(tree, Scalar) and tree.text and _is_list_of(option, whole):
                written = setting(tree.span, key, f"[{tree.text}]")
                raise self.wrong("AS142", message, tree.span, f"write a list: `{written}`")
            raise self.unfit(message, tree, whole, rules, key)
        return tuple(self._each([partial(self.value, item, option, rules, key) for item in tree.items]))

    def _mapping(self, tree: Tree, option: Any, rules: Mapping[str, Any], key: str) -> dict[str, Any]:
        if not isinstance(tree, Map):
            raise self.unfit(f"'{key}' is a map of keys, not {_kind(tree)}", tree, option, rules, key)
        inner = get_args(option)[1]
        work = [partial(self._pair, entry, inner, rules, key) for entry in tree.entries]
        return dict(self._each(work))

    def _pair(self, entry: Entry, inner: Any, rules: Mapping[str, Any], key: str) -> tuple[str, Any]:
        name = str(entry.key.value)
        known = rules.get("keys")
        if known and name not in known:
            hints = nearest(name, known) or (f"its keys are {', '.join(known)}",)
            raise self.wrong("AS140", f"'{key}' has no key '{name}'", entry.key.span, *hints)
        if inner is Selector and (name in RESERVED or not re.fullmatch(rules.get("pattern") or ".*", name)):
            hint = "names are letters, digits and '_', and no reserved word"
            raise self.wrong("AS146", f"'{name}' cannot name a selection", entry.key.span, hint)
        return name, self.value(entry.value, inner, {}, name)

    def _each(self, work: Sequence[Callable[[], Any]]) -> list[Any]:
        """Do all of it, so that every mistake is reported; then fail if there was one."""
        done, failed = [], False
        for one in work:
            try:
                done.append(one())
            except Wrong:
                failed = True
        if failed:
            raise Wrong
        return done

    def _edit(self, tree: Tree) -> Node:
        verbs = {cls.verb: cls for cls in EDITS}
        if not isinstance(tree, Map):
            raise self.wrong("AS142", f"an edit is a map of keys, not {_kind(tree)}", tree.span,
                             "for example `replace: blocks[0].attn` and `with: hyena_x`")  # fmt: skip
        written = [entry for entry in tree.entries if entry.key.value in verbs]
        if len(written) == 1:
            return self.node(tree, verbs[str(written[0].key.value)])
        if written:
            second = str(written[1].key.value)
            raise self.wrong("AS145", f"this edit already has a verb; '{second}' is a second one", written[1].key.span,
                             f"write '- {second}: ...' as an edit of its own")  # fmt: skip
        first = tree.entries[0].key if tree.entries else None
        hints = nearest(str(first.value), verbs) if first else ()
        raise self.wrong("AS145", "an edit needs a verb", first.span if first else tree.span,
                         *(hints or (f"verbs are {', '.join(verbs)}",)))  # fmt: skip


def _choose(tree: Tree, options: tuple[Any, ...]) -> Any:
    """Return the member of a union that the tree has the form of, else the first."""
    for option in options:
        form = Map if get_origin(option) is Mapping else Seq if get_origin(option) is tuple else Scalar
        if isinstance(option, type) and issubclass(option, Node):
            form = Map
        if isinstance(tree, form):
            return option
    return options[0]


def _is_list_of(option: Any, declared: Any) -> bool:
    """Whether one value in brackets is all that is missing: no list of lists is meant."""
    return get_origin(option) is not tuple and any(get_args(one)[:1] == (option,) for one in shapes.options(declared))


def _is_none(tree: Scalar, options: tuple[Any, ...]) -> bool:
    """`null` is always none; the word `none` is, where a node could stand and the word is no choice of its own."""
    if tree.value is None:
        return True
    return tree.text == "none" and not tree.quoted and any(isinstance(o, type) and issubclass(o, Node) for o in options)


def _finite(value: float) -> bool:
    """Whether a float can hold a number: 400 digits are none."""
    return abs(value) <= sys.float_info.max


def _kind(tree: Tree) -> str:
    match tree:
        case Map():
            return "a map"
        case Seq():
            return "a list"
        case Scalar():
            return "empty" if tree.value is None and tree.text in ("", "null") else f"'{tree.text}'"


def _article(option: Any) -> str:
    if option is Selector:
        return "a selector"
    if option is Expectation:
        return "an expectation"
    if get_origin(option) is Literal:
        return f"one of {', '.join(map(str, get_args(option)))}"
    return {str: "a text", int: "a whole number", float: "a number", bool: "true or false"}.get(option, "a value")


def _name(cls: type) -> str:
    """Return what a node class is called in messages: `a spec`, `'finetune'`."""
    return getattr(cls, "called", None) or f"'{getattr(cls, 'verb', cls.__name__.lower())}'"


def _written(value: Any) -> Tree:
    """Return the tree of plain data that no file holds (operator calls made in Python)."""
    nowhere = Source("<python>", "").span(0, 0)
    if isinstance(value, Mapping):
        return Map(tuple(Entry(Scalar(k, k, nowhere), _written(v)) for k, v in value.items()), nowhere)
    if isinstance(value, list | tuple):
        return Seq(tuple(map(_written, value)), nowhere)
    return Scalar(value, str(value), nowhere)
