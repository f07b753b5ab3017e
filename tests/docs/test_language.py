"""Every example of docs/language.md parses; every construct, key, metric and reserved word is in it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from archspec.diagnostics import Collector
from archspec.language import shapes
from archspec.language.edits import EDITS
from archspec.language.expectations import METRICS, parse_expectation
from archspec.language.matrix import expand
from archspec.language.parse import parse_tree
from archspec.language.partial import build_spec
from archspec.language.selectors import parse_selector
from archspec.language.spec import Spec
from archspec.source import Source
from archspec.syntax import words
from archspec.syntax.fmt import format_dsl, format_yaml

TEXT = (Path(__file__).parents[2] / "docs" / "language.md").read_text(encoding="utf-8")
BLOCKS = [(found[1], found[2]) for found in re.finditer(r"^```([^\n]*)\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)]
SPECS = [block for block in BLOCKS if block[0].split()[0] in ("yaml", "arch")]


def whole(info: str, body: str) -> Source:
    if info == "yaml fragment":
        body = f"name: example\n{body}"
    elif info == "arch fragment":
        body = f'spec "example" {{\n{body}}}\n'
    return Source(f"language.{info.split()[0]}", body)


def test_every_block_is_of_a_known_kind() -> None:
    kinds = {"yaml", "arch", "yaml fragment", "arch fragment", "selector", "expectation"}
    assert {info for info, _ in BLOCKS} == kinds


def members(source: Source) -> list[Spec]:
    """Return the spec, or each of its matrix."""
    collector = Collector()
    found = [build_spec(member.tree, collector).spec for member in expand(parse_tree(source), collector)]
    collector.raise_if_errors()
    return found


@pytest.mark.parametrize(("info", "body"), SPECS)
def test_specs_parse_and_change_their_spelling(info: str, body: str) -> None:
    source = whole(info, body)
    specs, tree = members(source), parse_tree(source)
    assert specs
    assert members(Source("a.arch", format_dsl(tree))) == specs
    assert members(Source("a.yaml", format_yaml(tree))) == specs


def lines(kind: str) -> list[str]:
    return [line for info, body in BLOCKS if info == kind for line in body.splitlines()]


@pytest.mark.parametrize("line", lines("selector"))
def test_selectors_parse(line: str) -> None:
    assert parse_selector(line).text == line


@pytest.mark.parametrize("line", lines("expectation"))
def test_expectations_parse(line: str) -> None:
    assert parse_expectation(line).text == line


def test_every_metric_has_an_example_and_a_row() -> None:
    assert {parse_expectation(line).metric for line in lines("expectation")} == set(METRICS)
    for name in METRICS:
        assert re.search(rf"^\| `{name}[(`]", TEXT, re.MULTILINE), name


def test_every_reserved_word_is_told() -> None:
    told = re.search(r"these words are reserved:(.*?)\.", TEXT, re.DOTALL)
    assert told
    assert set(re.findall(r"`(\w+)`", told[1])) == words.RESERVED


def test_every_key_is_told() -> None:
    for cls in shapes.every(Spec):
        for key in shapes.keys(cls):
            assert re.search(rf"\b{key}\b", TEXT), f"{cls.__name__}.{key}"


def test_every_edit_has_an_example_in_both_spellings() -> None:
    examples = {info.split()[0]: "" for info, _ in SPECS}
    for info, body in SPECS:
        examples[info.split()[0]] += body
    for cls in EDITS:
        assert re.search(rf"^ *- {cls.verb}:", examples["yaml"], re.MULTILINE)
        assert re.search(rf"^ *{cls.verb} ", examples["arch"], re.MULTILINE)
