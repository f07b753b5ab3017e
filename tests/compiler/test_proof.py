"""The proof: every verb on every host passes; each kind of wrong lowering is caught and named."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from torch import nn

from archspec.compiler.capture import capture
from archspec.compiler.capture.model import build_structure, edited_paths
from archspec.compiler.proof import prove as proof
from archspec.compiler.proof.prove import lowered_model, prove, prove_form
from archspec.compiler.proof.reduce import reduced
from archspec.compiler.rewrite.graph_text import render
from archspec.compiler.rewrite.ledger import ledger
from archspec.compiler.rewrite.pipeline import run
from archspec.diagnostics import ArchspecError, InternalError
from archspec.families import describe
from archspec.instructions import Entry, Install, Relist
from archspec.language.parse import parse
from archspec.runtime.families import family
from archspec.runtime.model.structures import Parallel
from archspec.semantics.layout import tensor_sources
from archspec.semantics.lower import lower
from archspec.semantics.resolve import resolve
from archspec.source import Source

Compiler = Callable[..., Any]
EDITS = {
    "self-graft": ("{replace: 'blocks[1::2].attn', with: {op: attention}}",),
    "mixer": ("{replace: 'blocks[1::2].attn', with: {op: hyena_x}}",),
    "two convolutions": ("{replace: 'blocks[1::2].attn', with: {op: hyena_se}}",),
    "inner convolution": ("{replace: 'blocks[1::2].attn', with: {op: hyena_y, filters: random}}",),
    "mlp": ("{replace: blocks.mlp, with: {op: mlp, ratio: 3}}",),
    "gated mlp": ("{replace: blocks.mlp, with: {op: hyena_mlp, channels: shared}}",),
    "drop": ("drop: 'blocks[2]'",),
    "repeat": ("{repeat: 'blocks[2]', times: 3}",),
    "tie": ("{repeat: 'blocks[2]', times: 3, tie: true}",),
    "pairs": ("{parallelize: blocks, by: 2}",),
    "four, linear": ("{parallelize: blocks, by: 4, merge: linear}",),
    "sum": ("{parallelize: 'blocks[1:3]', by: 2, merge: sum}",),
    "average": ("{parallelize: blocks, by: 2, merge: average}",),
    "shared mlp": ("share: blocks[1:3].mlp",),
    "shared attention": ("share: blocks[1:3].attn", "{replace: 'blocks[1:3].attn', with: attention}"),
    "shared blocks": ("share: blocks[1:3]",),
    "inserted": ("{insert: 'blocks[0] | blocks[2]', with: {op: local_attention, window: 2}, init: random}",),
    "skips, linear": ("{skip: 'blocks[0:2]', to: 'blocks[2:4]', merge: linear}",),
    "skips": ("{skip: 'blocks[0]', to: 'blocks[2]'}", "{insert: 'blocks[1]', with: {op: mlp, ratio: 1}}"),
    "skip, sum": ("{skip: 'blocks[0]', to: 'blocks[3]', merge: sum}", "{insert: 'blocks[0]', with: attention}"),
    "two streams": (
        "{replace: 'blocks[0].attn', with: hyena_x}",
        "{replace: 'blocks.mlp', with: {op: mlp, ratio: 2}}",
        "{replace: 'blocks[0:3].context_mlp', with: {op: mlp, ratio: 2}}",
    ),
    "single blocks": (
        "{replace: 'single_blocks[0].attn', with: {op: hyena_x, layout: raster}}",
        "{parallelize: 'single_blocks[2:4]', by: 2, merge: linear}",
        "{repeat: 'single_blocks[1]', times: 2}",
        "{insert: 'single_blocks[0]', with: {op: mlp, ratio: 1}}",
        "drop: 'blocks[2]'",
        "{parallelize: 'blocks[0:2]', by: 2}",
    ),
    "single mlps": (
        "{replace: 'single_blocks[0].mlp', with: {op: mlp, ratio: 3, out_bias: true}}",
        "{replace: 'single_blocks[1].mlp | single_blocks[1].attn', with: {op: low_rank, rank: 4}, init: random}",
        "{replace: 'single_blocks[2].mlp', with: zero}",
        "{repeat: 'single_blocks[0]', times: 2}",
        "{parallelize: 'single_blocks[2:4]', by: 2}",
    ),
    "shared joint attention": ("share: blocks[2:3].joint_attn | blocks[0].joint_attn", "share: 'blocks[0:2].attn'"),
    "single skip": ("{skip: 'single_blocks[0]', to: 'single_blocks[3]'}", "{share: 'single_blocks[1:3]'}"),
    "ends": (
        "{insert: 'blocks[3]', with: {op: local_attention, window: 1}}",
        "{replace: 'blocks[1]', with: identity}",
        "{skip: 'blocks[0]', to: 'blocks[3]'}",
    ),
    "no end": ("drop: 'blocks[3]'", "{repeat: 'blocks[2]', times: 2}", "{parallelize: 'blocks[0:2]', by: 2}"),
    "many": (
        "{replace: 'blocks[2].attn', with: {op: hyena_x}}",
        "{repeat: 'blocks[2]', times: 2}",
        "drop: 'blocks[3]'",
        "{parallelize: 'blocks[0:2]', by: 2}",
    ),
}


TWO = ("two streams", "shared joint attention", "single blocks", "single mlps", "single skip", "ends", "no end")
"""Cases for hosts of two streams."""
CASES = [
    *(("tiny_dit", case) for case in EDITS if case not in TWO),
    *(("tiny_llama", case) for case in EDITS if case not in TWO),
    *(("tiny_qwen3", case) for case in ("self-graft", "mixer", "many")),
    *(("tiny_gpt2", case) for case in EDITS if case not in TWO),
    *(("tiny_bert", case) for case in EDITS if case not in TWO),
    *(("tiny_vit", case) for case in ("mixer", "mlp", "shared blocks", "inserted", "skips", "many")),
    *(("tiny_sana", case) for case in ("mixer", "drop", "tie", "pairs", "shared blocks", "inserted", "skips")),
    *(
        ("tiny_sd3", case)
        for case in ("mlp", "drop", "repeat", "tie", "pairs", "four, linear", "sum", "average", "shared mlp")
    ),
    *(("tiny_sd3", case) for case in ("inserted", "skips, linear", "skips", "skip, sum")),
    *(("tiny_sd3", case) for case in ("two streams", "shared joint attention", "ends", "no end")),
    *(
        ("tiny_flux", case)
        for case in ("single blocks", "single mlps", "single skip", "drop", "tie", "shared mlp", "shared blocks")
    ),
    *(("tiny_pixart", case) for case in ("mixer", "shared blocks", "inserted", "skips", "many")),
]


@pytest.mark.parametrize(("host", "case"), CASES)
def test_every_verb_on_every_host(host: str, case: str, compiler: Compiler, request: pytest.FixtureRequest) -> None:
    done = compiler(request.getfixturevalue(host), *EDITS[case])
    found = prove(done.resolved, done.program, done.before, done.after)
    assert found.numbers.size == "real size"
    assert found.numbers.difference is not None
    assert found.numbers.difference <= 1e-6
    assert found.nodes > 40


@pytest.mark.parametrize(
    "edit",
    [
        "{replace: '\"layers.*.attention\"', with: {op: hyena_x}}",
        "{parallelize: blocks, by: 2}",
        "drop: 'blocks[1]'",
    ],
)
def test_unknown_hosts(edit: str, tiny_plain: Path, compiler: Compiler) -> None:
    done = compiler(tiny_plain, edit)
    assert prove(done.resolved, done.program, done.before, done.after).numbers.difference == 0.0


def test_joint_attention_of_an_unknown_host(compiler: Compiler, tmp_path: Path) -> None:
    """Two outputs are read: an operator, or the identity, would leave nothing in the place of one."""
    from diffusers import AuraFlowTransformer2DModel

    AuraFlowTransformer2DModel(
        sample_size=8, num_mmdit_layers=2, num_single_dit_layers=2, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=24, caption_projection_dim=32, pos_embed_max_size=16,
    ).save_pretrained(tmp_path / "aura")  # fmt: skip
    for operator in ("identity", "{op: mlp, hidden: 32, activation: gelu}"):
        with pytest.raises(ArchspecError, match="more of it than one output") as error:
            compiler(tmp_path / "aura", f"{{replace: '\"joint_transformer_blocks.0.attn\"', with: {operator}}}")
        assert _code(error) == "AS620"
    done = compiler(tmp_path / "aura", "{replace: '\"joint_transformer_blocks.*.ff\"', with: zero}")
    assert prove(done.resolved, done.program, done.before, done.after).numbers.difference == 0.0


UNEDITED = ("dit", "pixart", "sd3", "flux", "llama", "gpt2", "bert", "vit", "plain")


@pytest.mark.parametrize("host", [f"tiny_{name}" for name in UNEDITED])
def test_an_edit_of_nothing_reproduces_the_host(host: str, compiler: Compiler, request: pytest.FixtureRequest) -> None:
    done = compiler(request.getfixturevalue(host), "freeze: '\"*.1\"'" if host == "tiny_plain" else "freeze: blocks[0]")
    assert done.program == ()
    assert prove(done.resolved, done.program, done.before, done.after).numbers.difference == 0.0


def _code(error: pytest.ExceptionInfo[ArchspecError]) -> str:
    return error.value.diagnostics[0].code


def _attempt(done: Any, program: Any) -> None:
    prove_form(done.resolved, program, done.after, lowered_model(done.resolved, program))


def test_a_missing_edit_is_named(tiny_dit: Path, compiler: Compiler) -> None:
    done = compiler(tiny_dit, EDITS["mixer"][0])
    with pytest.raises(ArchspecError, match=r"no counterpart of node 'transformer_blocks_3_attn1' in transf") as error:
        _attempt(done, done.program[:1])
    assert _code(error) == "AS510"
    label = error.value.diagnostics[0].primary
    assert label is not None
    assert (label.span.line, label.span.column) == (5, 5)


def test_an_edit_too_many_is_caught(tiny_dit: Path, compiler: Compiler) -> None:
    done = compiler(tiny_dit, "freeze: blocks[1].attn")
    other = compiler(tiny_dit, "{replace: 'blocks[1].attn', with: {op: hyena_x}}")
    with pytest.raises(ArchspecError, match="transformer_blocks_1_attn1") as error:
        _attempt(done, other.program)
    assert _code(error) == "AS510"


def test_another_config_is_caught(tiny_dit: Path, compiler: Compiler) -> None:
    done = compiler(tiny_dit, "{replace: 'blocks[1].mlp', with: {op: mlp, ratio: 3}}")
    (install,) = done.program
    assert isinstance(install, Install)
    wrong = replace(install, config={**install.config, "activation": "relu"})
    with pytest.raises(ArchspecError, match=r"'transformer_blocks_1_ff' in transformer_blocks\.1") as error:
        _attempt(done, (wrong,))
    assert _code(error) == "AS510"


def test_a_wrong_width_is_caught(tiny_dit: Path, compiler: Compiler) -> None:
    done = compiler(tiny_dit, "{replace: 'blocks[1].mlp', with: {op: mlp, ratio: 3}}")
    (install,) = done.program
    wrong = replace(install, shape=replace(install.shape, width=48))
    with pytest.raises(ArchspecError, match="the edited model does not run") as error:
        _attempt(done, (wrong,))
    assert _code(error) == "AS513"


def _relist(program: Any, **changes: Any) -> Any:
    (relist,) = program
    assert isinstance(relist, Relist)
    return (replace(relist, **changes),)


def test_swapped_branches_are_caught(tiny_dit: Path, compiler: Compiler) -> None:
    done = compiler(tiny_dit, EDITS["pairs"][0])
    first, second = done.program[0].entries
    swapped = (first, replace(second, members=second.members[::-1]))
    with pytest.raises(ArchspecError, match="in the root graph") as error:
        _attempt(done, _relist(done.program, entries=swapped))
    assert _code(error) == "AS510"


def test_a_wrong_merge_is_caught(tiny_dit: Path, compiler: Compiler) -> None:
    done = compiler(tiny_dit, EDITS["pairs"][0])
    first, second = done.program[0].entries
    for merge in ("linear", "sum", "average"):
        with pytest.raises(ArchspecError) as error:
            _attempt(done, _relist(done.program, entries=(first, replace(second, merge=merge))))
        assert _code(error) == "AS510"


def test_a_copy_in_place_of_a_tie_is_caught(tiny_llama: Path, compiler: Compiler) -> None:
    done = compiler(tiny_llama, EDITS["tie"][0])
    entries = tuple(Entry("copy", e.members) if e.form == "tie" else e for e in done.program[0].entries)
    with pytest.raises(ArchspecError, match="is one module in the graph and two in the edited model") as error:
        _attempt(done, _relist(done.program, entries=entries))
    assert _code(error) == "AS510"
    back = compiler(tiny_llama, EDITS["repeat"][0])
    entries = tuple(Entry("tie", e.members) if e.form == "copy" else e for e in back.program[0].entries)
    with pytest.raises(ArchspecError, match="stands for two modules") as error:
        _attempt(back, _relist(back.program, entries=entries))


def test_blocks_in_another_order_are_caught(tiny_llama: Path, compiler: Compiler) -> None:
    done = compiler(tiny_llama, "drop: 'blocks[2]'")
    entries = done.program[0].entries
    with pytest.raises(ArchspecError) as error:
        _attempt(done, _relist(done.program, entries=(entries[1], entries[0], *entries[2:])))
    assert _code(error) == "AS510"


def test_a_container_that_does_not_answer_for_block_0(
    tiny_dit: Path, compiler: Compiler, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DiT reads `transformer_blocks[0].norm1.emb` outside its loop."""
    done = compiler(tiny_dit, EDITS["pairs"][0])
    monkeypatch.setattr(Parallel, "__getattr__", nn.Module.__getattr__)
    with pytest.raises(ArchspecError, match="norm1") as error:
        _attempt(done, done.program)
    assert _code(error) == "AS513"


