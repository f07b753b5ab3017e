"""The DSL to the tree: the same tree as YAML's; messages by code, line and column; no text makes it crash."""

from __future__ import annotations

import re
from contextlib import suppress

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.lark import from_lark
from lark import Lark

from archspec.diagnostics import ArchspecError
from archspec.language.edits import EDITS
from archspec.language.fields import declared
from archspec.language.parse import parse
from archspec.source import Source
from archspec.syntax import tables, words
from archspec.syntax.dsl_syntax import parse_dsl
from archspec.syntax.fmt import format_dsl
from archspec.syntax.tree import Map, Scalar, Seq, plain
from archspec.syntax.yaml_syntax import parse_yaml

TEXT = """\
# head
spec "dit-xl2" {  # named
  description "one\\nparagraph"
  base "facebook/DiT-XL-2-256" { subfolder = "transformer" }
  let odd = blocks[1::2]

  # every second
  replace odd.attn with hyena_x(kernel=4, shape=[1, {a = b}]) init random  # cheap
  let rest = blocks
    - odd  # the others
  repeat rest times 3 tie
  repeat blocks[0] tie false; drop "h.*.attn"
  finetune { fraction = 10%; data = { from = 'digits' }; clip = null }
  distill none
  expect { depth == 14; causal
    params <= 1.06x }
  # the end
}
"""


def tree(text: str) -> Map:
    return parse_dsl(Source("spec.arch", text))


def refusals(text: str) -> list[tuple[str, int, int, str, str]]:
    """Return code, line, column, message and first hint of every diagnostic."""
    with pytest.raises(ArchspecError) as caught:
        tree(text)
    found = []
    for diagnostic in caught.value.diagnostics:
        assert diagnostic.primary
        span = diagnostic.primary.span
        hint = diagnostic.hints[0] if diagnostic.hints else ""
        found.append((diagnostic.code, span.line, span.column, diagnostic.message, hint))
    return found


def test_the_tree_is_that_of_yaml() -> None:
    assert plain(tree(TEXT)) == {
        "archspec": 1,
        "name": "dit-xl2",
        "description": "one\nparagraph",
        "base": {"from": "facebook/DiT-XL-2-256", "subfolder": "transformer"},
        "let": {"odd": "blocks[1::2]", "rest": "blocks - odd"},
        "edits": [
            {"replace": "odd.attn", "with": {"op": "hyena_x", "kernel": 4, "shape": [1, {"a": "b"}]}, "init": "random"},
            {"repeat": "rest", "times": 3, "tie": True},
            {"repeat": "blocks[0]", "tie": False},
            {"drop": '"h.*.attn"'},
        ],
        "finetune": {"fraction": 0.1, "data": {"from": "digits"}, "clip": None},
        "distill": "none",
        "expect": ["depth == 14", "causal", "params <= 1.06x"],
    }


def test_spans_and_comments() -> None:
    found = tree(TEXT)
    edits, let = found.entry("edits"), found.entry("let")
    assert edits
    assert let
    assert isinstance(edits.value, Seq)
    assert isinstance(let.value, Map)
    first = edits.value.items[0]
    assert isinstance(first, Map)
    assert first.comments.above == ("\n", "every second")
    assert first.span.text.startswith("replace odd.attn with hyena_x(")
    assert [e.comments.behind for e in first.entries] == ["", "", "cheap"]
    assert found.key_span("archspec").text == "spec"
    assert found.entries[0].comments.above == ("head",)
    assert found.entries[1].comments.behind == "named"
    assert found.span_of("finetune").text.startswith("{ fraction")
    assert found.comments.end == ("the end",)
    rest = let.value.entries[1]
    assert isinstance(rest.value, Scalar)
    assert (rest.value.text, rest.comments.behind) == ("blocks - odd", "the others")


