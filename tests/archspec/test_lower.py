"""Edits become instructions: the same spec the same program, in the order of the base, whatever the order of edits."""

from __future__ import annotations

import json

import pytest

from archspec.families import describe
from archspec.host.structure import Structure, TensorHeader
from archspec.instructions import Entry, Install, Instruction, Relist, Share, from_json, to_json
from archspec.language.parse import parse
from archspec.semantics.lower import lower
from archspec.semantics.resolve import resolve
from archspec.source import Source

DIT = describe({"_class_name": "DiTTransformer2DModel", "num_layers": 6})
LLAMA = describe({"architectures": ["LlamaForCausalLM"], "num_hidden_layers": 4, "num_key_value_heads": 8})
BLOCKS = "transformer_blocks"


def program(*edits: str, host: Structure = DIT) -> tuple[Instruction, ...]:
    text = "name: a\nbase: ./host\nedits:\n" + "".join(f"- {{{edit}}}\n" for edit in edits)
    return lower(resolve(parse(Source("s.yaml", text)), host))


def keep(*indices: int) -> list[Entry]:
    return [Entry("keep", (i,)) for i in indices]


def entries(*edits: str) -> list[Entry]:
    (relist,) = program(*edits)
    assert isinstance(relist, Relist)
    assert (relist.path, relist.length, relist.width, relist.returns) == (BLOCKS, 6, 1152, 0)
    return list(relist.entries)


def test_nothing_to_do() -> None:
    assert program("freeze: 'blocks[0]'") == ()


def test_install_carries_all_that_the_runtime_needs() -> None:
    (install,) = program("replace: 'blocks[2].attn', with: {op: attention, heads: 8}", host=LLAMA)
    site = LLAMA.site("model.layers.2.self_attn")
    assert isinstance(install, Install)
    assert site is not None
    assert (install.path, install.slot, install.operator, install.layer) == (site.path, "attn", "attention", 2)
    assert (install.shape, install.port) == (site.shape, site.port)
    assert (install.config["heads"], install.config["causal"], install.config["rotary"]) == (8, True, True)


def test_only_sites_with_a_cache_have_a_layer() -> None:
    installs = program("replace: 'blocks[*].mlp', with: mlp", host=LLAMA)
    assert [i.layer for i in installs if isinstance(i, Install)] == [None] * 4


def test_order_is_installs_shares_lists_each_by_the_base() -> None:
    found = program(
        "drop: 'blocks[5]'",
        "share: 'blocks[3:5].mlp'",
        "replace: 'blocks[2].attn', with: hyena_x",
        "share: 'blocks[0:2].mlp'",
        "replace: 'blocks[1].attn', with: identity",
    )
    assert [type(i).__name__ for i in found] == ["Install", "Install", "Share", "Share", "Relist"]
    assert [i.path for i in found] == [
        f"{BLOCKS}.1.attn1", f"{BLOCKS}.2.attn1", f"{BLOCKS}.1.ff", f"{BLOCKS}.4.ff", BLOCKS,
    ]  # fmt: skip


def test_program_does_not_depend_on_the_order_of_compatible_edits() -> None:
    edits = ["drop: 'blocks[0]'", "repeat: 'blocks[5]'", "parallelize: 'blocks[1:5]'", "share: 'blocks[1:3].mlp'"]
    assert program(*edits) == program(*reversed(edits))


def test_json_round_trip() -> None:
    found = program(
        "replace: 'blocks[1].attn', with: hyena_x", "parallelize: 'blocks[2:4]'", "share: 'blocks[4:6].mlp'"
    )
    assert from_json(to_json(found)) == found


def test_streams_of_blocks_are_told_and_only_where_there_are_any() -> None:
    host = describe({"_class_name": "SD3Transformer2DModel", "num_layers": 4})
    found = program("replace: 'blocks[1]', with: identity", "parallelize: 'blocks[2:4]'", host=host)
    install, relist = found
    assert isinstance(install, Install)
    assert isinstance(relist, Relist)
    assert install.port.streams == relist.streams == (("hidden_states", 1), ("encoder_hidden_states", 0))
    assert (install.port.returns, relist.returns) == (2, 2)
    assert [entry.beside for entry in relist.entries] == [(), (), ()], "the last block ends the context"
    (whole,) = program("parallelize: 'blocks[0:2]'", host=host)
    assert isinstance(whole, Relist)
    assert whole.entries[0].beside == ("encoder_hidden_states",)
    assert whole.entries[0].maps == ("merge", "merge_encoder_hidden_states")
    assert from_json(json.loads(json.dumps(to_json((whole,))))) == (whole,)
    plain = json.loads(json.dumps(to_json(found)))
    assert plain[0]["port"]["streams"] == [["hidden_states", 1], ["encoder_hidden_states", 0]]
    assert from_json(plain) == found
    assert "streams" not in json.dumps(to_json(program("insert: 'blocks[1]', with: hyena_x", "drop: 'blocks[0]'")))