def test_a_container_that_answers_with_another_block(
    tiny_dit: Path, compiler: Compiler, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = compiler(tiny_dit, EDITS["pairs"][0])
    monkeypatch.setattr(Parallel, "_block", lambda self: self.branches[1])
    with pytest.raises(ArchspecError, match=r"norm1_emb") as error:
        _attempt(done, done.program)
    assert _code(error) == "AS510"


def test_wrong_routing_of_weights_is_caught(
    tiny_dit: Path, compiler: Compiler, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The table by which checkpoints are written gives block 1 the weights of block 0."""
    done = compiler(tiny_dit, EDITS["pairs"][0])
    right = tensor_sources

    def wrong(*args: Any) -> Any:
        found = right(*args)
        key = "transformer_blocks.0.branches.1.attn1.to_q.weight"
        return {**found, key: replace(found[key], base="transformer_blocks.0.attn1.to_q.weight")}

    monkeypatch.setattr(proof, "tensor_sources", wrong)
    with pytest.raises(ArchspecError) as error:
        _attempt(done, done.program)
    assert _code(error) == "AS510"


def test_a_tensor_missing_in_the_layout(tiny_dit: Path, compiler: Compiler, monkeypatch: pytest.MonkeyPatch) -> None:
    done = compiler(tiny_dit, EDITS["pairs"][0])
    right = tensor_sources
    monkeypatch.setattr(proof, "tensor_sources", lambda *a: {k: v for k, v in right(*a).items() if "0.merge" not in k})
    with pytest.raises(ArchspecError, match=r"'transformer_blocks.0.merge.bias' is in the edited model") as error:
        _attempt(done, done.program)
    assert _code(error) == "AS512"


def test_a_lowered_model_that_computes_something_else(
    tiny_dit: Path, compiler: Compiler, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Form is right, weights are not: the numbers say so."""
    done = compiler(tiny_dit, "drop: 'blocks[2]'")
    monkeypatch.setattr(proof, "_give_weights", lambda *a: None)
    with pytest.raises(ArchspecError, match="differ by") as error:
        prove(done.resolved, done.program, done.before, done.after)
    assert _code(error) == "AS511"


def test_the_ledger_is_held_against_the_model(
    tiny_dit: Path, compiler: Compiler, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = compiler(tiny_dit, "drop: 'blocks[2]'")
    right = ledger
    monkeypatch.setattr(proof, "ledger", lambda *a: replace(right(*a), new=1))
    with pytest.raises(InternalError, match="the edited model 88816"):
        prove(done.resolved, done.program, done.before, done.after)


BIG: dict[str, dict[str, Any]] = {
    "dit": {"_class_name": "DiTTransformer2DModel", "num_layers": 28, "out_channels": 8},
    "pixart": {"_class_name": "PixArtTransformer2DModel", "num_layers": 6, "caption_channels": 4096},
    "llama": {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "num_key_value_heads": 8},
    "gpt2": {"architectures": ["GPT2LMHeadModel"], "model_type": "gpt2"},
}


@pytest.mark.parametrize("name", BIG)
def test_real_sizes_are_proved_in_form_and_reduced_in_numbers(name: str) -> None:
    text = """
archspec: 1
name: big
base: nobody/nothing
edits:
  - {replace: 'blocks[1::2].mlp', with: {op: mlp, ratio: 3}}
  - {parallelize: 'blocks[2:4]', by: 2}
"""
    structure = describe(BIG[name])
    resolved = resolve(parse(Source("spec.yaml", text)), structure)
    model = build_structure(structure)
    example = family(structure.family).example(model, device="meta")
    before = capture(model, example, edited_paths(resolved))
    found = prove(resolved, lower(resolved), before, run(before, resolved))
    assert found.numbers.size.startswith("reduced to width ")
    assert found.numbers.difference is not None
    assert found.numbers.difference <= 1e-6
    assert found.parameters.dropped > 0
    small = reduced(resolved)
    assert small is not None
    assert [e.sites[0].name for e in small.edits] == [e.sites[0].name for e in resolved.edits]
    assert small.structure.depth() == structure.depth()


def test_a_rewritten_graph_that_lacks_an_edit(tiny_dit: Path, compiler: Compiler) -> None:
    """The other side of the proof: passes that did nothing are caught as well."""
    done = compiler(tiny_dit, EDITS["mixer"][0])
    assert render(done.before) != render(done.after)
    with pytest.raises(ArchspecError, match="no counterpart") as error:
        prove_form(done.resolved, done.program, done.before, lowered_model(done.resolved, done.program))
    assert _code(error) == "AS510"