def test_the_words_of_the_grammar_agree_with_the_code() -> None:
    terminals = {terminal.name: terminal.pattern.value for terminal in tables.parser().terminals}

    def listed(name: str) -> set[str]:
        return set(re.findall(r"[a-z]+", terminals[name]))

    assert listed("VERB") == set(words.VERBS) == {cls.verb for cls in EDITS}
    assert listed("STANZA") == set(words.STANZAS)
    clauses = {field.rstrip("_") for cls in EDITS for field in [f.name for f in declared(cls)]} - {"target"}
    assert listed("CLAUSE") | listed("BY") | listed("FLAG") | listed("TO") == set(words.CLAUSES) == clauses
    excluded = re.search(r"\(\?:([a-z|]+)\)\\b", terminals["NAME"])
    assert excluded
    assert set(excluded[1].split("|")) == words.RESERVED


def test_a_version_may_be_written() -> None:
    assert plain(tree('archspec 2\nspec "x" {}')) == {"archspec": 2, "name": "x"}
    assert format_dsl(tree('archspec 2 spec "x" {}')) == 'archspec 2\nspec "x" {\n}\n'


def spec(body: str) -> str:
    return f'spec "x" {{\n{body}\n}}'


@pytest.mark.parametrize(
    ("text", "code", "line", "column", "message", "hint"),
    [
        ("", "AS120", 1, 1, "a spec begins with `spec`", 'write `spec "name" { ... }`'),
        ('spek "x" {}', "AS120", 1, 1, "a spec begins with `spec`", 'write `spec "name" { ... }`'),
        ('spec "x" {} 3', "AS120", 1, 13, "a file holds one spec; this stands behind its end",
         "move it inside the braces"),
        ('spec "x" {}}', "AS121", 1, 12, "this '}' closes nothing", "remove it"),
        ('spec "x" {\nbase "d"\n', "AS121", 1, 10, "this '{' is never closed", "close it with '}'"),
        ('spec "x {}', "AS121", 1, 6, 'this " is never closed', "end the text on the same line"),
        (spec("replce a with b"), "AS122", 2, 1, "unknown statement 'replce'", "did you mean 'replace'?"),
        (spec("drop a inti b"), "AS122", 2, 8, "unknown statement 'inti'", "did you mean 'init'?"),
        (spec("drop blocks[3"), "AS121", 2, 12, "this '[' is never closed", "close it with ']'"),
        (spec("drop blocks[3\ndrop a"), "AS121", 2, 12, "this '[' is never closed", "close it with ']'"),
        (spec("eval { steps = 3\ndrop a"), "AS121", 2, 6, "this '{' is never closed", "close it with '}'"),
        (spec("drop blocks[i = 3]"), "AS120", 2, 15, "'=' does not compare", "write '=='"),
        (spec("expect { depth = 3 }"), "AS120", 2, 16, "'=' does not compare", "write '=='"),
        (spec("eval { steps == 3 }"), "AS120", 2, 8, "'steps' is not set to anything", "write `steps = ...`"),
        (spec("eval { steps: 3 }"), "AS120", 2, 8, "settings are written with '='", "write `steps = ...`"),
        (spec("distill { attn.loss = l1 }"), "AS120", 2, 11, "settings have no dots", "write `loss = { attn = ... }`"),
        (spec("eval { steps = 1, batch = 2 }"), "AS120", 2, 17, "no ',' between settings or statements",
         "separate them with ';' or a new line"),
        (spec("replace a with b(c=1; d=2)"), "AS120", 2, 21, "no ';' inside parentheses or a list",
         "separate with ','"),
        (spec("replace a with b { c = 1 }"), "AS120", 2, 18, "parameters stand in parentheses",
         "write `b(name=value, ...)`"),
        (spec("replace a with data"), "AS120", 2, 16, None, 'write "data" in quotes'),
        (spec("replace with b"), "AS120", 2, 9, "expected a selector, found the reserved word 'with'", ""),
        (spec("drop"), "AS120", 3, 1, "expected a selector, found '}'", ""),
        (spec("let = blocks"), "AS120", 2, 5, "expected a setting (`name = value`), found '='", ""),
        (spec("base"), "AS120", 3, 1, None, ""),
        (spec("drop @"), "AS120", 2, 6, "expected a selector, found '@'", ""),
        (spec("replace a hyena_x"), "AS122", 2, 11, "unknown statement 'hyena_x'", None),
        (spec('base "a"\nbase "b"'), "AS107", 3, 1, "'base' is written twice", "first written on line 2"),
        (spec("let a = b\nlet a = c"), "AS107", 3, 5, "'a' is written twice", "first written on line 2"),
        (spec("eval { a = 1; a = 2 }"), "AS107", 2, 15, "'a' is written twice", "first written on line 2"),
        (spec("drop a by 2 by 3"), "AS107", 2, 13, "'by' is written twice", "first written on line 2"),
        (spec('base "a" { from = "b" }'), "AS107", 2, 12, "'from' is written twice", "'a' is its value"),
        (spec("distill 3 { epochs = 1 }"), "AS123", 2, 9, "'distill' takes settings, or one value; not both",
         "write `distill { ... }`"),
        (spec('description "\\q"'), "AS124", 2, 14, "unknown escape in a text", "write '\\\\' for a backslash"),
        (spec("eval { a = " + "[" * 40 + "]" * 40 + " }"), "AS112", 2, 42, "brackets are nested more than 32 deep", ""),
    ],
)  # fmt: skip
def test_refusals(text: str, code: str, line: int, column: int, message: str | None, hint: str | None) -> None:
    found = refusals(text)[0]
    assert found[:3] == (code, line, column)
    assert message is None or found[3] == message
    assert hint is None or found[4] == hint


