"""Roles of tensors: every tensor of every family has exactly one, told by its site or its name."""

from __future__ import annotations

from pathlib import Path

import pytest

from archspec.host.locate import Located, structure_of
from archspec.packs.roles import ROLES, roles

KNOWN = {
    "tiny_llama": {
        "model.embed_tokens.weight": "embed",
        "lm_head.weight": "head",
        "model.layers.0.self_attn.q_proj.weight": "attn",
        "model.layers.3.mlp.gate_proj.weight": "mlp",
        "model.layers.1.input_layernorm.weight": "norm",
        "model.norm.weight": "norm",
    },
    "tiny_qwen3": {"model.layers.0.self_attn.q_norm.weight": "norm"},
    "tiny_qwen2": {"model.layers.0.self_attn.q_proj.bias": "bias", "model.embed_tokens.weight": "embed"},
    "tiny_gpt2": {
        "transformer.wpe.weight": "embed",
        "transformer.h.0.attn.c_attn.weight": "attn",
        "transformer.h.0.attn.c_attn.bias": "bias",
        "transformer.h.3.mlp.c_proj.weight": "mlp",
        "transformer.h.1.ln_1.weight": "norm",
        "transformer.ln_f.bias": "norm",
    },
    "tiny_encoder": {
        "encoder.layer.0.attention.self.value.weight": "attn",
        "encoder.layer.0.attention.output.dense.weight": "attn",
        "encoder.layer.0.output.dense.weight": "mlp",
        "encoder.layer.0.output.LayerNorm.bias": "norm",
        "encoder.layer.0.output.dense.bias": "bias",
        "pooler.dense.weight": "head",
    },
    "tiny_pixart": {
        "transformer_blocks.0.attn2.to_k.weight": "cross_attn",
        "pos_embed.proj.weight": "embed",
        "proj_out.weight": "head",
    },
    "tiny_vit": {"vit.embeddings.cls_token": "embed", "classifier.weight": "head"},
}


@pytest.mark.parametrize("host", KNOWN)
def test_every_tensor_has_a_role(host: str, request: pytest.FixtureRequest) -> None:
    folder: Path = request.getfixturevalue(host)
    structure = structure_of(Located(folder))
    found = roles(structure.tensors or {}, structure)
    assert found.keys() == (structure.tensors or {}).keys()
    assert set(found.values()) <= set(ROLES)
    assert {name: found.get(name) for name in KNOWN[host]} == KNOWN[host]
