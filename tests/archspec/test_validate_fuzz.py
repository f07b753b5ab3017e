"""Whatever the text, validation ends in diagnostics: never in a traceback, always at places that exist."""

import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from archspec.codes import table
from archspec.render import FORMATS, render
from archspec.semantics.validate import validate_source
from archspec.source import Source

YAML = """archspec: 1
name: x  # a name
base: {from: ./host}
let: {odd: "blocks[1::2]", late: "last 2 of blocks"}
edits:
  - replace: odd.attn
    with: {op: hyena_x, kernel: 4}
    init: {kind: least_squares, ridge: 1e-4}
  - {parallelize: late, by: 2, merge: linear}
  - {share: "blocks[0:2].mlp"}
  - freeze: '"transformer_blocks.*.norm3"'
data: {from: digits, fraction: 10%}
distill: {samples: 64, loss: {attn: l1, block: l2}, cache: 1GiB}
finetune: {steps: 1_000, milestones: [10, 20]}
eval: {metrics: [fd, latency]}
expect: [depth == 3, params <= 1.06x, "reach == all", sites(odd.attn) == 2]
"""
DSL = """spec "x" {
  base "./host"
  let odd = blocks[1::2]
  replace odd.attn with hyena_x(kernel=4) init random  # why
  parallelize blocks[2:4] by 2 merge linear init least_squares
  data "digits"
  distill { samples = 64; loss = { attn = l1 }; cache = 1GiB }
  expect { depth == 3; params <= 1.06x; not causal }
}
"""
HOST = """{"_class_name": "DiTTransformer2DModel", "num_attention_heads": 2, "attention_head_dim": 8, "in_channels": 1,
"num_layers": 4, "sample_size": 4}"""
PIECES = st.sampled_from(
    [
        "[",
        "]",
        "{",
        "}",
        ":",
        "- ",
        '"',
        "'",
        "\n",
        "\t",
        "#",
        "&a ",
        "*a",
        "!!x ",
        "|",
        ">",
        "%",
        "..",
        "blocks[9]",
        "none",
    ]
    + [
        "null",
        "-1",
        "1e999",
        "nan",
        "9" * 50,
        "é模\u202e",
        "\x00",
        "\x1b",
        "\r",
        "\ufeff",
        "---\n",
        "? ",
        "<<: ",
        "op",
        ", ",
    ]
)


@pytest.fixture(autouse=True, scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fuzz")
    (folder / "host").mkdir()
    (folder / "host" / "config.json").write_text(HOST)
    return folder


@st.composite
def mutated(draw: st.DrawFn, text: str) -> str:
    """Return the text with a few pieces put in, cut out or written over."""
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(text)))
        length = draw(st.sampled_from([0, 0, 1, 2, 5, 20]))
        piece = draw(st.one_of(PIECES, st.just(""), st.text(max_size=3)))
        text = text[:start] + piece + text[start + length :]
    return text


def check(text: str, name: Path) -> None:
    source = Source(str(name), text)
    for found in validate_source(source):
        assert found.code in table()
        labels = [label for label in (found.primary, *found.related) if label]
        assert all(0 <= label.span.start <= label.span.end <= len(label.span.source.text) for label in labels)
        for form in FORMATS:
            out = render([found], form)
            assert out
            assert form not in ("json", "sarif") or json.loads(out)
            assert "\x1b" not in out


FUZZ = settings(max_examples=120, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])


@FUZZ
@given(text=mutated(YAML))
def test_mutated_yaml(host: Path, text: str) -> None:
    check(text, host / "spec.yaml")


@FUZZ
@given(text=mutated(DSL))
def test_mutated_dsl(host: Path, text: str) -> None:
    check(text, host / "spec.arch")


@FUZZ
@given(text=st.text(max_size=60))
@pytest.mark.parametrize("suffix", [".yaml", ".arch"])
def test_any_text(host: Path, text: str, suffix: str) -> None:
    check(text, host / f"spec{suffix}")


@pytest.mark.parametrize(("text", "suffix"), [(YAML, ".yaml"), (DSL, ".arch")])
def test_the_texts_themselves_are_right(host: Path, text: str, suffix: str) -> None:
    assert [str(d) for d in validate_source(Source(str(host / f"spec{suffix}"), text))] == []
