"""Families: what they read from a config, what they refuse, and that the real modules are as they say."""

from __future__ import annotations

import inspect
import json
import re
import sys
from collections.abc import Mapping
from math import prod
from pathlib import Path
from subprocess import run
from typing import Any

import pytest

from archspec.diagnostics import ArchspecError
from archspec.families import FAMILIES, describe, expected_tensors, family_of, identify
from archspec.families.base import bookkeeping
from archspec.host.headers import read_folder
from archspec.host.structure import Site, Structure, TensorHeader
from archspec.semantics.layout import count_parameters, tensor_sources
from archspec.source import Source

HOSTS = Path(__file__).parents[2] / "specs" / "hosts"
DIT: dict[str, Any] = {"_class_name": "DiTTransformer2DModel"}
PIXART: dict[str, Any] = {"_class_name": "PixArtTransformer2DModel"}
SANA: dict[str, Any] = {"_class_name": "SanaTransformer2DModel"}
SD3: dict[str, Any] = {"_class_name": "SD3Transformer2DModel"}
FLUX: dict[str, Any] = {"_class_name": "FluxTransformer2DModel"}
LLAMA: dict[str, Any] = {"architectures": ["LlamaForCausalLM"], "model_type": "llama"}
MISTRAL: dict[str, Any] = {"architectures": ["MistralForCausalLM"], "model_type": "mistral", "sliding_window": None}
QWEN2: dict[str, Any] = {"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2"}
QWEN3: dict[str, Any] = {"architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3"}
GPT2: dict[str, Any] = {"architectures": ["GPT2LMHeadModel"], "model_type": "gpt2"}
BERT: dict[str, Any] = {"architectures": ["BertForMaskedLM"], "model_type": "bert"}
VIT: dict[str, Any] = {"architectures": ["ViTForImageClassification"], "model_type": "vit"}
DEFAULTS: dict[str, dict[str, Any]] = {
    "dit": DIT,
    "pixart": PIXART,
    "sana": SANA,
    "sd3": SD3,
    "flux": FLUX,
    "llama": LLAMA,
    "mistral": MISTRAL,
    "qwen2": QWEN2,
    "qwen3": QWEN3,
    "gpt2": GPT2,
    "bert": BERT,
    "vit": VIT,
}

DIT_XL: dict[str, Any] = {
    "_class_name": "Transformer2DModel",
    "_diffusers_version": "0.12.0.dev0",
    "activation_fn": "gelu-approximate",
    "attention_bias": True,
    "attention_head_dim": 72,
    "cross_attention_dim": None,
    "double_self_attention": False,
    "dropout": 0.0,
    "in_channels": 4,
    "norm_elementwise_affine": False,
    "norm_num_groups": 32,
    "norm_type": "ada_norm_zero",
    "num_attention_heads": 16,
    "num_embeds_ada_norm": 1000,
    "num_layers": 28,
    "num_vector_embeds": None,
    "only_cross_attention": False,
    "out_channels": 8,
    "patch_size": 2,
    "sample_size": 32,
    "upcast_attention": False,
    "use_linear_projection": False,
}
"""Of the form in which DiT-XL/2 was published: an outdated class, and attributes of other models that are off."""


def codes(error: ArchspecError) -> list[str]:
    return [d.code for d in error.diagnostics]


def headers(structure: Structure, **changes: tuple[int, ...] | None) -> dict[str, TensorHeader]:
    """Return the headers that a config calls for, with some changed, added or (None) removed."""
    shapes: dict[str, Any] = {**(expected_tensors(structure) or {}), **changes}
    return {n: TensorHeader("F32", tuple(s), "absent.safetensors", 0, 0) for n, s in shapes.items() if s is not None}


def test_published_dit_xl() -> None:
    structure = describe(DIT_XL)
    assert (structure.family, structure.library) == ("dit", "diffusers")
    assert structure.architecture == "DiTTransformer2DModel"
    assert structure.groups == {"blocks": "transformer_blocks"}
    assert structure.depth() == 28
    assert structure.tokens == 256
    tensors = expected_tensors(structure)
    assert tensors is not None
    assert sum(map(prod, tensors.values())) == 749_826_464


@pytest.mark.parametrize("name", FAMILIES)
def test_sites_of_a_block_in_the_order_in_which_they_run(name: str) -> None:
    structure = describe(DEFAULTS[name])
    block = next(s for s in structure.sites if s.slot == "block")
    slots = [s.slot for s in structure.children(block)]
    cross = ["cross_attn"] if name in ("pixart", "sana") else []
    before = ["norm", "attn", *cross, "norm", *(["mlp"] if name != "sana" else [])]
    assert slots == ORDER.get(name, before)
    last = structure.children([s for s in structure.sites if s.slot == "block" and s.group == "blocks"][-1])
    assert len(last) == len(slots) - ENDED.get(name, 0)
    single = structure.depth("single_blocks")
    assert len(structure.sites) == structure.depth() * (len(slots) + 1) - ENDED.get(name, 0) + 4 * single
    names = [s.name for s in structure.sites]
    assert len(set(names)) == len(names), "a name means one site"
    assert structure.sites[0].name == "blocks[0]"


