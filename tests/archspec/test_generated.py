"""Generated files are what the code would generate now: `make generated` renews them."""

from pathlib import Path

import pytest

from archspec.cli.schema import GENERATED
from archspec.syntax import grammar, tables, words

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("path", GENERATED)
def test_generated_file_is_up_to_date(path: str) -> None:
    assert (ROOT / path).read_text(encoding="utf-8") == GENERATED[path](), f"{path} is stale: run `make generated`"


SENTENCES = {
    "selector": ["blocks[1::2].attn", "first 4 of odd | (blocks[i % 4 != 0] - blocks[-1]).mlp", '"h.*.attn" & a'],
    "expectation": [
        "depth == 14",
        "params <= 1.06x",
        "not causal",
        "sites(blocks[*].attn) == 3",
        "flops(tokens=8) < 1G",
    ],
    "spec": ['spec "x" { base "y" { subfolder = "z" } replace blocks[0].attn with hyena_x(kernel=4) init random }'],
}


@pytest.mark.parametrize("start", SENTENCES)
def test_kept_tables_parse_as_built_ones(start: words.Start) -> None:
    built = tables._built()
    for text in SENTENCES[start]:
        assert tables.parser().parse(text, start=start) == built.parse(text, start=start)


def test_tables_of_another_grammar_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    assert tables._kept() is not None
    monkeypatch.setitem(tables.OPTIONS, "maybe_placeholders", True)
    assert tables._kept() is None


def test_missing_tables_are_built(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "TABLES", "no-such-file.json")
    tables.parser.cache_clear()
    try:
        assert grammar.parse("depth == 14", "expectation").data == "expectation"
    finally:
        tables.parser.cache_clear()
