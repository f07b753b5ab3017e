"""Expectations: assertions about the result, `METRIC [(arguments)] COMPARISON VALUE`.

    depth == 14    params <= 1.06x    flops(tokens=256) <= 118.6G    weights <= 2GiB    activations(tokens=256) <= 0.9x
    sites(blocks[*].attn) == 14    causal    not causal    reach <= 8    fd <= 1.10x    agreement >= 99%
    latency <= 20ms

A value is absolute, in the unit of its metric, or relative to the base (`0.9x`). `==` compares at the precision that is
written: `params == 712.0M` holds for every count that rounds to it. Which stage can know a metric, and its
measurement, are the checker's and the evaluator's business; here is what may be written.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Literal

from archspec.diagnostics import nearest
from archspec.language.selectors import Selector, parse_selector
from archspec.source import Span
from archspec.syntax import grammar, words
from archspec.syntax.words import Refused

if TYPE_CHECKING:
    from lark import Token, Tree

Op = Literal["==", "!=", "<=", ">=", "<", ">"]
Unit = Literal["count", "bytes", "fraction", "number", "seconds", "tokens", "flag"]

SUFFIXES: Mapping[Unit, Mapping[str, float]] = {
    "count": {"": 1, "k": 1e3, "K": 1e3, "M": 1e6, "G": 1e9, "B": 1e9, "T": 1e12, "P": 1e15},
    "bytes": {
        "": 1, "B": 1, "kB": 1e3, "KB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12,
        "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40,
    },
    "fraction": {"": 1, "%": 0.01},
    "number": {"": 1},
    "seconds": {"s": 1, "ms": 1e-3, "us": 1e-6},
    "tokens": {"": 1},
    "flag": {},
}  # fmt: skip
"""Unit -> what may stand behind a number, and what it multiplies by."""


@dataclass(frozen=True)
class Metric:
    """`arguments` are the keyword arguments (all positive integers); `relative`: `0.9x` may be written."""

    unit: Unit
    doc: str
    arguments: tuple[str, ...] = ()
    relative: bool = True
    selector: bool = False


METRICS: Mapping[str, Metric] = {
    "depth": Metric("count", "blocks that run one after another"),
    "params": Metric("count", "parameters"),
    "flops": Metric("count", "floating point operations of one forward pass", ("tokens", "batch")),
    "weights": Metric("bytes", "bytes of the weights"),
    "activations": Metric("bytes", "peak bytes of activations in one forward pass", ("tokens", "batch")),
    "sites": Metric("count", "sites that a selector names", relative=False, selector=True),
    "causal": Metric("flag", "no output sees a later token", relative=False),
    "reach": Metric("tokens", "tokens to either side that one output sees; `all` for every one", relative=False),
    "fd": Metric("number", "Frechet distance of samples to the data"),
    "agreement": Metric("fraction", "part of samples that the classifier sees as their class"),
    "paired": Metric("number", "relative error to the base's samples from the same noise", relative=False),
    "perplexity": Metric("number", "perplexity on the data"),
    "latency": Metric("seconds", "time of one forward pass of one example, at the host's own size"),
}


@dataclass(frozen=True)
class Expectation:
    """`value` is in the metric's unit (bytes, seconds, a fraction, `math.inf` for `all`), or a factor if `relative`."""

    text: str = field(compare=False)
    metric: str
    args: Mapping[str, int | Selector] = field(hash=False)
    """Keyword arguments; a selector stands under `sites`."""
    op: Op
    value: int | float | bool
    relative: bool = False
    slack: float = 0
    """Half of a unit in the last written place: what `==` and `!=` leave to rounding. 0 for a whole number without
    a suffix, and for relative values."""
    span: Span | None = field(default=None, compare=False, repr=False)

    def __str__(self) -> str:
        return self.text

    def holds(self, measured: float, base: float | None = None) -> bool:
        """Compare a measured value (and the base's, if relative) with what is expected.

        >>> parse_expectation("params <= 0.9x").holds(80, base=100)
        True
        """
        if self.relative and base is None:
            raise ValueError(f"'{self.text}' needs the value of the base")
        bound = self.value * base if self.relative and base is not None else self.value
        match self.op:
            case "==":
                return self._equals(measured, bound)
            case "!=":
                return not self._equals(measured, bound)
            case "<=":
                return measured <= bound
            case ">=":
                return measured >= bound
            case "<":
                return measured < bound
            case ">":
                return measured > bound

    def _equals(self, measured: float, bound: float) -> bool:
        """Compare at the written precision.

        >>> parse_expectation("params == 712.0M").holds(712_043_520)
        True
        """
        return measured == bound or abs(measured - bound) <= self.slack


