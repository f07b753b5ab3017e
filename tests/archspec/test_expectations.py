"""Expectations: what every metric takes, and every refusal by code and column."""

from __future__ import annotations

import math

import pytest

from archspec.diagnostics import ArchspecError
from archspec.language.expectations import METRICS, Expectation, parse_bytes, parse_expectation
from archspec.language.selectors import parse_selector
from archspec.source import Source


@pytest.mark.parametrize(
    ("text", "metric", "args", "op", "value", "relative"),
    [
        ("depth == 14", "depth", {}, "==", 14, False),
        ("params <= 1.06x", "params", {}, "<=", 1.06, True),
        ("params <= 712.0M", "params", {}, "<=", 712_000_000, False),
        ("flops(tokens=256) <= 118.6G", "flops", {"tokens": 256}, "<=", 118_600_000_000, False),
        ("flops(tokens=1_024, batch=2) < 1T", "flops", {"tokens": 1024, "batch": 2}, "<", 10**12, False),
        ("weights != 2GiB", "weights", {}, "!=", 2 * 1024**3, False),
        ("activations(tokens=64) > 500MB", "activations", {"tokens": 64}, ">", 500_000_000, False),
        ("causal", "causal", {}, "==", True, False),
        ("not causal", "causal", {}, "==", False, False),
        ("causal != true", "causal", {}, "==", False, False),
        ("causal == false", "causal", {}, "==", False, False),
        ("reach <= 8", "reach", {}, "<=", 8, False),
        ("reach == all", "reach", {}, "==", math.inf, False),
        ("fd <= 1.10x", "fd", {}, "<=", 1.1, True),
        ("agreement >= 99%", "agreement", {}, ">=", 0.99, False),
        ("paired <= 0.05", "paired", {}, "<=", 0.05, False),
        ("perplexity <= 1.05x", "perplexity", {}, "<=", 1.05, True),
        ("latency <= 20ms", "latency", {}, "<=", 0.02, False),
    ],
)
def test_forms(text: str, metric: str, args: dict[str, int], op: str, value: float, relative: bool) -> None:
    found = parse_expectation(text)
    assert (found.metric, found.args, found.op, found.value, found.relative) == (metric, args, op, value, relative)
    assert type(found.value) is type(value)


def test_sites_hold_a_selector() -> None:
    text = 'sites(blocks[1::2].attn | "h.*") == 14'
    source = Source("spec.arch", f"  {text}")
    found = parse_expectation(text, source.span(2, 2 + len(text)))
    selector = found.args["sites"]
    assert selector == parse_selector('blocks[1::2].attn | "h.*"')
    assert not isinstance(selector, int)
    assert selector.span is not None
    assert selector.span.text == 'blocks[1::2].attn | "h.*"'


def test_every_metric_has_a_test_of_its_form() -> None:
    cases = test_forms.pytestmark[0].args[1]  # type: ignore[attr-defined]
    assert {case[1] for case in cases} | {"sites"} == set(METRICS)