JOINT = ["norm", "norm", "joint_attn", "norm", "mlp", "norm", "context_mlp"]
ORDER = {"bert": ["attn", "norm", "mlp", "norm"], "sd3": JOINT, "flux": JOINT}
"""Of families that are not pre-norm blocks of one stream."""
ENDED = {"sd3": 2}
"""Sites that the last block has not, which ends the context."""


def attn(structure: Structure, index: int = 0) -> Site:
    return next(s for s in structure.sites if s.slot == "attn" and s.index == index)


def mlp(structure: Structure) -> Site:
    return next(s for s in structure.sites if s.slot == "mlp")


def test_llama_contracts() -> None:
    config = {**LLAMA, "hidden_size": 64, "num_attention_heads": 8, "num_key_value_heads": 2, "intermediate_size": 96}
    structure = describe(config)
    shape = attn(structure).shape
    assert (shape.width, shape.heads, shape.kv_heads, shape.head_dim) == (64, 8, 2, 8)
    assert (shape.causal, shape.rotary, shape.bias, shape.out_bias, shape.tokens) == (True, True, False, False, None)
    assert (mlp(structure).shape.hidden, mlp(structure).shape.activation, mlp(structure).shape.gated) == (
        96,
        "silu",
        True,
    )
    port = attn(structure).port
    assert (port.returns, port.rotary, port.cache) == (2, "position_embeddings", "past_key_values")
    assert {role: weight.to_json() for role, weight in attn(structure, 3).teacher.items()} == {
        f"{role}.weight": f"model.layers.3.self_attn.{role}_proj.weight" for role in ("q", "k", "v", "o")
    }
    assert mlp(structure).teacher.keys() == {"up.weight", "gate.weight", "down.weight"}


def test_llama_head_dim_of_its_own() -> None:
    structure = describe({**LLAMA, "hidden_size": 64, "num_attention_heads": 4, "head_dim": 32, "attention_bias": True})
    tensors = expected_tensors(structure)
    assert tensors is not None
    assert attn(structure).shape.head_dim == 32
    assert tensors["model.layers.0.self_attn.q_proj.weight"] == (128, 64)
    assert attn(structure).teacher["o.bias"].to_json() == "model.layers.0.self_attn.o_proj.bias"


def test_llama_model_without_head_has_no_prefix() -> None:
    structure = describe({**LLAMA, "architectures": ["LlamaModel"]})
    assert structure.groups == {"blocks": "layers"}
    tensors = expected_tensors(structure)
    assert tensors is not None
    assert "embed_tokens.weight" in tensors
    assert "lm_head.weight" not in tensors


def test_biases_follow_the_config() -> None:
    structure = describe({**DIT, "attention_bias": False})
    assert attn(structure).shape.bias is False
    assert attn(structure).shape.out_bias is True
    assert attn(structure).teacher.keys() == {"q.weight", "k.weight", "v.weight", "o.weight", "o.bias"}


@pytest.mark.parametrize(
    ("name", "value"), [("gelu", "gelu"), ("geglu-approximate", "quick_gelu"), ("linear-silu", "silu")]
)
def test_activations_by_their_common_name(name: str, value: str) -> None:
    assert mlp(describe({**DIT, "activation_fn": name})).shape.activation == value


def test_cross_attention_of_pixart() -> None:
    structure = describe({**PIXART, "cross_attention_dim": 640, "sample_size": 64})
    site = next(s for s in structure.sites if s.slot == "cross_attn")
    assert site.path == "transformer_blocks.0.attn2"
    assert (site.port.context, site.port.mask, site.shape.context) == ("encoder_hidden_states", "attention_mask", 640)
    assert attn(structure).port.context is None
    tensors = expected_tensors(structure)
    assert tensors is not None
    assert tensors["transformer_blocks.0.attn2.to_k.weight"] == (1152, 640)
    assert "adaln_single.emb.resolution_embedder.linear_1.weight" not in tensors