def parse_expectation(text: str, span: Span | None = None) -> Expectation:
    """Parse an expectation that stands at `span`. Raises ArchspecError."""
    try:
        metric, args, op, value, relative, slack = _parts(text)
    except Refused as refused:
        raise refused.at(span, text) from None
    placed = {
        name: _selector(text, *argument, span) if isinstance(argument, tuple) else argument
        for name, argument in args.items()
    }
    return Expectation(text, metric, placed, op, value, relative, slack, span)


def check_expectation(text: str, span: Span | None = None) -> str:
    """Return an expectation whose holes may be open, after looking at its syntax. Raises ArchspecError."""
    try:
        if words.HOLE.search(text):
            grammar.parse(text, "expectation")
            return text
    except Refused as refused:
        raise refused.at(span, text) from None
    return parse_expectation(text, span).text


def parse_bytes(text: str) -> int | None:
    """Return the bytes that `2GiB` or `500MB` says, None if it says none.

    >>> parse_bytes("2GiB"), parse_bytes("2 parsecs")
    (2147483648, None)
    """
    found = _quantity(text)
    factor = SUFFIXES["bytes"].get(found[1]) if found else None
    return round(found[0] * factor) if found and factor and math.isfinite(found[0]) else None


_Parts = tuple[str, Mapping[str, int | tuple[int, int]], Op, int | float | bool, bool, float]


@cache
def _parts(text: str) -> _Parts:
    """Return metric, arguments (a selector as its offsets), comparison, value, whether it is relative, its slack."""
    if not text.strip():
        raise Refused("AS135", "expected an expectation, found nothing", 0, len(text), ("for example `depth == 14`",))
    words.refuse_holes(text)
    tree = grammar.parse(text, "expectation")
    tokens = [child for child in tree.children if isinstance(child, str)]
    name = next(token for token in tokens if token.type == "NAME")
    metric = METRICS.get(name)
    if metric is None:
        hints = nearest(name, METRICS) or (f"metrics are {', '.join(METRICS)}",)
        raise _refused("AS136", f"unknown metric '{name}'", name, *hints)
    lists = [child for child in tree.children if not isinstance(child, str)]
    args = _arguments(name, metric, lists[0]) if lists else {}
    if metric.selector and "sites" not in args:
        raise _refused("AS137", f"'{name}' needs a selector", name, f"write `{name}(blocks[*].attn) == 14`")
    return (str(name), args, *_comparison(metric, name, tokens))


def _arguments(name: Token, metric: Metric, tree: Tree[Token]) -> dict[str, int | tuple[int, int]]:
    settings = [child for child in tree.children if not isinstance(child, str)]
    if settings[0].data != "setting":
        if not metric.selector:
            raise Refused("AS137", f"'{name}' takes no selector", tree.meta.start_pos, tree.meta.end_pos)
        return {"sites": (settings[0].meta.start_pos, settings[0].meta.end_pos)}
    found: dict[str, int | tuple[int, int]] = {}
    for setting in settings:
        key = setting.children[0]
        assert isinstance(key, str)
        if key in found:
            raise _refused("AS137", f"'{key}' is given twice", key, "write it once")
        if key not in metric.arguments:
            known = (f"it takes {', '.join(metric.arguments)}",) if metric.arguments else ("it takes none",)
            hints = nearest(key, metric.arguments) or known
            raise _refused("AS137", f"'{name}' has no argument '{key}'", key, *hints)
        found[str(key)] = _positive(setting)
    return found


