"""The tree to nodes: shorthands, defaults, every kind of mistake by code, line and column."""

from __future__ import annotations

import pytest

from archspec.diagnostics import ArchspecError, Collector
from archspec.language import shapes
from archspec.language.advice import advice
from archspec.language.build import Builder, build, build_signature
from archspec.language.edits import Drop, Init, OperatorCall, Repeat, Replace
from archspec.language.fields import Node
from archspec.language.parse import parse
from archspec.language.spec import Base, Spec
from archspec.language.stages import Data
from archspec.operators import OPERATORS, signature
from archspec.operators.hyena_x import HyenaX
from archspec.source import Source
from archspec.syntax import words
from archspec.syntax.yaml_syntax import parse_yaml

NAME_HINT = "write `name: dit-xl2-hyena-x-50` (name of the result: letters, digits, `.`, `_`, `-`)"


def spec(text: str) -> Spec:
    return parse(Source("spec.yaml", text))


def refusals(text: str) -> list[tuple[str, int, int, str]]:
    """Return code, line, column and first hint of every diagnostic."""
    with pytest.raises(ArchspecError) as caught:
        spec(text)
    found = []
    for diagnostic in caught.value.diagnostics:
        assert diagnostic.primary
        span = diagnostic.primary.span
        found.append((diagnostic.code, span.line, span.column, diagnostic.hints[0] if diagnostic.hints else ""))
    return found


def test_shorthands_are_spelled_out() -> None:
    found = spec("name: x\nbase: a/b\ndata: digits\nedits:\n- {replace: blocks, with: hyena_x, init: random}")
    assert found.base == Base(from_="a/b")
    assert found.data == Data(from_="digits")
    edit = found.edits[0]
    assert isinstance(edit, Replace)
    assert edit.with_ == OperatorCall(op="hyena_x")
    assert edit.init == Init(kind="random")
    origin = edit.with_.span("op")
    assert origin
    assert origin.text == "hyena_x"


def test_values_of_every_type() -> None:
    found = spec(
        "name: x\ndistill: {loss: {attn: l1, mlp: l2}, cache: 1.5GiB, samples: 1e3, gate_weighted: true, clip: null}\n"
        "finetune: {milestones: [10, 20], fraction: 10%, lr: 1, data: {from: a, fraction: 50%}}\n"
        "eval: {metrics: [fd]}\nlet: {odd: 'blocks[1::2]'}\nexpect: [causal]\nedits: [{repeat: odd, tie: true}]"
    )
    assert found.distill
    assert (found.distill.loss, found.distill.cache) == ({"attn": "l1", "mlp": "l2"}, 3 * 2**29)
    assert (found.distill.samples, found.distill.clip) == (1000, None)
    assert found.finetune
    assert found.finetune.milestones == (10, 20)
    assert (found.finetune.fraction, found.finetune.lr) == (0.1, 1.0)
    assert isinstance(found.finetune.lr, float)
    assert found.finetune.data == Data(from_="a", fraction=0.5)
    assert isinstance(found.edits[0], Repeat)
    assert found.edits[0].tie
    assert found.let["odd"].text == "blocks[1::2]"


def test_none_is_no_stanza() -> None:
    found = spec("name: x\ndistill: none\neval: null\nfinetune: {ema: null}")
    assert (found.distill, found.eval) == (None, None)
    assert found.finetune
    assert found.finetune.ema is None


def test_spans_lead_to_what_was_written() -> None:
    found = spec("name: x\nedits:\n  - repeat: blocks\n    times: 3\n")
    edit = found.edits[0]
    times, target, whole = edit.span("times"), edit.span("repeat"), edit.span("tie")
    assert times
    assert target
    assert whole
    assert (times.text, target.text, whole.text) == ("3", "blocks", "repeat: blocks\n    times: 3")