REFUSED: list[tuple[dict[str, Any], str, str]] = [
    ({**DIT, "window_size": 8}, "AS603", "window_size"),
    ({**DIT, "activation_fn": "geglu"}, "AS603", "activation_fn"),
    ({**DIT, "norm_type": "layer_norm"}, "AS603", "norm_type"),
    ({**PIXART, "attention_type": "gated"}, "AS603", "attention_type"),
    ({**SANA, "qk_norm": "rms_norm_across_heads"}, "AS603", "qk_norm"),
    ({**SANA, "guidance_embeds": True}, "AS603", "guidance_embeds"),
    ({**SANA, "mlp_ratio": "wide"}, "AS604", "mlp_ratio"),
    ({**SD3, "window": 8}, "AS603", "window"),
    ({**SD3, "qk_norm": "layer_norm"}, "AS603", "qk_norm"),
    ({**SD3, "caption_projection_dim": 1536}, "AS604", "caption_projection_dim"),
    ({**SD3, "pos_embed_max_size": 32}, "AS604", "pos_embed_max_size"),
    ({**SD3, "dual_attention_layers": [0, 18]}, "AS604", "dual_attention_layers"),
    ({**SD3, "dual_attention_layers": [True]}, "AS604", "dual_attention_layers"),
    ({**SD3, "dual_attention_layers": 3}, "AS604", "dual_attention_layers"),
    ({**FLUX, "rope_theta": 10}, "AS603", "rope_theta"),
    ({**FLUX, "num_single_layers": 0}, "AS604", "num_single_layers"),
    ({**FLUX, "axes_dims_rope": [16, 56, 55]}, "AS604", "axes_dims_rope"),
    ({**FLUX, "attention_head_dim": 64}, "AS604", "axes_dims_rope"),
    ({**LLAMA, "quantization_config": {"bits": 4}}, "AS603", "quantization_config"),
    ({**LLAMA, "auto_map": {"AutoModel": "code.Model"}}, "AS603", "auto_map"),
    ({**LLAMA, "hidden_act": "swoosh"}, "AS603", "hidden_act"),
    ({**LLAMA, "per_layer_config": {"0": {"hidden_size": 8}}}, "AS603", "per_layer_config"),
    ({**MISTRAL, "sliding_window": 4096}, "AS603", "sliding_window"),
    ({k: v for k, v in MISTRAL.items() if k != "sliding_window"}, "AS603", "sliding_window"),
    ({**MISTRAL, "attention_bias": True}, "AS603", "attention_bias"),
    ({**QWEN2, "use_sliding_window": True}, "AS603", "use_sliding_window"),
    ({**QWEN2, "layer_types": ["sliding_attention"] * 32}, "AS603", "layer_types"),
    ({**QWEN2, "layer_types": ["full_attention"]}, "AS604", "layer_types"),
    ({**QWEN2, "layer_types": "full_attention"}, "AS604", "layer_types"),
    ({**QWEN2, "head_dim": 64}, "AS603", "head_dim"),
    ({**QWEN3, "rms_norm_eps": 1e-5}, "AS603", "rms_norm_eps"),
    ({**QWEN3, "num_experts": 8}, "AS603", "num_experts"),
    ({**GPT2, "add_cross_attention": True}, "AS603", "add_cross_attention"),
    ({**GPT2, "activation_function": "swoosh"}, "AS603", "activation_function"),
    ({**GPT2, "hidden_size": 768}, "AS603", "hidden_size"),
    ({**GPT2, "n_embd": 100}, "AS604", "n_embd"),
    ({**DIT, "num_layers": "many"}, "AS604", "num_layers"),
    ({**DIT, "num_layers": 10**12}, "AS604", "num_layers"),
    ({**DIT, "num_layers": 0}, "AS604", "num_layers"),
    ({**DIT, "num_layers": True}, "AS604", "num_layers"),
    ({**DIT, "num_layers": None}, "AS604", "num_layers"),
    ({**DIT, "attention_bias": 1}, "AS604", "attention_bias"),
    ({**DIT, "sample_size": 33}, "AS604", "sample_size"),
    ({**LLAMA, "hidden_size": 100, "num_attention_heads": 3}, "AS604", "hidden_size"),
    ({**LLAMA, "num_attention_heads": 4, "num_key_value_heads": 3}, "AS604", "num_attention_heads"),
]


@pytest.mark.parametrize(("config", "code", "attribute"), REFUSED, ids=[f"{c}-{a}" for _, c, a in REFUSED])
def test_config_that_is_not_understood(config: dict[str, Any], code: str, attribute: str) -> None:
    span = Source("s.yaml", "base: ./host").span(6, 12)
    with pytest.raises(ArchspecError) as caught:
        describe(config, span=span)
    assert codes(caught.value) == [code]
    assert f"'{attribute}'" in caught.value.diagnostics[0].message
    primary = caught.value.diagnostics[0].primary
    assert primary is not None
    assert (primary.span.line, primary.span.column) == (1, 7)


def test_all_unknown_attributes_at_once_with_the_nearest_name() -> None:
    with pytest.raises(ArchspecError) as caught:
        describe({**DIT, "num_layer": 4, "windows": [1], "off": False, "none": None, "empty": {}})
    assert [d.message.split("'")[1] for d in caught.value.diagnostics] == ["num_layer", "windows"]
    assert caught.value.diagnostics[0].hints == ("did you mean 'num_layers'?",)


@pytest.mark.parametrize("config", [{}, {"_class_name": 3}, {"architectures": []}, {"_class_name": "os.system"}])
def test_config_without_a_class(config: dict[str, Any]) -> None:
    with pytest.raises(ArchspecError) as caught:
        identify(config)
    assert codes(caught.value) == ["AS605"]


