"""YAML to the tree: values, spans, comments; every refusal by code, line and column."""

from __future__ import annotations

import pytest

from archspec.diagnostics import ArchspecError
from archspec.source import Source
from archspec.syntax.tree import Map, Scalar, Seq, Tree, plain
from archspec.syntax.yaml_syntax import MAX_SIZE, parse_yaml

TEXT = """\
# head
name: "x#y"  # why

# the host
base: {from: a/b, 'sub': "é"}  # flow
description: |  # said
  one # two

  three
edits:
- drop: blocks[1::2]  # first
  # inner
  tie: yes
# above
- {a: 50_000, b: [1e-4,  # small
   10%]}
  # end of edits
"""


def tree(text: str) -> Map:
    return parse_yaml(Source("spec.yaml", text))


def refusals(text: str) -> list[tuple[str, int, int]]:
    with pytest.raises(ArchspecError) as caught:
        tree(text)
    spans = [(d.code, d.primary.span) for d in caught.value.diagnostics if d.primary]
    return [(code, span.line, span.column) for code, span in spans]


def test_values() -> None:
    assert plain(tree(TEXT)) == {
        "name": "x#y",
        "base": {"from": "a/b", "sub": "é"},
        "description": "one # two\n\nthree\n",
        "edits": [{"drop": "blocks[1::2]", "tie": "yes"}, {"a": 50_000, "b": [0.0001, 0.1]}],
    }


def test_spans_cover_what_is_written() -> None:
    found = tree(TEXT)
    assert found.span_of("base").text == "{from: a/b, 'sub': \"é\"}"
    assert found.key_span("base").text == "base"
    assert found.span_of("description").text == "|  # said\n  one # two\n\n  three"
    edits = found.entry("edits")
    assert edits
    assert isinstance(edits.value, Seq)
    first, second = edits.value.items
    assert first.span.text == "drop: blocks[1::2]  # first\n  # inner\n  tie: yes"
    assert (second.span.line, second.span.column, second.span.text[-3:]) == (15, 3, "%]}")
    assert (edits.value.span.start, edits.value.span.end) == (first.span.start - 2, second.span.end)


def test_comments_find_their_items() -> None:
    found = tree(TEXT)
    comments = {str(entry.key.value): entry.comments for entry in found.entries}
    assert comments["name"].above == ("head",)
    assert comments["name"].behind == "why"
    assert comments["base"].above == ("\n", "the host")
    assert comments["base"].behind == "flow"
    assert comments["description"].behind == "said"
    edits = found.entry("edits")
    assert edits
    assert isinstance(edits.value, Seq)
    first, second = edits.value.items
    assert isinstance(first, Map)
    assert [entry.comments.behind for entry in first.entries] == ["first", ""]
    assert first.entries[1].comments.above == ("inner",)
    assert second.comments.above == ("above",)
    assert edits.value.comments.end == ("end of edits",)
    assert isinstance(second, Map)
    numbers = second.entries[1].value
    assert isinstance(numbers, Seq)
    assert numbers.items[0].comments.behind == "small"


@pytest.mark.parametrize(
    ("text", "path", "above", "end"),
    [
        ("a:\n  b: 1\n  # x\nc: 1\n", "a", (), ("x",)),
        ("a:\n  b: 1\n# x\nc: 1\n", "c", ("x",), ()),
        ("a:\n  - b: 1\n    # x\n  - c: 1\n", "a.0", (), ("x",)),
        ("a:\n  - b: 1\n  # x\n  - c: 1\n", "a.1", ("x",), ()),
        ("a:\n  - b: 1\n  # x\n", "a", (), ("x",)),
        ("a:\n- 1\n# x\n", "", (), ("x",)),
        ("a: 1\n\n\n\n# x\n\n# y\n", "", (), ("\n", "x", "\n", "y")),
        ("a: {b: 1,\n # x\n }\nc: 1\n", "a", (), ("x",)),
        ("a: 1\n    # x\nb: 1\n", "b", ("x",), ()),
        ("# x\n\na: 1\n", "a", ("x", "\n"), ()),
        ("a:\n  # x\nb: 1\n", "b", ("x",), ()),
    ],
)
def test_comments_on_their_own_line(text: str, path: str, above: tuple[str, ...], end: tuple[str, ...]) -> None:
    value: Tree = tree(text)
    comments = value.comments
    for step in filter(None, path.split(".")):
        if isinstance(value, Map):
            entry = value.entry(step)
            assert entry
            value, comments = entry.value, entry.comments
        else:
            assert isinstance(value, Seq)
            value = value.items[int(step)]
            comments = value.comments
    assert (comments.above, value.comments.end) == (above, end)