@pytest.mark.parametrize(
    ("text", "code", "line", "column", "hint"),
    [
        ("base: x", "AS141", 1, 1, NAME_HINT),
        ("name: x\nedit: []", "AS140", 2, 1, "did you mean 'edits'?"),
        ("name: x\nbase: {form: a}", "AS140", 2, 8, "did you mean 'from'?"),
        ("name: x\nbase: [a]", "AS142", 2, 7, None),
        ("name: x\nbase: 3", "AS142", 2, 7, 'write "3" in quotes'),
        ("name: ../x", "AS146", 1, 7, None),
        ("name: a..b", "AS146", 1, 7, None),
        ("name: x\ndescription: ''", "AS142", 2, 14, None),
        ("name: x\narchspec: 2", "AS144", 2, 11, "it is one of 1"),
        ("name: x\nlet: [a]", "AS142", 2, 6, None),
        ("name: x\nlet: {first: blocks}", "AS146", 2, 7, "names are letters, digits and '_', and no reserved word"),
        ("name: x\nlet: {a-b: blocks}", "AS146", 2, 7, "names are letters, digits and '_', and no reserved word"),
        ("name: x\nlet: {a: 'blocks['}", "AS121", 2, 17, "close it with ']'"),
        ("name: x\nedits: blocks", "AS142", 2, 8, "write a list: `edits: [blocks]`"),
        ("name: x\nedits: [drop]", "AS142", 2, 9, None),
        ("name: x\nedits: [{dorp: blocks}]", "AS145", 2, 10, "did you mean 'drop'?"),
        ("name: x\nedits: [{}]", "AS145", 2, 9, f"verbs are {', '.join(words.VERBS)}"),
        ("name: x\nedits: [{drop: blocks, freeze: blocks}]", "AS145", 2, 24, None),
        ("name: x\nedits: [{drop: blocks, by: 2}]", "AS140", 2, 24, "its keys are drop"),
        ("name: x\nedits: [{drop: 3}]", "AS142", 2, 16, None),
        ("name: x\nedits: [{drop: [blocks]}]", "AS142", 2, 16, None),
        ("name: x\nedits: [{replace: blocks}]", "AS141", 2, 10, "write `with: hyena_x` (operator)"),
        ("name: x\nedits: [{replace: blocks, with: {kernel: 3}}]", "AS141", 2, 33, None),
        ("name: x\nedits: [{replace: blocks, with: a, init: radnom}]", "AS144", 2, 42, "did you mean 'random'?"),
        ("name: x\nedits: [{repeat: blocks, times: 1}]", "AS143", 2, 33, None),
        ("name: x\nedits: [{repeat: blocks, times: 65}]", "AS143", 2, 33, None),
        ("name: x\nedits: [{repeat: blocks, tie: 1}]", "AS142", 2, 31, None),
        ("name: x\nfinetune: {steps: many}", "AS142", 2, 19, None),
        ("name: x\nfinetune: {steps: 1.5}", "AS142", 2, 19, None),
        ("name: x\nfinetune: {steps: true}", "AS142", 2, 19, None),
        ("name: x\nfinetune: {lr: 0}", "AS143", 2, 16, None),
        ("name: x\nfinetune: {lr: 1e999}", "AS142", 2, 16, None),
        ("name: x\nfinetune: {data: 10%}", "AS142", 2, 18, "write `fraction` for a part of the data"),
        ("name: x\nfinetune: {milestones: 3}", "AS142", 2, 24, "write a list: `milestones: [3]`"),
        ("name: x\nfinetune: 3", "AS142", 2, 11, None),
        ("name: x\ndistill: {loss: {atn: l1}}", "AS140", 2, 18, "did you mean 'attn'?"),
        ("name: x\ndistill: {loss: l3}", "AS144", 2, 17, "it is one of l1, l2, huber"),
        ("name: x\ndistill: {cache: 2 lightyears}", "AS142", 2, 18, None),
        ("name: x\nexpect: [depht == 3]", "AS136", 2, 10, "did you mean 'depth'?"),
        ("name: x\nexpect: [3]", "AS142", 2, 10, None),
        ("name: x\neval: {metrics: [fdd]}", "AS144", 2, 18, "did you mean 'fd'?"),
    ],
)  # fmt: skip
def test_refusals(text: str, code: str, line: int, column: int, hint: str | None) -> None:
    found = refusals(text)
    assert found[0][:3] == (code, line, column)
    assert hint is None or found[0][3] == hint


def test_all_mistakes_are_reported_in_order() -> None:
    text = "nme: x\nedits:\n- {drop: 'blocks['}\n- {repeat: blocks, times: 0}\n"
    text += "finetune: {stpes: 3, lr: a}\nexpect: [a, b]\n"
    assert [code for code, *_ in refusals(text)] == [
        "AS140", "AS121", "AS143", "AS140", "AS142", "AS136", "AS136",
    ]  # fmt: skip


