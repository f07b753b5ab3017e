"""Laws of the printers, on random trees with random comments; layouts; conversions."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from archspec.diagnostics import ArchspecError
from archspec.source import Source
from archspec.syntax.comments import BLANK
from archspec.syntax.dsl_syntax import parse_dsl
from archspec.syntax.fmt import format_dsl, format_yaml
from archspec.syntax.tree import Comments, Entry, Map, Scalar, Seq, Tree, plain, resolve_scalar
from archspec.syntax.yaml_syntax import parse_yaml

NOWHERE = Source("nowhere", "").span(0, 0)
SELECTORS = (
    "blocks", "blocks[3].attn", "odd - blocks[0]", "(odd | even).mlp", '"h.*.attn"', "blocks[i % 4 != 0 and i < n - 1]",
    "first 2 of blocks[1::2]", "blocks[0, 2, 4:6].mlp", "'a b.#'",
)  # fmt: skip
EXPECTATIONS = (
    "depth == 14",
    "params <= 1.06x",
    "flops(tokens=256) <= 118.6G",
    "causal",
    'sites("h.*.attn" | odd) == 3',
)


def scalar(value: object, text: str | None = None, *, quoted: bool = False) -> Scalar:
    shown = text if text is not None else str(value)
    return Scalar(value, shown, NOWHERE, quoted)  # type: ignore[arg-type]


keys = st.from_regex(r"[a-z_][a-z0-9_]{0,6}", fullmatch=True)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
literals = st.sampled_from(
    ["10", "50_000", "1e-4", "10%", "2.5 %", "true", "null", "-3", ".5", "+1.", "2GiB", "none", "l1"]
)
scalars = st.one_of(
    texts.map(lambda text: scalar(text, quoted=True)),
    literals.map(lambda text: scalar(resolve_scalar(text), text)),
    literals.map(lambda text: scalar(text, quoted=True)),
)
remarks = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r\n"), max_size=8).map(str.rstrip)
lines = st.lists(st.one_of(remarks, st.just(BLANK)), max_size=3).map(tuple)


@st.composite
def commented(draw: st.DrawFn, *, end: bool = False) -> Comments:
    if not draw(st.booleans()):
        return Comments()
    return Comments(draw(lines), draw(remarks), draw(lines) if end else ())


@st.composite
def maps(draw: st.DrawFn, values: st.SearchStrategy[Tree]) -> Map:
    names = draw(st.lists(keys, max_size=4, unique=True))
    entries = tuple(Entry(scalar(name), draw(values), draw(commented())) for name in names)
    return Map(entries, NOWHERE, Comments(end=draw(lines)))


@st.composite
def lists(draw: st.DrawFn, values: st.SearchStrategy[Tree]) -> Seq:
    items = [replace(draw(values), comments=draw(commented())) for _ in range(draw(st.integers(0, 3)))]
    return Seq(tuple(items), NOWHERE, Comments(end=draw(lines)))


values: st.SearchStrategy[Tree] = st.recursive(
    scalars, lambda inner: st.one_of(maps(inner), lists(inner)), max_leaves=5
)


@st.composite
def edits(draw: st.DrawFn) -> Map:
    verb = draw(st.sampled_from(["replace", "drop", "repeat"]))
    words = draw(st.lists(st.sampled_from(["with", "init", "by", "tie"]), unique=True, max_size=3))
    entries = [Entry(scalar(verb), scalar(draw(st.sampled_from(SELECTORS))), draw(commented()))]
    entries += [Entry(scalar(word), draw(clauses(word)), draw(commented())) for word in words]
    return Map(tuple(entries), NOWHERE, draw(commented(end=True)))


@st.composite
def clauses(draw: st.DrawFn, word: str) -> Tree:
    head = {"with": "op", "init": "kind"}.get(word)
    if word == "tie":
        return scalar(True, "true")
    params = draw(maps(values))
    if head is None or draw(st.booleans()):
        return draw(st.one_of(scalars, st.just(params)))
    entries = tuple(entry for entry in params.entries if entry.key.value != head)
    operator = Entry(
        scalar(head), scalar(draw(st.sampled_from(["hyena_x", "random", "10", "base"]))), draw(commented())
    )
    return replace(params, entries=(operator, *entries))


@st.composite
def trees(draw: st.DrawFn) -> Map:
    """Spec-shaped trees: every construct, any value, comments anywhere."""
    found = [
        Entry(scalar("archspec"), scalar(1), draw(commented())),
        Entry(scalar("name"), draw(names), draw(commented())),
    ]
    stages = draw(
        st.lists(st.sampled_from(["base", "data", "distill", "finetune", "eval", "description"]), unique=True)
    )
    found += [Entry(scalar(key), draw(st.one_of(scalars, maps(values))), draw(commented())) for key in stages]
    if draw(st.booleans()):
        lets = draw(st.lists(keys.filter(lambda k: k not in ("of", "or", "and")), min_size=1, max_size=3, unique=True))
        entries = tuple(Entry(scalar(k), scalar(draw(st.sampled_from(SELECTORS))), draw(commented())) for k in lets)
        found.append(Entry(scalar("let"), Map(entries, NOWHERE, Comments(end=draw(lines))), draw(commented())))
    if draw(st.booleans()):
        items = draw(st.lists(edits(), min_size=1, max_size=3))
        found.append(Entry(scalar("edits"), Seq(tuple(items), NOWHERE, Comments(end=draw(lines))), draw(commented())))
    if draw(st.booleans()):
        expected = draw(st.lists(st.sampled_from(EXPECTATIONS), max_size=3))
        wanted = tuple(replace(scalar(text), comments=draw(commented())) for text in expected)
        found.append(Entry(scalar("expect"), Seq(wanted, NOWHERE, Comments(end=draw(lines))), draw(commented())))
    return Map(tuple(found), NOWHERE, Comments(end=draw(lines)))


names = texts.map(lambda text: scalar(text, quoted=True))


def dump(tree: Map) -> str:
    return json.dumps(plain(tree), sort_keys=True)


def remarks_of(tree: Tree) -> list[str]:
    """Return every comment of a tree, without blank lines."""
    own = tree.comments
    found = [line for line in (*own.above, own.behind, *own.end) if line not in ("", BLANK)]
    match tree:
        case Map():
            for entry in tree.entries:
                found += [x for x in (*entry.comments.above, entry.comments.behind) if x not in ("", BLANK)]
                found += remarks_of(entry.value)
        case Seq():
            for item in tree.items:
                found += remarks_of(item)
    return found


def yaml(text: str) -> Map:
    return parse_yaml(Source("spec.yaml", text))


def dsl(text: str) -> Map:
    return parse_dsl(Source("spec.arch", text))


LAW = settings(deadline=None, max_examples=60, suppress_health_check=list(HealthCheck), derandomize=True)


@LAW
@given(trees())
def test_yaml_reads_back(tree: Map) -> None:
    text = format_yaml(tree)
    again = yaml(text)
    assert dump(again) == dump(tree)
    once = format_yaml(again)
    assert format_yaml(yaml(once)) == once


@LAW
@given(trees())
def test_dsl_reads_back(tree: Map) -> None:
    text = format_dsl(tree)
    again = dsl(text)
    assert dump(again) == dump(tree)
    once = format_dsl(again)
    assert format_dsl(dsl(once)) == once


@LAW
@given(trees())
def test_conversions_keep_values_and_comments(tree: Map) -> None:
    first = dsl(format_dsl(tree))
    as_yaml = yaml(format_yaml(first))
    back = dsl(format_dsl(as_yaml))
    assert dump(first) == dump(as_yaml) == dump(back)
    text = format_dsl(back)
    for remark in remarks_of(first):
        assert remark in text


COMMENTED = """\
# about the file