@pytest.mark.parametrize(
    ("text", "code", "column", "marked", "hint"),
    [
        ("", "AS135", 1, "", "for example `depth == 14`"),
        ("depth = 14", "AS135", 7, "=", "write '=='"),
        ("1 <= depth", "AS135", 1, "1", ""),
        ("depth <= 3 <= 4", "AS135", 12, "<=", "write two expectations"),
        ("depth <=", "AS135", 9, "", "for example `depth == 14` or `params <= 0.9x`"),
        ("depth == 14 # why", "AS135", 13, "#", ""),
        ("parms <= 3", "AS136", 1, "parms", "did you mean 'params'?"),
        ("params(tokens=3) <= 4", "AS137", 8, "tokens", "it takes none"),
        ("flops(tokns=3) <= 4", "AS137", 7, "tokns", "did you mean 'tokens'?"),
        ("flops(size=3) <= 4", "AS137", 7, "size", "it takes tokens, batch"),
        ("flops(tokens=0) <= 4", "AS137", 14, "0", ""),
        ("flops(tokens=[1]) <= 4", "AS137", 14, "[1]", ""),
        ("flops(tokens=1, tokens=2) <= 4", "AS137", 17, "tokens", "write it once"),
        ("depth(blocks) == 3", "AS137", 6, "(blocks)", ""),
        ("sites == 3", "AS137", 1, "sites", "write `sites(blocks[*].attn) == 14`"),
        ("sites(blocks[x > 1]) == 3", "AS133", 14, "x", ""),
        ("depth", "AS138", 1, "depth", "write `depth <= ...`"),
        ("not depth == 3", "AS138", 1, "not", "turn the comparison"),
        ("causal == 3", "AS138", 11, "3", "write `causal` or `not causal`"),
        ("causal <= true", "AS138", 11, "true", "write `causal` or `not causal`"),
        ("latency <= 20", "AS138", 12, "20", "units: s, ms, us, or relative to the base: `0.9x`"),
        ("params <= 90%", "AS138", 11, "90%", ""),
        ("paired <= 1x", "AS138", 11, "1x", "write an absolute value"),
        ("params <= 1e999", "AS138", 11, "1e999", ""),
        ("params <= many", "AS138", 11, "many", ""),
        ("depth == all", "AS138", 10, "all", ""),
    ],
)
def test_refusals(text: str, code: str, column: int, marked: str, hint: str) -> None:
    with pytest.raises(ArchspecError) as caught:
        parse_expectation(text, Source("spec.arch", text).span(0, len(text)))
    diagnostic = caught.value.diagnostics[0]
    assert diagnostic.primary is not None
    span = diagnostic.primary.span
    assert (diagnostic.code, span.column, span.text) == (code, column, marked)
    assert not hint or diagnostic.hints[0] == hint


@pytest.mark.parametrize(
    ("op", "holds"),
    [("==", [False, True, False]), ("!=", [True, False, True]), ("<", [True, False, False]),
     ("<=", [True, True, False]), (">", [False, False, True]), (">=", [False, True, True])],
)  # fmt: skip
def test_holds(op: str, holds: list[bool]) -> None:
    absolute = parse_expectation(f"params {op} 100")
    relative = parse_expectation(f"params {op} 0.5x")
    assert [absolute.holds(value) for value in (99, 100, 101)] == holds
    assert [relative.holds(value, base=200) for value in (99, 100, 101)] == holds


@pytest.mark.parametrize(
    ("value", "least", "most"),
    [("712.0M", 711_950_000, 712_050_000), ("712M", 711_500_000, 712_500_000), ("7.12e8", 711_500_000, 712_500_000),
     ("712_000_000", 712_000_000, 712_000_000), ("14", 14, 14), ("1e3", 500, 1500)],
)  # fmt: skip
def test_equality_is_at_the_written_precision(value: str, least: int, most: int) -> None:
    same, other = parse_expectation(f"params == {value}"), parse_expectation(f"params != {value}")
    for measured, equal in ((least, True), (most, True), (least - 1, False), (most + 1, False)):
        assert same.holds(measured) is equal
        assert other.holds(measured) is not equal
    assert not parse_expectation(f"params <= {value}").holds(most + 1)


def test_other_units_are_rounded_as_well() -> None:
    assert parse_expectation("weights == 2.0GiB").holds(2**31 + 2**25)
    assert not parse_expectation("weights == 2.00GiB").holds(2**31 + 2**25)
    assert parse_expectation("agreement == 99%").holds(0.9944)
    assert parse_expectation("latency == 20ms").holds(0.0204)
    assert not parse_expectation("latency == 20ms").holds(0.0206)
    assert not parse_expectation("params == 0.50x").holds(501, base=1000)
    assert parse_expectation("reach == all").holds(float("inf"))


def test_a_relative_value_needs_its_base() -> None:
    with pytest.raises(ValueError, match="needs the value of the base"):
        parse_expectation("params <= 0.5x").holds(1)


def test_equality_is_of_meaning() -> None:
    assert parse_expectation("params<=1_000") == parse_expectation("params <= 1k".replace("1k", "1000"))
    assert isinstance(hash(parse_expectation("flops(tokens=3) <= 1x")), int)
    assert str(parse_expectation("depth == 14")) == "depth == 14"
    assert isinstance(parse_expectation("causal"), Expectation)


@pytest.mark.parametrize(
    ("text", "size"), [("2GiB", 2**31), ("1.5KiB", 1536), ("10", 10), ("3x", None), ("lots", None)]
)
def test_bytes(text: str, size: int | None) -> None:
    assert parse_bytes(text) == size