def test_family_of() -> None:
    assert family_of(DIT_XL) is FAMILIES["dit"]
    assert family_of({**DIT_XL, "norm_type": "ada_norm_single"}) is FAMILIES["pixart"]
    assert family_of({**DIT_XL, "norm_type": "layer_norm"}) is None
    assert family_of({"architectures": ["OPTModel"]}) is None


SMALL = {**DIT, "num_layers": 2, "num_attention_heads": 2, "attention_head_dim": 4, "sample_size": 8}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"transformer_blocks.1.attn1.to_q.bias": None}, "tensor 'transformer_blocks.1.attn1.to_q.bias' is missing"),
        ({"proj_out_1.weight": (16, 9)}, "tensor 'proj_out_1.weight' is (16, 9), the config calls for (16, 8)"),
        ({"transformer_blocks.2.ff.net.2.bias": (8,)}, "tensor 'transformer_blocks.2.ff.net.2.bias' has no place"),
    ],
)
def test_headers_must_be_what_the_config_calls_for(changes: dict[str, Any], message: str) -> None:
    good = headers(describe(SMALL))
    assert describe(SMALL, good).tensors == good
    with pytest.raises(ArchspecError) as caught:
        describe(SMALL, headers(describe(SMALL), **changes))
    assert codes(caught.value) == ["AS606"]
    assert caught.value.diagnostics[0].message.startswith(message)


def test_a_stored_table_of_positions_is_no_tensor_of_the_model() -> None:
    stored = headers(describe(SMALL), **{"pos_embed.pos_embed": (1, 16, 8)})
    found = describe(SMALL, stored).tensors
    assert found is not None
    assert stored.keys() - found.keys() == {"pos_embed.pos_embed"}


def test_weights_of_another_model_are_not_a_flood() -> None:
    with pytest.raises(ArchspecError) as caught:
        describe({**DIT, "num_layers": 28}, headers(describe({**DIT, "num_layers": 12})))
    (one,) = caught.value.diagnostics
    assert re.match(
        r"\d+ tensors are not what the config calls for: tensor '.*' is missing; tensor .*; \.\.\.$", one.message
    )


def llama_files(folder: Path, head: float) -> dict[str, TensorHeader]:
    """Write a tied Llama whose checkpoint repeats the embedding as its head, scaled by `head`."""
    import numpy as np
    from safetensors.numpy import save_file

    rng = np.random.default_rng(0)
    shapes = expected_tensors(describe(TIED))
    assert shapes is not None
    tensors = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"] * np.float32(head)
    tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = np.ones(2, np.float32)
    save_file(tensors, folder / "model.safetensors")
    return read_folder(folder)


TIED = {**LLAMA, "hidden_size": 16, "num_attention_heads": 4, "num_hidden_layers": 2, "vocab_size": 9,
        "intermediate_size": 8, "tie_word_embeddings": True}  # fmt: skip


def test_tied_head_and_old_buffers_are_no_tensors_of_the_model(tmp_path: Path) -> None:
    structure = describe(TIED, llama_files(tmp_path, 1.0))
    assert structure.tensors is not None
    assert structure.tensors.keys() == (expected_tensors(structure) or {}).keys()
    assert not any("lm_head" in name or "inv_freq" in name for name in structure.tensors)


def test_tied_head_that_differs_is_refused(tmp_path: Path) -> None:
    """transformers would load both and not tie them; archspec does not guess."""
    with pytest.raises(ArchspecError, match="the two differ") as caught:
        describe(TIED, llama_files(tmp_path, 1.5))
    assert codes(caught.value) == ["AS606"]


def unknown(shapes: Mapping[str, tuple[int, ...]]) -> Structure:
    tensors = {name: TensorHeader("F32", shape, "absent", 0, 0) for name, shape in shapes.items()}
    return describe({"architectures": ["OPTModel"]}, tensors)


def gpt2(depth: int) -> dict[str, tuple[int, ...]]:
    block: dict[str, tuple[int, ...]] = {
        "ln_1.weight": (8,), "ln_1.bias": (8,), "attn.c_attn.weight": (8, 24), "mlp.c_fc.weight": (8, 32)
    }  # fmt: skip
    return {
        "wte.weight": (50, 8),
        **{f"h.{i}.{name}": shape for i in range(depth) for name, shape in block.items()},
        "ln_f.weight": (8,),
    }


def test_unknown_host_from_its_headers() -> None:
    structure = unknown(gpt2(12))
    assert (structure.family, structure.architecture) == ("unknown", "OPTModel")
    assert structure.groups == {"blocks": "h"}
    blocks = [s for s in structure.sites if s.slot == "block"]
    assert [b.path for b in blocks] == [f"h.{i}" for i in range(12)]
    assert {b.shape.width for b in blocks} == {8}
    assert {s.slot for s in structure.sites} == {"block", "module"}
    inner = structure.site("h.10.attn")
    assert inner is not None
    assert (inner.name, inner.group, inner.index, inner.shape.width) == ('"h.10.attn"', "blocks", 10, 0)
    assert [s.path for s in structure.children(blocks[0])] == [
        "h.0.attn",
        "h.0.attn.c_attn",
        "h.0.ln_1",
        "h.0.mlp",
        "h.0.mlp.c_fc",
    ]
    outside = structure.site("wte")
    assert outside is not None
    assert outside.index is None


