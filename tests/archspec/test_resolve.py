"""Selectors become sites, parameters and inits become explicit, and what has no meaning is refused at its span."""

from __future__ import annotations

import json
from typing import Any

import pytest

from archspec.diagnostics import ArchspecError
from archspec.families import describe
from archspec.host.structure import Structure, TensorHeader
from archspec.language.parse import parse
from archspec.semantics.resolve import ResolvedSpec, parallel_groups, resolve
from archspec.source import Source

DIT = describe({"_class_name": "DiTTransformer2DModel", "num_layers": 8})
LLAMA = describe({"architectures": ["LlamaForCausalLM"], "num_hidden_layers": 4, "num_key_value_heads": 8})


def resolved(edits: str, host: Structure = DIT, rest: str = "") -> ResolvedSpec:
    return resolve(parse(Source("s.yaml", f"name: a\nbase: ./host\n{rest}edits:\n{edits}")), host)


def refused(edits: str, host: Structure = DIT, rest: str = "") -> list[tuple[str, int, str]]:
    """Return (code, line, text at the span) of every error."""
    with pytest.raises(ArchspecError) as caught:
        resolved(edits, host, rest)
    found = [(d.code, d.primary.span) for d in caught.value.diagnostics if d.primary]
    assert len(found) == len(caught.value.diagnostics), "every error has a place"
    return [(code, span.line, span.text) for code, span in found]


def test_sites_and_complete_configs() -> None:
    (edit,) = resolved("- {replace: 'blocks[1::2].mlp', with: {op: mlp, ratio: 3}}\n").edits
    assert [s.path for s in edit.sites] == [f"transformer_blocks.{i}.ff" for i in (1, 3, 5, 7)]
    assert len(edit.configs) == 4
    assert edit.configs[0].settings() == {
        "ratio": 3.0, "hidden": 3456, "activation": "gelu_pytorch_tanh", "gated": False, "bias": True, "out_bias": True,
    }  # fmt: skip


def test_lets_are_resolved() -> None:
    (edit,) = resolved("- replace: odd.attn\n  with: hyena_x\n", rest="let: {odd: 'blocks[1::2]'}\n").edits
    assert [s.index for s in edit.sites] == [1, 3, 5, 7]


def test_open_inits_become_the_best_that_needs_no_data() -> None:
    edits = resolved(
        "- {replace: 'blocks[0].attn', with: attention}\n"
        "- {replace: 'blocks[1].attn', with: {op: attention, heads: 8}}\n"
        "- {replace: 'blocks[2].attn', with: attention, init: {kind: least_squares, ridge: 0.5}}\n"
        "- {replace: 'blocks[3].attn', with: identity}\n"
        "- {parallelize: 'blocks[4:6]'}\n"
        "- {parallelize: 'blocks[6:8]', merge: average}\n"
    ).edits
    assert [e.init and e.init.kind for e in edits] == [
        "inherit",
        "random",
        "least_squares",
        "identity",
        "identity",
        None,
    ]
    assert edits[2].init is not None
    assert edits[2].init.ridge == 0.5


def test_a_named_artifact_is_what_the_new_part_starts_from() -> None:
    edits = resolved(
        "- {replace: 'blocks[0].attn', with: attention, init: {from: ./a.safetensors}}\n"
        "- {parallelize: 'blocks[2:4]', init: {from: ./b.safetensors}}\n"
    ).edits
    assert [e.init and e.init.kind for e in edits] == ["artifact", "artifact"]


def test_no_inheritance_without_the_teachers_weights() -> None:
    edits = resolved(
        "- {replace: 'blocks[0].mlp', with: {op: low_rank, rank: 4}}\n"
        "- {replace: 'blocks[0].norm', with: {op: low_rank, rank: 4}}\n"
    ).edits
    assert [e.init and e.init.kind for e in edits] == ["inherit", "random"]


def test_every_error_of_every_edit_at_its_place() -> None:
    found = refused(
        "- {replace: 'blocks[9].attn', with: hyena_x}\n"
        "- {replace: 'blocks[0].attn', with: hyena_z}\n"
        "- {repeat: 'blocks[0].attn'}\n"
        "- {parallelize: 'blocks[1,3]'}\n",
        rest="let: {none: 'stacks[*]'}\n",
    )
    assert [(code, line) for code, line, _ in found] == [
        ("AS170", 3), ("AS174", 5), ("AS147", 6), ("AS230", 7), ("AS232", 8),
    ]  # fmt: skip


@pytest.mark.parametrize("verb", ["drop", "parallelize", "repeat"])
def test_block_edits_name_blocks(verb: str) -> None:
    assert refused(f"- {{{verb}: 'blocks[0:2].mlp'}}\n") == [("AS230", 4, "'blocks[0:2].mlp'")]


@pytest.mark.parametrize(
    ("selector", "by", "code"),
    [
        ("blocks[0:5]", 2, "AS231"),
        ("blocks[0:8]", 3, "AS231"),
        ("blocks[0]", 2, "AS231"),
        ("blocks[0, 2]", 2, "AS232"),
        ("blocks[0:3] | blocks[4:5]", 2, "AS232"),
        ("blocks[0::2]", 4, "AS232"),
    ],
)
def test_groups_that_do_not_come_out(selector: str, by: int, code: str) -> None:
    assert refused(f"- {{parallelize: '{selector}', by: {by}}}\n") == [(code, 4, f"'{selector}'")]