def test_one_run_reports_every_error() -> None:
    text = """\
spec "x" {
  base "d" { subfolder: "t" }
  replce odd.attn with hyena_x(kernel=4)
  replace odd.attn with hyena_x { kernel = 4 }
  distill { attn.loss = l1, epochs = 3 }
  drop blocks[3
  expect { depth = 3 }
  freeze blocks
}
"""
    assert [found[:3] for found in refusals(text)] == [
        ("AS120", 2, 14), ("AS122", 3, 3), ("AS120", 4, 33), ("AS120", 5, 13), ("AS121", 6, 14), ("AS120", 7, 18),
    ]  # fmt: skip


def test_errors_are_capped() -> None:
    assert len(refusals(spec("drop [\n" * 100))) <= 20


def test_a_comment_hides_nothing_in_a_text() -> None:
    assert plain(tree(spec("description 'a # b'  # \"c")))["description"] == "a # b"  # type: ignore[index]


FUZZ = settings(deadline=None, max_examples=150, suppress_health_check=list(HealthCheck), derandomize=True)


def built() -> Lark:
    """Return the parser made from the grammar: kept tables do not hold the rules that sentences are drawn from."""
    return tables._built()


@FUZZ
@given(from_lark(built(), start="spec"))
def test_programs_of_the_grammar_only_raise_diagnostics(text: str) -> None:
    with suppress(ArchspecError):
        parse(Source("spec.arch", text))


@FUZZ
@given(st.text(st.sampled_from("spec\"x{}[]()=;,.#|&-+*%:0129ieo \n'\\"), max_size=60))
def test_noise_only_raises_diagnostics(noise: str) -> None:
    for text in (noise, spec(noise), spec(f"drop {noise}"), spec(f"eval {{ {noise} }}")):
        with suppress(ArchspecError):
            parse(Source("spec.arch", text))


@FUZZ
@given(st.text(max_size=80))
def test_noise_in_yaml_only_raises_diagnostics(noise: str) -> None:
    for text in (noise, f"name: {noise}\nedits:\n  - drop: {noise}"):
        with suppress(ArchspecError):
            parse_yaml(Source("spec.yaml", text))