def test_what_is_inserted_behind_two_streams_takes_the_place_of_their_attention() -> None:
    host = describe({"_class_name": "SD3Transformer2DModel", "num_layers": 4})
    (relist,) = program("insert: 'blocks[1]', with: attention", host=host)
    assert isinstance(relist, Relist)
    operator = relist.entries[2].operator
    assert operator is not None
    assert (operator.slot, operator.shape.heads, operator.shape.tokens) == ("attn", 18, 4096)
    assert (operator.port.input, operator.port.returns, operator.port.streams) == ("hidden_states", 0, ())


def test_drop() -> None:
    assert entries("drop: 'blocks[1::2]'") == keep(0, 2, 4)


def test_repeat() -> None:
    copies = entries("repeat: 'blocks[1]', times: 3")
    assert copies == [*keep(0, 1), Entry("copy", (1,)), Entry("copy", (1,)), *keep(2, 3, 4, 5)]
    ties = entries("repeat: 'blocks[0, 5]', tie: true")
    assert ties == [*keep(0), Entry("tie", (0,)), *keep(1, 2, 3, 4, 5), Entry("tie", (5,))]


def test_parallelize() -> None:
    found = entries("parallelize: 'blocks[2:]', merge: linear")
    assert found == [*keep(0, 1), Entry("parallel", (2, 3), "linear"), Entry("parallel", (4, 5), "linear")]
    assert entries("parallelize: 'blocks[*]', by: 3, merge: sum") == [
        Entry("parallel", (0, 1, 2), "sum"),
        Entry("parallel", (3, 4, 5), "sum"),
    ]


def test_parallelize_across_a_dropped_block() -> None:
    found = entries("parallelize: 'blocks[0:3]', by: 2", "drop: 'blocks[1]'")
    assert found == [Entry("parallel", (0, 2), "residual_linear"), *keep(3, 4, 5)]


def test_all_three_structural_edits() -> None:
    found = entries("drop: 'blocks[0]'", "repeat: 'blocks[5]'", "parallelize: 'blocks[1:5]', merge: average")
    assert found == [
        Entry("parallel", (1, 2), "average"),
        Entry("parallel", (3, 4), "average"),
        *keep(5),
        Entry("copy", (5,)),
    ]


def test_the_last_replacement_of_a_site_wins() -> None:
    (install,) = program("replace: 'blocks[0].attn', with: hyena_x", "replace: 'blocks[0].attn', with: identity")
    assert isinstance(install, Install)
    assert install.operator == "identity"


@pytest.mark.parametrize(
    ("edits", "paths"),
    [
        (["replace: 'blocks[0:2].attn', with: identity", "drop: 'blocks[0]'"], [f"{BLOCKS}.1.attn1", BLOCKS]),
        (["share: 'blocks[0:3].mlp'", "drop: 'blocks[2]'"], [f"{BLOCKS}.1.ff", BLOCKS]),
        (["replace: 'blocks[0:2].mlp', with: mlp", "share: 'blocks[0:2].mlp'"], [f"{BLOCKS}.0.ff", f"{BLOCKS}.1.ff"]),
        (["replace: 'blocks[1].mlp', with: mlp", "share: 'blocks[0:2]'"], [f"{BLOCKS}.1"]),
        (["replace: 'blocks[0]', with: identity", "replace: 'blocks[0].mlp', with: mlp"], [f"{BLOCKS}.0"]),
    ],
)
def test_what_would_vanish_is_left_out(edits: list[str], paths: list[str]) -> None:
    assert [i.path for i in program(*edits)] == paths


def test_shares_point_at_an_owner_that_shares_nothing() -> None:
    edits = ["share: 'blocks[2:4].mlp'", "share: 'blocks[0, 2].mlp'"]
    for order in (edits, edits[::-1]):
        shares = program(*order)
        assert shares == tuple(Share(f"{BLOCKS}.{i}.ff", f"{BLOCKS}.0.ff") for i in (2, 3))


def test_lists_of_an_unknown_host() -> None:
    names = {f"{path}.{i}.{m}.w" for path, n in (("long", 3), ("short", 2)) for i in range(n) for m in ("a", "b")}
    host = describe({"_class_name": "X"}, {n: TensorHeader("F32", (2, 2), "f", 0, 0) for n in sorted(names)})
    found = program("drop: 'blocks[0]'", "repeat: 'short[1]'", host=host)
    assert found == (
        Relist("long", 3, 0, tuple(keep(1, 2))),
        Relist("short", 2, 0, (*keep(0, 1), Entry("copy", (1,)))),
    )
