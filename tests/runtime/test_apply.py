"""Programs on module trees: on real and meta modules, numbers of layers, refusals."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from archspec.host.locate import locate, structure_of
from archspec.host.structure import Structure
from archspec.instructions import Entry, Install, Instruction, Relist, Share
from archspec.language.spec import Base
from archspec.runtime.model.apply import apply
from archspec.runtime.model.structures import Parallel, Tied
from archspec.semantics.layout import tensor_sources


def structure(folder: Path) -> Structure:
    return structure_of(locate(Base(from_=str(folder)), Path()))


def llama(folder: Path) -> Any:
    from transformers import LlamaForCausalLM

    return LlamaForCausalLM.from_pretrained(folder).eval()


def dit(folder: Path) -> Any:
    from diffusers import DiTTransformer2DModel

    return DiTTransformer2DModel.from_pretrained(folder).eval()


def install(host: Structure, path: str, operator: str = "low_rank", **config: Any) -> Install:
    from archspec.operators import signature

    site = host.site(path)
    assert site is not None
    kind = signature(operator)
    completed = kind(**config).complete(site.shape)
    return Install(
        path,
        site.slot,
        operator,
        kind.version,
        completed.settings(),
        site.shape,
        site.port,
        site.index if site.port.cache else None,
    )


def relist(path: str, *entries: Entry, length: int = 4, width: int = 32) -> Relist:
    return Relist(path, length, width, entries)


KEEP = [Entry("keep", (i,)) for i in range(4)]
MIXED = (
    Entry("parallel", (0, 1), "linear"),
    Entry("keep", (2,)),
    Entry("tie", (2,)),
    Entry("copy", (2,)),
    Entry("keep", (3,)),
)


def programs(host: Structure, layers: str, attn: str, mlp: str) -> list[tuple[Instruction, ...]]:
    one = install(host, f"{layers}.1.{attn}", "linear_attention")
    return [
        (),
        (one,),
        (Share(f"{layers}.3.{mlp}", f"{layers}.0.{mlp}"),),
        (relist(layers, KEEP[3], KEEP[1]),),
        (one, Share(f"{layers}.3.{mlp}", f"{layers}.0.{mlp}"), relist(layers, *MIXED)),
        (Share(f"{layers}.2", f"{layers}.1"), relist(layers, *KEEP, Entry("tie", (2,)))),
    ]


@pytest.mark.parametrize("number", range(6))
def test_tensors_are_those_of_the_layout(tiny_dit: Path, tiny_llama: Path, number: int) -> None:
    for folder, build, names in (
        (tiny_dit, dit, ("transformer_blocks", "attn1", "ff")),
        (tiny_llama, llama, ("model.layers", "self_attn", "mlp")),
    ):
        host = structure(folder)
        program = programs(host, *names)[number]
        model = apply(build(folder), program)
        sources = tensor_sources(program, host)
        found = {name: tuple(t.shape) for name, t in model.state_dict().items()}
        assert host.tensors is not None
        wanted = {n: s.shape if s.base is None else host.tensors[s.base].shape for n, s in sources.items()}
        assert found == wanted


@pytest.mark.parametrize("number", range(6))
def test_meta_and_real_modules_get_the_same_form(tiny_dit: Path, number: int) -> None:
    from archspec.runtime.model.hosts import build

    host = structure(tiny_dit)
    program = programs(host, "transformer_blocks", "attn1", "ff")[number]
    empty = apply(build(host.config, "diffusers", host.architecture, "meta"), program)
    real = apply(dit(tiny_dit), program)
    assert all(p.is_meta for p in empty.parameters())
    assert not any(p.is_meta for p in real.parameters())
    shapes = [{n: (p.shape, p.dtype) for n, p in m.named_parameters()} for m in (empty, real)]
    assert shapes[0] == shapes[1]


def test_edits_do_what_they_say(tiny_dit: Path) -> None:
    host, model = dit(tiny_dit), dit(tiny_dit)
    blocks: list[Any] = list(model.transformer_blocks)
    apply(model, (relist("transformer_blocks", *MIXED),))
    first, *rest = list[Any](model.transformer_blocks)
    assert isinstance(first, Parallel)
    assert list(first.branches) == blocks[:2]
    assert rest[0] is blocks[2]
    assert isinstance(rest[1], Tied)
    assert rest[1].target is blocks[2]
    weights: list[Any] = [block.get_parameter("ff.net.2.weight") for block in (rest[2], blocks[2])]
    assert torch.equal(*weights)
    assert weights[0] is not weights[1]
    x = {"hidden_states": torch.randn(1, 4, 8, 8), "timestep": torch.tensor([3]), "class_labels": torch.tensor([1])}
    with torch.no_grad():
        assert not torch.equal(model(**x).sample, host(**x).sample)


def test_a_parallel_first_block_still_gives_the_conditioning(tiny_dit: Path) -> None:
    """DiT reads `transformer_blocks[0].norm1.emb` outside its loop."""
    model, entry = dit(tiny_dit), Entry("parallel", (0, 1), "average")
    embedder = model.transformer_blocks[0].norm1.emb
    apply(model, (relist("transformer_blocks", entry, *KEEP[2:]),))
    assert model.transformer_blocks[0].norm1.emb is embedder


def test_no_program_changes_nothing(tiny_llama: Path) -> None:
    model, ids = llama(tiny_llama), torch.arange(8)[None]
    before = model(ids).logits
    assert torch.equal(apply(model, ()).get_submodule("")(ids).logits, before)
    assert torch.equal(apply(model, (relist("model.layers", *KEEP),)).get_submodule("")(ids).logits, before)


def numbers(model: Any) -> list[int]:
    """Return the number that each use of an attention has, in the order of execution."""
    from transformers import DynamicCache

    seen: list[int] = []

    class Cache(DynamicCache):  # type: ignore[misc]
        def update(self, keys: Any, values: Any, layer: int, *rest: Any, **more: Any) -> Any:
            seen.append(layer)
            return super().update(keys, values, layer, *rest, **more)

    model.model(torch.arange(5)[None], past_key_values=Cache(config=model.config), use_cache=True)
    return seen


def test_every_use_of_an_attention_has_its_own_number(tiny_llama: Path) -> None:
    model = llama(tiny_llama)
    apply(model, (relist("model.layers", *MIXED),))
    assert model.config.num_hidden_layers == 6
    assert numbers(model) == [0, 1, 2, 3, 4, 5]
    assert numbers(model) == [0, 1, 2, 3, 4, 5]  # the tie put its target's number back


def test_shared_attentions_keep_their_own_numbers(tiny_llama: Path) -> None:
    model = llama(tiny_llama)
    apply(model, (Share("model.layers.3.self_attn", "model.layers.1.self_attn"),))
    assert numbers(model) == [0, 1, 2, 3]
    apply(model, (relist("model.layers", *KEEP[1:]),))
    assert numbers(model) == [0, 1, 2]
    assert model.config.num_hidden_layers == 3


def test_lists_with_an_entry_per_layer_follow(tiny_llama: Path) -> None:
    model = llama(tiny_llama)
    model.config.layer_types = ["a", "b", "c", "d"]
    apply(model, (relist("model.layers", KEEP[3], Entry("parallel", (0, 1), "sum"), Entry("tie", (3,))),))
    assert model.config.layer_types == ["d", "a", "b", "d"]


def test_a_copied_block_does_not_copy_what_it_shares(tiny_dit: Path) -> None:
    model = dit(tiny_dit)
    program = (
        Share("transformer_blocks.3.ff", "transformer_blocks.0.ff"),
        relist("transformer_blocks", *KEEP, Entry("copy", (3,))),
    )
    apply(model, program)
    copied = model.transformer_blocks[4]
    assert copied.ff.target is model.transformer_blocks[0].ff
    assert copied.attn1 is not model.transformer_blocks[3].attn1


def test_new_modules_have_the_dtype_of_the_old(tiny_dit: Path) -> None:
    model = dit(tiny_dit).to(torch.bfloat16)
    host = structure(tiny_dit)
    apply(
        model, (install(host, "transformer_blocks.0.attn1", "low_rank", rank=4), relist("transformer_blocks", *MIXED))
    )
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}


def test_the_mode_is_kept(tiny_dit: Path) -> None:
    host = structure(tiny_dit)
    program = (install(host, "transformer_blocks.0.attn1", "low_rank", rank=4), relist("transformer_blocks", *MIXED))
    assert all(m.training for m in apply(dit(tiny_dit).train(), program).modules())
    assert not any(m.training for m in apply(dit(tiny_dit), program).modules())


@pytest.mark.parametrize(
    ("program", "message"),
    [
        ((Share("transformer_blocks.9", "transformer_blocks.0"),), "no module 'transformer_blocks.9'"),
        ((relist("transformer_blocks", *KEEP, length=5),), "not a list of 5 blocks"),
        ((relist("proj_out_1", *KEEP),), "not a list of 4 blocks"),
        ((relist("nowhere", *KEEP),), "no module 'nowhere'"),
        (
            (Share("transformer_blocks.3.ff", "transformer_blocks.0.ff"), relist("transformer_blocks", *KEEP[1:])),
            "shares the weights of a module that another instruction removes",
        ),
        ((relist("transformer_blocks", replace(KEEP[0], form="swap")),), "unknown form"),  # type: ignore[arg-type]
    ],
)
def test_what_does_not_fit_is_refused(tiny_dit: Path, program: tuple[Instruction, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        apply(dit(tiny_dit), program)


def test_the_global_random_state_is_left_alone(tiny_dit: Path) -> None:
    host, model = structure(tiny_dit), dit(tiny_dit)
    torch.manual_seed(3)
    wanted = torch.rand(1)
    torch.manual_seed(3)
    apply(model, (install(host, "transformer_blocks.0.attn1", "low_rank", rank=4),))
    assert torch.equal(torch.rand(1), wanted)


def test_a_copy_of_an_edited_model_is_whole(tiny_dit: Path) -> None:
    model: nn.Module = apply(dit(tiny_dit), (relist("transformer_blocks", *MIXED),))
    twin = copy.deepcopy(model)
    x = {"hidden_states": torch.randn(1, 4, 8, 8), "timestep": torch.tensor([3]), "class_labels": torch.tensor([1])}
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        assert model(**x).sample.abs().max() == 0
        assert twin(**x).sample.abs().max() > 0