def test_unknown_host_without_headers_is_its_class_alone() -> None:
    structure = describe({"_class_name": "SomethingModel"})
    assert (structure.groups, structure.sites, structure.tensors) == ({}, (), None)
    assert expected_tensors(structure) is None


def test_unknown_host_with_several_lists() -> None:
    block = {"attn.w": (4, 4), "mlp.w": (4, 4)}
    shapes = {
        **{f"t.single_blocks.{i}.{n}": s for i in range(5) for n, s in block.items()},
        **{f"t.double_blocks.{i}.{n}": s for i in range(3) for n, s in block.items()},
        **{f"u.double_blocks.{i}.{n}": s for i in range(2) for n, s in block.items()},
    }
    structure = unknown(shapes)
    assert structure.groups == {
        "blocks": "t.single_blocks",
        "t_double_blocks": "t.double_blocks",
        "u_double_blocks": "u.double_blocks",
    }
    assert structure.depth("t_double_blocks") == 3


BLOCK: dict[str, tuple[int, ...]] = {"a.w": (4, 4), "b.w": (4, 4), "c.w": (4, 4)}


def listed(*blocks: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    return {f"net.{i}.{name}": shape for i, block in enumerate(blocks) for name, shape in block.items()}


def test_a_last_block_may_have_less_and_a_first_one_more() -> None:
    less = {name: BLOCK[name] for name in ("a.w", "b.w")}
    assert unknown(listed(BLOCK, BLOCK, less)).depth() == 3
    assert unknown(listed({**BLOCK, "bias.w": (9,)}, BLOCK)).depth() == 2
    assert unknown(listed(BLOCK, {**BLOCK, "a.w": (8, 4)})).depth() == 2


@pytest.mark.parametrize(
    "shapes",
    [
        {"net.0.weight": (4, 4), "net.2.weight": (4, 4)},  # a Sequential with activations between
        {"net.0.weight": (4, 4), "net.1.weight": (4, 4)},  # linears, not blocks
        listed(BLOCK, {"a.w": (4, 4), "d.w": (4, 4)}),  # names that differ
        listed(BLOCK, {"a.w": (8, 4), "b.w": (8, 8), "c.w": (4, 4)}),  # shapes that differ
        listed({"a.w": (8, 8, 3, 3), "b.w": (8, 8)}, {"a.w": (8, 8, 3, 3), "b.w": (8, 8)}),  # of a U-Net
        listed(BLOCK),  # a single entry
    ],
    ids=["gaps", "linears", "names", "shapes", "images", "single"],
)
def test_lists_that_are_no_blocks(shapes: dict[str, tuple[int, ...]]) -> None:
    assert unknown(shapes).groups == {}


def test_width_only_where_the_norms_agree() -> None:
    shapes = gpt2(3)
    shapes["h.0.attn.q_norm.weight"] = (2,)  # of a head, not of the tokens
    assert {s.shape.width for s in unknown(shapes).sites if s.slot == "block"} == {8}
    shapes["h.1.ln_1.weight"] = (9,)
    assert {s.shape.width for s in unknown(shapes).sites} == {0}


def test_bookkeeping() -> None:
    assert bookkeeping("_anything")
    assert bookkeeping("transformers_version")
    assert not bookkeeping("num_layers")


def test_defaults_are_those_of_the_libraries() -> None:
    """A config that leaves an attribute out means the library's default."""
    import diffusers
    from transformers import GPT2Config, LlamaConfig, MistralConfig, Qwen2Config, Qwen3Config

    for name in ("dit", "pixart", "sd3", "flux"):
        cls: Any = getattr(diffusers, next(iter(FAMILIES[name].architectures)))
        parameters = dict(inspect.signature(cls.__init__).parameters)
        parameters.pop("self")
        own = {n: list(p.default) if isinstance(p.default, tuple) else p.default for n, p in parameters.items()}
        family = FAMILIES[name]
        assert own.keys() == family.handled.keys() | family.ignored, f"{name}: every attribute is handled or ignored"
        assert {n: own[n] for n in family.handled} == {n: a.default for n, a in family.handled.items()}
    for config in (GPT2Config, LlamaConfig, MistralConfig, Qwen2Config, Qwen3Config):
        plain, family = config(), FAMILIES[config.model_type]
        told = {n for n in plain.to_dict() if not bookkeeping(n)} - {"chunk_size_feed_forward", "is_encoder_decoder"}
        assert told <= family.handled.keys() | family.ignored
        left_out = {n: a.default for n, a in family.handled.items() if a.default is not None}
        assert {n: getattr(plain, n) for n in left_out} == left_out
        written = {n: p.default for n, p in inspect.signature(config).parameters.items()}
        assert all(written.get(n) is None for n in family.handled.keys() - left_out.keys() - UNWRITTEN)


UNWRITTEN = {"num_key_value_heads", "head_dim"}


@pytest.mark.parametrize("name", ["bert", "vit"])
def test_defaults_of_encoders_are_those_of_transformers(name: str) -> None:
    from transformers import BertConfig, ViTConfig

    plain: Any = {"bert": BertConfig, "vit": ViTConfig}[name]()
    family, own = FAMILIES[name], {n for n in plain.to_dict() if not bookkeeping(n)}
    off = {"chunk_size_feed_forward", "is_encoder_decoder", "is_decoder", "add_cross_attention"}  # refused when on
    assert own - off <= family.handled.keys() | family.ignored
    told = family.handled.keys() & own - {"pooler_output_size"}  # its default is the width
    assert {n: getattr(plain, n) for n in told} == {n: family.handled[n].default for n in told}


def against_the_real_one(structure: Structure, model: Any) -> None:
    """Every path is a module, every tensor the model's, every name of a port a parameter of the module's forward."""
    state = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    tied = getattr(model, "all_tied_weights_keys", {}) or {}
    assert {name: shape for name, shape in state.items() if name not in tied} == expected_tensors(structure)

    def weight(site: Site, role: str) -> tuple[int, ...]:
        return site.teacher[role].shape(state[site.teacher[role].tensor])

    for site in structure.sites:
        module = model.get_submodule(site.path)
        parameters = inspect.signature(module.forward).parameters
        used = [site.port.input, site.port.rotary, site.port.mask, site.port.cache, site.port.context]
        streams = [name for name, _ in site.port.streams]
        assert list(parameters)[: len(streams)] == streams, site.path
        assert {name for name in used if name} <= parameters.keys(), site.path
        assert next(iter(parameters)) == site.port.input, site.path
        assert {w.tensor for w in site.teacher.values()} <= state.keys()
        assert {w.tensor.rpartition(".")[0] for w in site.teacher.values()} <= {n for n, _ in model.named_modules()}
    for site in (s for s in structure.sites if s.slot in ("attn", "cross_attn")):
        shape = site.shape
        inner, shared = (shape.heads or 0) * (shape.head_dim or 0), (shape.kv_heads or 0) * (shape.head_dim or 0)
        assert weight(site, "q.weight") == (inner, shape.width)
        assert weight(site, "v.weight") == (shared, shape.context or shape.width)
        assert ("q.bias" in site.teacher) == shape.bias
        if site.group == "single_blocks":  # the output map is one with the MLP's
            continue
        assert weight(site, "o.weight") == (shape.width, inner)
        assert ("o.bias" in site.teacher) == shape.out_bias
    for site in (s for s in structure.sites if s.role == "mlp"):
        assert weight(site, "up.weight") == (site.shape.hidden, site.shape.width)
        assert ("gate.weight" in site.teacher) == site.shape.gated
        assert ("up.bias" in site.teacher, "down.bias" in site.teacher) == (site.shape.bias, site.shape.out_bias)
    for site in (s for s in structure.sites if s.slot == "norm" and s.teacher):
        assert weight(site, "weight") == (site.shape.width,)
    for end in (s.exit for s in structure.sites if s.exit):
        assert state[f"{end.path}.weight"][0] == end.shape.width
        if end.shape.foreign:  # the columns before the site's own
            assert weight(end, "weight") == (end.shape.width, end.shape.foreign)
            assert weight(end, "bias") == (end.shape.width,)
        assert next(iter(inspect.signature(model.get_submodule(end.path).forward).parameters)) == end.port.input


SD3_MEDIUM = json.loads((HOSTS / "sd3-medium" / "transformer" / "config.json").read_text())
FLUX_DEV = json.loads((HOSTS / "flux.1-dev" / "transformer" / "config.json").read_text())
PUBLISHED: dict[str, dict[str, Any]] = {
    "flux.1-dev": FLUX_DEV,
    "flux.1-schnell": {**FLUX_DEV, "guidance_embeds": False},
    "sana-1600m": json.loads((HOSTS / "sana-1600m-1024px" / "transformer" / "config.json").read_text()),
    "sd3-medium": SD3_MEDIUM,
    "sd3.5-medium": {
        **SD3_MEDIUM, "dual_attention_layers": list(range(13)), "pos_embed_max_size": 384, "qk_norm": "rms_norm",
    },
    "sd3.5-large": {
        **SD3_MEDIUM, "caption_projection_dim": 2432, "num_attention_heads": 38, "num_layers": 38,
        "dual_attention_layers": [], "qk_norm": "rms_norm",
    },
    "mistral-7b-v0.3": {
        **MISTRAL, "hidden_act": "silu", "hidden_size": 4096, "intermediate_size": 14336, "num_attention_heads": 32,
        "num_hidden_layers": 32, "num_key_value_heads": 8, "max_position_embeddings": 32768, "rms_norm_eps": 1e-05,
        "rope_theta": 1000000.0, "tie_word_embeddings": False, "vocab_size": 32768, "attention_dropout": 0.0,
    },
    "qwen2.5-0.5b": {
        **QWEN2, "hidden_act": "silu", "hidden_size": 896, "intermediate_size": 4864, "max_window_layers": 24,
        "num_attention_heads": 14, "num_hidden_layers": 24, "num_key_value_heads": 2, "rms_norm_eps": 1e-06,
        "rope_theta": 1000000.0, "sliding_window": 32768, "tie_word_embeddings": True, "use_mrope": False,
        "use_sliding_window": False, "vocab_size": 151936, "attention_dropout": 0.0,
    },
    "gpt2": {**GPT2, "n_ctx": 1024},
    "gpt2-medium": {**GPT2, "n_embd": 1024, "n_head": 16, "n_layer": 24},
    "gpt2-large": {**GPT2, "n_embd": 1280, "n_head": 20, "n_layer": 36},
    "gpt2-xl": {**GPT2, "n_embd": 1600, "n_head": 25, "n_layer": 48},
    "qwen3-4b": json.loads((HOSTS / "qwen3-4b" / "config.json").read_text()),
}  # fmt: skip
"""Of the form in which they were published."""
PARAMETERS = {
    "gpt2": 124_439_808,
    "gpt2-medium": 354_823_168,
    "gpt2-large": 774_030_080,
    "gpt2-xl": 1_557_611_200,
    "flux.1-dev": 11_901_408_320,
    "flux.1-schnell": 11_891_178_560,
    "sana-1600m": 1_604_462_752,
    "sd3-medium": 2_028_328_000,
    "sd3.5-medium": 2_243_171_520,
    "sd3.5-large": 8_056_627_520,
    "mistral-7b-v0.3": 7_248_023_552,
    "qwen2.5-0.5b": 494_032_768,
    "qwen3-4b": 4_022_468_096,
}
"""What the models are known to have."""


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameters_of_published_models(name: str) -> None:
    structure = describe(PUBLISHED[name])
    assert count_parameters(tensor_sources((), structure), structure) == PARAMETERS[name]


def test_a_stored_table_of_sd3_is_a_tensor_and_no_parameter() -> None:
    tensors = expected_tensors(describe(SD3_MEDIUM))
    assert tensors is not None
    assert sum(map(prod, tensors.values())) - PARAMETERS["sd3-medium"] == 192**2 * 1536


def test_two_lists_of_flux() -> None:
    structure = describe(FLUX_DEV)
    assert structure.groups == {"blocks": "transformer_blocks", "single_blocks": "single_transformer_blocks"}
    assert (structure.depth(), structure.depth("single_blocks")) == (19, 38)
    single, mixer = (structure.site(f"single_transformer_blocks.37{name}") for name in ("", ".attn"))
    assert single is not None
    assert mixer is not None
    assert single.port == structure.sites[0].port
    assert (single.name, mixer.name, mixer.slot) == ("single_blocks[37]", "single_blocks[37].attn", "attn")
    assert mixer.port.streams == ()
    assert mixer.teacher.keys() >= {"q.weight", "k.weight", "v.bias", "q_norm.weight"}
    assert "o.weight" not in mixer.teacher
    assert (mixer.shape.out_map, mixer.shape.rotary, mixer.port.interleaved) == (False, True, True)


def test_two_streams_of_sd3() -> None:
    structure = describe(PUBLISHED["sd3.5-medium"])
    block, last = (structure.site(f"transformer_blocks.{i}") for i in (0, 23))
    assert block is not None
    assert last is not None
    assert block.port.streams == (("hidden_states", 1), ("encoder_hidden_states", 0))
    assert (block.port.output, block.port.ended, last.port.ended) == (1, (), ("encoder_hidden_states",))
    joint, context = (structure.site(f"transformer_blocks.0.{name}") for name in ("attn", "ff_context"))
    assert joint is not None
    assert context is not None
    assert (joint.name, joint.role, joint.port.output) == ("blocks[0].joint_attn", "attn", 0)
    assert joint.teacher["beside.q.weight"].to_json() == "transformer_blocks.0.attn.add_q_proj.weight"
    assert joint.teacher["beside.o.bias"].to_json() == "transformer_blocks.0.attn.to_add_out.bias"
    end = structure.site("transformer_blocks.23.attn")
    assert end is not None
    assert (joint.shape.beside, end.shape.beside, end.port.ended) == ("whole", "read", ("encoder_hidden_states",))
    assert "beside.o.weight" not in end.teacher
    assert (context.name, context.role, context.shape.tokens) == ("blocks[0].context_mlp", "mlp", None)
    assert attn(structure).path == "transformer_blocks.0.attn2"
    assert [s.index for s in structure.sites if s.slot == "attn"] == list(range(13))
    assert {"q_norm.weight", "k_norm.weight"} <= attn(structure).teacher.keys()


def test_qwen_contracts() -> None:
    shape = attn(describe(PUBLISHED["qwen3-4b"])).shape
    assert (shape.heads, shape.kv_heads, shape.head_dim, shape.qk_norm, shape.bias) == (32, 8, 128, True, False)
    assert attn(describe(QWEN3)).shape.head_dim == 128, "not the width over the heads"
    assert attn(describe(QWEN3)).teacher["k_norm.weight"].to_json() == "model.layers.0.self_attn.k_norm.weight"
    shape = attn(describe(PUBLISHED["qwen2.5-0.5b"])).shape
    assert (shape.head_dim, shape.qk_norm, shape.bias, shape.out_bias) == (64, False, True, False)
    assert "q.bias" in attn(describe(QWEN2)).teacher


REAL: list[dict[str, Any]] = [
    DIT_XL,
    {**SMALL, "attention_bias": False, "norm_elementwise_affine": True, "out_channels": 8, "activation_fn": "gelu"},
    {**PIXART, "num_layers": 2, "caption_channels": 4096},
    {**PIXART, "num_layers": 2, "sample_size": 64, "norm_elementwise_affine": True, "out_channels": None},
    {**PIXART, "num_layers": 2, "cross_attention_dim": 640, "use_additional_conditions": True, "sample_size": 32},
    {**PIXART, "num_layers": 2, "cross_attention_dim": None},
    SANA,
    {**SANA, "num_layers": 2, "attention_bias": True, "norm_elementwise_affine": True, "mlp_ratio": 3.0},
    SD3,
    {**SD3, "num_layers": 3, "qk_norm": "rms_norm", "dual_attention_layers": [0, 2], "out_channels": None},
    FLUX,
    {**FLUX, "num_layers": 1, "num_single_layers": 2, "guidance_embeds": True, "out_channels": 8, "patch_size": 2},
    {**LLAMA, "num_hidden_layers": 2, "num_key_value_heads": 8},
    {**LLAMA, "num_hidden_layers": 2, "attention_bias": True, "mlp_bias": True, "head_dim": 64},
    {**LLAMA, "num_hidden_layers": 2, "tie_word_embeddings": True, "is_llama_config": True, "rope_interleaved": False},
    {**LLAMA, "num_hidden_layers": 2, "architectures": ["LlamaModel"]},
    {**GPT2, "n_layer": 2},
    {**GPT2, "n_layer": 2, "n_inner": 100, "tie_word_embeddings": False},
    {**GPT2, "n_layer": 2, "architectures": ["GPT2Model"], "scale_attn_by_inverse_layer_idx": True},
    {**BERT, "num_hidden_layers": 2, "hidden_size": 48, "vocab_size": 99, "type_vocab_size": 1},
    {**BERT, "num_hidden_layers": 2, "tie_word_embeddings": False, "max_position_embeddings": 40},
    {**BERT, "num_hidden_layers": 2, "architectures": ["BertModel"]},
    {**VIT, "num_hidden_layers": 2, "qkv_bias": False, "image_size": 50, "id2label": {"0": "a", "1": "b", "2": "c"}},
    {**VIT, "num_hidden_layers": 2, "architectures": ["ViTModel"], "pooler_output_size": 24, "num_channels": 1},
]


@pytest.mark.parametrize("config", REAL, ids=range(len(REAL)))
def test_structure_against_the_real_module(config: dict[str, Any]) -> None:
    from archspec.runtime.model.hosts import build

    structure = describe(config)
    own = {n: v for n, v in config.items() if n in FAMILIES[structure.family].handled or bookkeeping(n)}
    own["_class_name"] = structure.architecture
    model = build(own, structure.library, structure.architecture)
    against_the_real_one(structure, model)
    if config is DIT_XL:
        assert sum(p.numel() for p in model.parameters()) == 749_826_464


SAVED = ("dit", "pixart", "sana", "sd3", "flux", "llama", "mistral", "qwen2", "qwen3", "gpt2", "bert", "vit", "plain")


@pytest.mark.parametrize("host", [f"tiny_{name}" for name in SAVED])
def test_saved_hosts(host: str, request: pytest.FixtureRequest) -> None:
    from archspec.runtime.model.hosts import build

    folder: Path = request.getfixturevalue(host)
    tensors = read_folder(folder)
    structure = describe(json.loads((folder / "config.json").read_text()), tensors)
    assert structure.family == {"tiny_plain": "unknown"}.get(host, host.removeprefix("tiny_"))
    assert structure.depth() == (3 if host == "tiny_flux" else 4)
    assert structure.tensors == tensors
    model = build(structure.config, structure.library, structure.architecture)
    assert {site.path for site in structure.sites} <= {name for name, _ in model.named_modules()}


def test_no_torch() -> None:
    """Reading structures must stay cheap: the validator promises 0.35 CPU seconds."""
    heavy = "{'torch', 'numpy', 'huggingface_hub', 'diffusers', 'transformers'}"
    code = f"import sys, archspec.host.locate, archspec.semantics.layout; print(sorted({heavy} & set(sys.modules)))"
    found = run([sys.executable, "-c", code], cwd=Path(__file__).parents[2], check=True, capture_output=True, text=True)
    assert found.stdout == "[]\n"
