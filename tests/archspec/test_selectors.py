"""Selectors: every construct finds its sites, every refusal names its code and column."""

from __future__ import annotations

import pytest

from archspec.diagnostics import ArchspecError
from archspec.host.structure import Site, SiteShape, Structure
from archspec.language.selectors import Selector, parse_selector, select
from archspec.source import Source
from archspec.syntax.grammar_errors import EXAMPLES

SHAPE = SiteShape(width=8)


def block(index: int, group: str = "blocks", path: str = "h") -> list[Site]:
    def site(name: str, slot: str) -> Site:
        return Site(f"{path}.{index}{name}", slot, SHAPE, group=group, index=index)

    return [
        site("", "block"),
        site(".attn1", "attn"),
        site(".ff", "mlp"),
        site(".norm", "norm"),
        site(".norm2", "norm"),
    ]


@pytest.fixture(scope="module")
def host() -> Structure:
    sites = [site for index in range(6) for site in block(index)]
    sites += [site for index in range(2) for site in block(index, "singles", "s")]
    return Structure("tiny", "Tiny", "diffusers", {}, {"blocks": "h", "singles": "s"}, tuple(sites))


def parsed(text: str) -> Selector:
    return parse_selector(text, Source("spec.yaml", text).span(0, len(text)))


def found(host: Structure, text: str, **lets: str) -> list[str]:
    return [site.path for site in select(parsed(text), host, {name: parsed(let) for name, let in lets.items()})]


def refused(text: str, host: Structure | None = None, **lets: str) -> tuple[str, int, str, str]:
    """Return code, column, marked text and first hint."""
    with pytest.raises(ArchspecError) as caught:
        found(host, text, **lets) if host else parsed(text)
    diagnostic = caught.value.diagnostics[0]
    assert diagnostic.primary is not None
    span = diagnostic.primary.span
    return diagnostic.code, span.column, span.text, diagnostic.hints[0] if diagnostic.hints else ""


def h(*indices: int, end: str = "") -> list[str]:
    return [f"h.{index}{end}" for index in indices]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("blocks", h(0, 1, 2, 3, 4, 5)),
        ("blocks[*]", h(0, 1, 2, 3, 4, 5)),
        ("blocks[3]", h(3)),
        ("blocks[-1]", h(5)),
        ("blocks[1::2]", h(1, 3, 5)),
        ("blocks[::-2]", h(1, 3, 5)),
        ("blocks[:2]", h(0, 1)),
        ("blocks[-2:]", h(4, 5)),
        ("blocks[0:6]", h(0, 1, 2, 3, 4, 5)),
        ("blocks[4, 0, 0, 2:4]", h(0, 2, 3, 4)),
        ("blocks[i % 4 != 0]", h(1, 2, 3, 5)),
        ("blocks[i % 2 == 0 and i > 0]", h(2, 4)),
        ("blocks[i < 1 or i >= n - 1]", h(0, 5)),
        ("blocks[not (i < 2 or i > 3)]", h(2, 3)),
        ("blocks[not not i == 1]", h(1)),
        ("blocks[1 <= i < 3]", h(1, 2)),
        ("blocks[2 * i + 1 == n // 2 * 2 - 1]", h(2)),
        ("blocks[(i + 1) * 2 > n and (i != 5)]", h(3, 4)),
        ("blocks[i - 1 - 1 == 0]", h(2)),
        ("blocks[-1 + i == 0]", h(1)),
        ("blocks[2].attn", ["h.2.attn1"]),
        ("blocks[1,2].norm", ["h.1.norm", "h.1.norm2", "h.2.norm", "h.2.norm2"]),
        ("blocks[1].block", h(1)),
        ("singles.mlp", ["s.0.ff", "s.1.ff"]),
        ("(blocks[0] | singles[0]).attn", ["h.0.attn1", "s.0.attn1"]),
        ("blocks[2] | blocks[0]", h(0, 2)),
        ("blocks[:4] & blocks[2:]", h(2, 3)),
        ("blocks - blocks[1] - blocks[2:4]", h(0, 4, 5)),
        ("blocks[0] | blocks[1:4] & blocks[2:] - blocks[3]", h(0, 2)),
        ("first 2 of blocks[1::2]", h(1, 3)),
        ("last 2 of blocks", h(4, 5)),
        ("last 1 of first 3 of blocks", h(2)),
        ("first 2 of blocks.attn | blocks[5].mlp", ["h.0.attn1", "h.1.attn1", "h.5.ff"]),
        ('"h.*.attn1"', [f"h.{k}.attn1" for k in range(6)]),
        ("'h.[0-2].ff'", ["h.0.ff", "h.1.ff", "h.2.ff"]),
        ("'h.[!0-2].ff'", ["h.3.ff", "h.4.ff", "h.5.ff"]),
        ('"?.0"', ["h.0", "s.0"]),
        ('"h.0**"', ["h.0", "h.0.attn1", "h.0.ff", "h.0.norm", "h.0.norm2"]),
        ('"h.*"', h(0, 1, 2, 3, 4, 5)),
        ("  blocks [ 3 ] . attn ", ["h.3.attn1"]),
    ],
)  # fmt: skip
def test_sites(host: Structure, text: str, expected: list[str]) -> None:
    assert found(host, text) == expected


def test_names_of_let(host: Structure) -> None:
    assert found(host, "odd.attn - last 1 of odd.attn", odd="blocks[1::2]") == ["h.1.attn1", "h.3.attn1"]
    assert found(host, "inner", inner="odd & blocks[2:]", odd="blocks[1::2]") == h(3, 5)