def test_an_empty_value_is_null() -> None:
    entry = tree("distill:\nname: x").entry("distill")
    assert entry
    assert isinstance(entry.value, Scalar)
    assert (entry.value.value, entry.value.text) == (None, "null")


def test_a_quoted_scalar_is_text() -> None:
    assert plain(tree("a: '10'\nb: \"true\"\nc: on\nd: 1e-4\ne: none")) == {
        "a": "10", "b": "true", "c": "on", "d": 1e-4, "e": "none",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("text", "code", "line", "column"),
    [
        ("", "AS113", 1, 1),
        ("# nothing\n", "AS113", 1, 1),
        ("- a\n", "AS113", 1, 1),
        ("just text", "AS113", 1, 1),
        ("a: b: c", "AS105", 1, 5),
        ("a: [1, 2\nb: 1", "AS105", 1, 4),
        ("a: {b: 1\nc: 1", "AS105", 1, 4),
        ("a: 'x\nb: 1", "AS105", 1, 4),
        ("a: @x", "AS105", 1, 4),
        ("a: {x: y, z: blocks[}", "AS105", 1, 20),
        ("a: {drop: blocks[0]}", "AS105", 1, 17),
        ("a: [b, c[0]]", "AS105", 1, 9),
        ("a: ['b'[0]]", "AS105", 1, 4),
        ('a: "\\q"', "AS105", 1, 4),
        ("a: 1\n b: 2", "AS105", 2, 3),
        ("a: 1\n- b", "AS105", 2, 1),
        ("a: \x07", "AS105", 1, 4),
        ("a:\n\tb: 1", "AS106", 2, 1),
        ("a: 1\nb: 2\na: 3", "AS107", 3, 1),
        ("a: {b: 1, b: 2}", "AS107", 1, 11),
        ("1: a", "AS108", 1, 1),
        ("true: a", "AS108", 1, 1),
        ("? [a]\n: b", "AS108", 1, 3),
        ("a: &x 1", "AS109", 1, 4),
        ("a: *x", "AS109", 1, 4),
        ("a: 1\n<<: {b: 1}", "AS109", 2, 1),
        ("a: !!int 3", "AS110", 1, 4),
        ("a: !evil {b: 1}", "AS110", 1, 4),
        ("%YAML 1.1\n---\na: 1", "AS110", 1, 1),
        ("a: 1\n---\nb: 1", "AS111", 2, 1),
        ("a: " + "[" * 40, "AS112", 1, 36),
    ],
)
def test_refusals(text: str, code: str, line: int, column: int) -> None:
    assert refusals(text)[0] == (code, line, column)


def test_all_refusals_of_a_file_are_reported() -> None:
    assert refusals("a: &x 1\na: *x\n7: !t q\n") == [
        ("AS109", 1, 4), ("AS107", 2, 1), ("AS109", 2, 4), ("AS108", 3, 1), ("AS110", 3, 4),
    ]  # fmt: skip


def test_a_bomb_of_aliases_is_never_expanded() -> None:
    levels = ["a0: &a0 [x, x]"] + [f"a{k}: &a{k} [{', '.join([f'*a{k - 1}'] * 9)}]" for k in range(1, 12)]
    assert {code for code, _, _ in refusals("\n".join(levels))} == {"AS109"}


def test_a_large_file_is_refused_unread() -> None:
    with pytest.raises(ArchspecError) as caught:
        tree("a" * (MAX_SIZE + 1))
    assert caught.value.diagnostics[0].code == "AS103"