def groups(edits: str) -> list[list[int | None]]:
    found = resolved(edits)
    edit = next(e for e in found.edits if e.edit.verb == "parallelize")
    return [[site.index for site in group] for group in parallel_groups(edit, found.dropped)]


def test_groups() -> None:
    assert groups("- {parallelize: 'blocks[*]'}\n") == [[0, 1], [2, 3], [4, 5], [6, 7]]
    assert groups("- {parallelize: 'blocks[0:3] | blocks[5:8]', by: 3}\n") == [[0, 1, 2], [5, 6, 7]]


def test_dropped_blocks_are_no_members_and_no_gap() -> None:
    assert groups("- {drop: 'blocks[2]'}\n- {parallelize: 'blocks[0:5]'}\n") == [[0, 1], [3, 4]]
    assert groups("- {parallelize: 'blocks[0:5]'}\n- {drop: 'blocks[2]'}\n") == [[0, 1], [3, 4]]
    assert groups("- {drop: 'blocks[1]'}\n- {parallelize: 'blocks[0, 2]'}\n") == [[0, 2]]


def test_something_must_remain() -> None:
    assert refused("- {drop: 'blocks[*]'}\n") == [("AS233", 4, "'blocks[*]'")]
    assert refused("- {drop: 'blocks[0:4]'}\n- {drop: 'blocks[4:]'}\n") == [("AS233", 4, "'blocks[0:4]'")]


def test_groups_of_two_lists_do_not_mix() -> None:
    names = {f"{path}.{i}.{m}.w" for path, n in (("long", 3), ("short", 2)) for i in range(n) for m in ("a", "b")}
    host = describe({"_class_name": "X"}, {n: TensorHeader("F32", (2, 2), "f", 0, 0) for n in sorted(names)})
    assert host.groups == {"blocks": "long", "short": "short"}
    found = resolved("- {parallelize: 'blocks[0:2] | short[*]', merge: sum}\n", host)
    assert [[s.path for s in g] for g in parallel_groups(found.edits[0], frozenset())] == [
        ["long.0", "long.1"],
        ["short.0", "short.1"],
    ]
    assert [code for code, _, _ in refused("- {parallelize: 'blocks[0] | short[0]', merge: sum}\n", host)] == ["AS231"]


def test_unknown_sizes_leave_the_config_as_written() -> None:
    names = {f"h.{i}.{m}.weight" for i in range(2) for m in ("attn", "mlp")}
    host = describe({"_class_name": "X"}, {n: TensorHeader("F32", (2, 2), "f", 0, 0) for n in sorted(names)})
    (edit,) = resolved("- {replace: '\"h.*.mlp\"', with: {op: mlp, ratio: 2}}\n", host).edits
    assert [c.settings()["hidden"] for c in edit.configs] == [None, None]


FULL = """\
- {replace: 'blocks[0:2].attn', with: {op: local_attention, window: 3}, init: random}
- {parallelize: 'blocks[2:4]', merge: linear}
- {drop: 'blocks[4]'}
- {repeat: 'blocks[5]', times: 3, tie: true}
- {share: 'blocks[6:8].mlp'}
- {freeze: 'blocks[0]'}
"""


def test_explicit_form() -> None:
    rest = "data: digits\ndistill: {loss: {mlp: huber}}\nfinetune: {steps: 7}\nexpect: ['depth == 8']\n"
    data = resolved(FULL, rest=rest).to_json()
    assert json.loads(json.dumps(data)) == data
    edits: list[dict[str, Any]] = data["edits"]
    assert [next(iter(e)) for e in edits] == ["replace", "parallelize", "drop", "repeat", "share", "freeze"]
    assert edits[0]["sites"] == ["transformer_blocks.0.attn1", "transformer_blocks.1.attn1"]
    assert edits[0]["with"]["op"] == "local_attention"
    assert None not in (edits[0]["with"]["config"][key] for key in ("heads", "head_dim", "bias"))
    assert edits[0]["init"]["kind"] == "random"
    assert (edits[1]["by"], edits[1]["merge"], edits[1]["init"]["kind"]) == (2, "linear", "identity")
    assert (edits[3]["times"], edits[3]["tie"]) == (3, True)
    assert data["distill"]["loss"] == {"attn": "l1", "cross_attn": "l1", "block": "l1", "mlp": "huber", "norm": "l2"}
    assert data["finetune"]["data"] == data["data"]
    assert data["finetune"]["data"]["from"] == "digits"
    assert data["eval"] is None
    assert data["expect"] == ["depth == 8"]
    assert "origin" not in json.dumps(data)


def test_configs_that_differ_by_site_are_listed_by_site() -> None:
    same = resolved("- {replace: 'blocks[0:2].mlp', with: mlp}\n", LLAMA).to_json()["edits"][0]["with"]
    assert (same.keys(), same["config"]["hidden"]) == ({"op", "version", "config"}, 11008)
    other = resolved("- {replace: 'blocks[0].attn | blocks[0].mlp', with: mlp}\n", LLAMA).to_json()["edits"][0]["with"]
    assert {path: config["hidden"] for path, config in other["configs"].items()} == {
        "model.layers.0.self_attn": 4 * 4096,
        "model.layers.0.mlp": 11008,
    }