def test_sets_obey_their_algebra(host: Structure) -> None:
    everything = found(host, "blocks | singles")
    assert found(host, "(blocks | singles) - blocks") == found(host, "singles")
    assert found(host, "(blocks - blocks[1::2]) | blocks[1::2] | singles") == everything


def test_equal_expressions_make_equal_selectors() -> None:
    assert parse_selector("blocks[1::2]") == parse_selector(" blocks[ 1 : : 2 ] ")
    assert parse_selector("blocks[1]") != parse_selector("blocks[-1]")


@pytest.mark.parametrize(
    ("text", "code", "column", "marked", "hint"),
    [
        ("", "AS130", 1, "", "`blocks[*]` selects every block"),
        ("blocks[", "AS121", 7, "[", "close it with ']'"),
        ("(blocks", "AS121", 1, "(", "close it with ')'"),
        ("blocks)", "AS121", 7, ")", "remove it"),
        ("'h.*", "AS121", 1, "'h.*", "end the text on the same line"),
        ("blocks[i = 3]", "AS130", 10, "=", "write '=='"),
        (
            "blocks[x < 3]",
            "AS133",
            8,
            "x",
            "a predicate knows `i`, the index of a block, and `n`, the number of blocks",
        ),
        ("blocks[i]", "AS130", 9, "]", EXAMPLES["selector"][0]),
        ("blocks[1:2:0]", "AS132", 8, "1:2:0", ""),
        ("blocks[99999999999]", "AS132", 8, "99999999999", ""),
        ("first 0 of blocks", "AS132", 1, "first 0 of blocks", ""),
        ("first of blocks", "AS130", 7, "of", EXAMPLES["selector"][0]),
        ("blocks blocks", "AS130", 8, "blocks", EXAMPLES["selector"][0]),
        ("blocks |", "AS130", 9, "", EXAMPLES["selector"][0]),
        ("blocks[0]@", "AS130", 10, "@", EXAMPLES["selector"][0]),
        ("blocks # all", "AS130", 8, "#", ""),
        ("h.*.attn", "AS130", 3, "*", "quote module paths: '\"h.*.attn\"'"),
        ("h.0.attn", "AS130", 3, "0.attn", "quote module paths: '\"h.0.attn\"'"),
        ("data[1]", "AS130", 1, "data", ""),
        ("''", "AS132", 1, "''", ""),
        ("(" * 33 + "blocks" + ")" * 33, "AS112", 33, "(", ""),
    ],
)
def test_texts_that_do_not_parse(text: str, code: str, column: int, marked: str, hint: str) -> None:
    assert refused(text) == (code, column, marked, hint)


def test_a_text_without_end_is_refused() -> None:
    assert refused("blocks | " * 400 + "blocks")[:2] == ("AS131", 1)


@pytest.mark.parametrize(
    ("text", "code", "column", "marked", "hint"),
    [
        ("block[0]", "AS170", 1, "block", "did you mean 'blocks'?"),
        ("xyzzy", "AS170", 1, "xyzzy", "names here are blocks, singles"),
        ("blocks[6]", "AS174", 8, "6", "'blocks' has 6 entries: 0 to 5, or -6 to -1"),
        ("blocks[0, -7]", "AS174", 11, "-7", "'blocks' has 6 entries: 0 to 5, or -6 to -1"),
        ("blocks[0:28]", "AS174", 8, "0:28", "'blocks' has 6 entries: 0 to 5, or -6 to -1"),
        ("blocks[3:3]", "AS173", 1, "blocks[3:3]", "the host has blocks[0:6], singles[0:2]"),
        ("blocks[i > 9]", "AS173", 1, "blocks[i > 9]", "the host has blocks[0:6], singles[0:2]"),
        ("blocks - blocks", "AS173", 1, "blocks - blocks", "the host has blocks[0:6], singles[0:2]"),
        ('"h.*.atn1"', "AS173", 1, '"h.*.atn1"', "a module path near it is '\"h.5.attn1\"'"),
        ("blocks[0].atn", "AS172", 11, "atn", "did you mean 'attn'?"),
        ("blocks[0].cross_attn", "AS172", 11, "cross_attn", "slots of these blocks are attn, mlp, norm"),
        ("blocks.attn.mlp", "AS172", 13, "mlp", "leave '.mlp' out"),
        ("first 7 of blocks", "AS174", 1, "first 7 of blocks", ""),
        ("blocks[i % 0 == 1]", "AS175", 1, "blocks[i % 0 == 1]", ""),
        ("blocks[6 // i > 1]", "AS175", 1, "blocks[6 // i > 1]", ""),
    ],
)
def test_selections_that_are_refused(
    host: Structure, text: str, code: str, column: int, marked: str, hint: str
) -> None:
    assert refused(text, host) == (code, column, marked, hint)


def test_lets_that_are_refused(host: Structure) -> None:
    assert refused("odd[0]", host, odd="blocks[1::2]")[:3] == ("AS171", 1, "odd[0]")
    assert refused("a", host, a="b", b="blocks | a")[:3] == ("AS171", 10, "a")
    assert refused("blocks", host, blocks="singles")[:3] == ("AS171", 1, "blocks")


def test_spans_count_within_quotes() -> None:
    source = Source("spec.yaml", 'drop: "blocks[x > 1]"')
    with pytest.raises(ArchspecError) as caught:
        parse_selector("blocks[x > 1]", source.span(6, 21))
    label = caught.value.diagnostics[0].primary
    assert label is not None
    assert (label.span.column, label.span.text) == (15, "x")