def _positive(setting: Tree[Token]) -> int:
    key, value = setting.children
    assert not isinstance(value, str)
    text = str(value.children[0]) if value.data == "scalar" else ""
    digits = text.replace("_", "")
    if not re.fullmatch(r"[0-9]{1,12}", digits) or int(digits) < 1:
        at = (value.meta.start_pos, value.meta.end_pos)
        raise Refused("AS137", f"'{key}' is a whole number of at least 1", *at)
    return int(digits)


def _comparison(metric: Metric, name: Token, tokens: list[Token]) -> tuple[Op, int | float | bool, bool, float]:
    negated = tokens[0].type == "NOT"
    if not any(token.type == "CMP" for token in tokens):
        if metric.unit != "flag":
            raise _refused("AS138", f"'{name}' is compared with nothing", name, f"write `{name} <= ...`")
        return "==", not negated, False, 0
    if negated:
        raise _refused(
            "AS138", "'not' stands before a property, not before a comparison", tokens[0], "turn the comparison"
        )
    op, bound = tokens[-2:]
    if metric.unit == "flag":
        if op not in ("==", "!=") or bound not in ("true", "false"):
            raise _refused("AS138", f"'{name}' is true or false", bound, f"write `{name}` or `not {name}`")
        return "==", (bound == "true") == (op == "=="), False, 0
    return (_OPS[op], *_value(metric, name, bound))


_OPS: Mapping[str, Op] = {"==": "==", "!=": "!=", "<=": "<=", ">=": ">=", "<": "<", ">": ">"}


def _value(metric: Metric, name: Token, bound: Token) -> tuple[int | float, bool, float]:
    """Return the value in the metric's unit, whether it is relative, and its slack."""
    if bound == "all" and metric.unit == "tokens":
        return math.inf, False, 0
    quantity = _quantity(bound)
    if quantity is None or not math.isfinite(quantity[0]):
        raise _refused("AS138", f"'{bound}' is not a number", bound)
    number, suffix = quantity
    if suffix == "x":
        if not metric.relative:
            raise _refused("AS138", f"'{name}' is not compared with the base", bound, "write an absolute value")
        return float(number), True, 0
    factor = SUFFIXES[metric.unit].get(suffix)
    if factor is None:
        message = f"'{name}' is not measured in '{suffix}'" if suffix else f"'{name}' needs a unit"
        raise _refused("AS138", message, bound, _units(metric))
    value = number if factor == 1 else round(number * factor, 12)
    whole = metric.unit in ("count", "bytes", "tokens") and float(value).is_integer()
    return int(value) if whole else value, False, _slack(bound, factor)


def _slack(written: str, factor: float) -> float:
    """Return half of a unit in the last place of a written number.

    >>> _slack("712.0M", 1e6), _slack("712M", 1e6), _slack("14", 1)
    (50000.0, 500000.0, 0)
    """
    decimals = re.search(r"\.([0-9]*)", written)
    exponent = re.search(r"[0-9.][eE]([+-]?[0-9]+)", written)
    place = (int(exponent[1]) if exponent else 0) - (len(decimals[1]) if decimals else 0)
    return factor * 10.0**place / 2 if place or factor != 1 else 0


def _units(metric: Metric) -> str:
    relative = ", or relative to the base: `0.9x`" if metric.relative else ""
    return f"units: {', '.join(unit or 'none' for unit in SUFFIXES[metric.unit])}{relative}"


def _quantity(text: str) -> tuple[int | float, str] | None:
    """Split `712.0M` into (712.0, "M")."""
    found = re.fullmatch(r"([+-]?(?:[0-9][0-9_]*(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?)\s*([A-Za-z]*%?)", text)
    if not found:
        return None
    digits = found[1].replace("_", "")
    return (int(digits) if re.fullmatch(r"[+-]?[0-9]{1,30}", digits) else float(digits)), found[2]


def _selector(text: str, start: int, end: int, span: Span | None) -> Selector:
    return parse_selector(text[start:end], words.place(span, text, start, end))


def _refused(code: str, message: str, token: Token, *hints: str) -> Refused:
    start = token.start_pos or 0
    return Refused(code, message, start, start + len(token), hints)