archspec: 1
name: x  # named
edits:  # all of them
  # first
  - replace: odd.attn  # why
    with: {op: hyena_x, kernel: 4}
    # then
    init: random

  - drop: blocks[1]
  # after the edits
eval:
  metrics: [fd]  # these

# the end
"""

COMMENTED_DSL = """\
# about the file

spec "x" {  # named
  # all of them
  # first
  replace odd.attn  # why
    with hyena_x(kernel=4)
    # then
    init random

  drop blocks[1]

  # after the edits
  eval { metrics = [fd] }  # these

  # the end
}
"""


def test_comments_stay_where_they_are() -> None:
    assert format_yaml(yaml(COMMENTED)) == COMMENTED
    assert format_dsl(dsl(COMMENTED_DSL)) == COMMENTED_DSL


def test_comments_change_the_spelling() -> None:
    assert format_dsl(yaml(COMMENTED)).replace(
        "eval {\n    metrics = [fd]  # these\n  }", "eval { metrics = [fd] }  # these"
    ) == (COMMENTED_DSL)


def test_short_and_long() -> None:
    long = 'spec "x" {\n  replace ' + " | ".join(f"blocks[{k}]" for k in range(12)) + " with mlp init random\n}\n"
    assert format_dsl(dsl(long)).splitlines()[2:] == ["    with mlp", "    init random", "}"]
    short = yaml("name: x\nbase: {from: a}\neval:\n  metrics: [fd]\n  data:\n    from: b\n")
    assert format_yaml(short) == "archspec: 1\nname: x\nbase: {from: a}\neval:\n  metrics: [fd]\n  data: {from: b}\n"
    assert format_dsl(short) == 'spec "x" {\n  base "a" {}\n\n  eval { metrics = [fd]; data = { from = "b" } }\n}\n'


def test_paragraphs_are_blocks_in_yaml() -> None:
    text = "archspec: 1\nname: x\ndescription: |-\n  one\n\n  two\n"
    assert format_yaml(yaml(text)) == text
    assert format_dsl(yaml(text)) == 'spec "x" {\n  description "one\\n\\ntwo"\n}\n'


@pytest.mark.parametrize(
    ("text", "code", "line", "column"),
    [
        ("name: x\nunknown: 1", "AS160", 2, 1),
        ("name: 3", "AS160", 1, 7),
        ("name: x\neval: [1]", "AS160", 2, 7),
        ("name: x\neval: {a-b: 1}", "AS160", 2, 8),
        ("name: x\nedits: [3]", "AS160", 2, 9),
        ("name: x\nedits: [{drop: 3}]", "AS160", 2, 16),
        ("name: x\nedits: [{drop: a, colour: red}]", "AS160", 2, 19),
        ("name: x\nedits: []", "AS160", 2, 8),
        ("name: x\nedits: [{drop: 'a b'}]", "AS130", 2, 19),
        ("name: x\nexpect: [depth]", "AS138", 2, 10),
    ],
)
def test_what_the_dsl_cannot_say(text: str, code: str, line: int, column: int) -> None:
    with pytest.raises(ArchspecError) as caught:
        format_dsl(yaml(text))
    diagnostic = caught.value.diagnostics[0]
    assert diagnostic.primary
    span = diagnostic.primary.span
    assert (diagnostic.code, span.line, span.column) == (code, line, column)