def test_bounds_are_told_in_full() -> None:
    found = call("{op: mlp, ratio: 1048577}")
    collector = Collector()
    assert build_signature(found, collector) is None
    (diagnostic,) = collector
    assert diagnostic.message == "'ratio' is 1048577, but must be above 0 and at most 1048576"


def call(text: str) -> OperatorCall:
    edit = spec(f"name: x\nedits: [{{replace: blocks, with: {text}}}]").edits[0]
    assert isinstance(edit, Replace)
    return edit.with_


def signature_refusal(found: OperatorCall) -> tuple[str, int, str, str]:
    collector = Collector()
    assert build_signature(found, collector) is None
    diagnostic = next(iter(collector))
    span = diagnostic.primary.span if diagnostic.primary else None
    return (diagnostic.code, span.column if span else 0, diagnostic.message, diagnostic.hints[0])


def test_operators_are_built_from_their_parameters() -> None:
    collector = Collector()
    assert build_signature(call("{op: hyena_x, kernel: 8, layout: grid}"), collector) == HyenaX(kernel=8, layout="grid")
    assert build_signature(call("hyena_x"), collector) == HyenaX()
    assert build_signature(OperatorCall(op="hyena_x", params={"kernel": 2}), collector) == HyenaX(kernel=2)
    assert not collector.has_errors


def test_wrong_operators() -> None:
    assert signature_refusal(call("hyenax")) == ("AS147", 33, "unknown operator 'hyenax'", "did you mean 'hyena_x'?")
    assert signature_refusal(call("{op: hyena_x, kernl: 4}")) == (
        "AS140", 47, "operator 'hyena_x' has no key 'kernl'", "did you mean 'kernel'?",
    )  # fmt: skip
    assert signature_refusal(call("{op: low_rank}"))[:3] == ("AS141", 33, "operator 'low_rank' needs 'rank'")


LANGUAGE = shapes.every(Spec)


@pytest.mark.parametrize("cls", [*LANGUAGE, *map(signature, OPERATORS)], ids=lambda cls: cls.__name__)
def test_what_is_advised_can_be_written(cls: type[Node]) -> None:
    for key, field in shapes.keys(cls).items():
        declared = shapes.hints(cls)[field.name]
        text = advice(key, None, declared, field.metadata).removeprefix("write `").partition("`")[0]
        entry = parse_yaml(Source("a.yaml", text)).entry(key)
        if entry and "..." not in text:
            collector = Collector()
            Builder(collector).value(entry.value, declared, field.metadata, key)
            assert not list(collector), text


@pytest.mark.parametrize("cls", LANGUAGE, ids=lambda cls: cls.__name__)
def test_messages_call_a_node_by_a_word_of_the_language(cls: type[Node]) -> None:
    keys = {key for known in LANGUAGE for key in shapes.keys(known)}
    collector = Collector()
    assert build(parse_yaml(Source("a.yaml", "zzz: 1")), cls, collector) is None
    if cls is not OperatorCall:  # whatever it has not are parameters of the operator
        said = next(d.message for d in collector if d.code == "AS140").removesuffix(" has no key 'zzz'")
        assert said.strip("'") in keys or said == cls.called


def test_a_wrong_value_is_answered_by_what_to_write() -> None:
    text = "name: x\nbase: a\npack: {tuned: b, rules: [{of: mlp, store: [{op: svd, bands: [a]}]}]}\n"
    text += "finetune: {milestones: [a], train: new, seed: -1, ema: {}}\nroute: {by: map, tasks: [{nme: a}]}\n"
    assert [(code, hint) for code, _, _, hint in refusals(text)] == [
        ("AS142", "write `bands: [[16, 8], [48, 4]]` (svd: [triplets, bits] each, in the order of singular values; "
                  "what follows is left out)"),
        ("AS142", "write `milestones: [500, 800]` (steps at which the rate is halved)"),
        ("AS143", "write `seed: 0` (seed of every draw)"),
        ("AS142", "write `ema: 0.999` (decay of the weights' moving average; null: none)"),
        ("AS140", "did you mean 'name'?"),
    ]  # fmt: skip


def test_any_class_can_be_built() -> None:
    collector = Collector()
    assert build(parse_yaml(Source("a.yaml", "drop: blocks")), Drop, collector) is not None
    assert build(parse_yaml(Source("a.yaml", "drop: 3")), Drop, collector) is None
    assert [diagnostic.code for diagnostic in collector] == ["AS142"]
