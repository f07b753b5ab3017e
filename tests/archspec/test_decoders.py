"""Decoders that are built as Llama is: what sets them apart, at the sizes in which they are published."""

from __future__ import annotations

import inspect
from math import prod
from typing import Any

import pytest

from archspec.diagnostics import ArchspecError
from archspec.families import FAMILIES, describe, expected_tensors
from archspec.families.base import bookkeeping

MISTRAL: dict[str, Any] = {"architectures": ["MistralForCausalLM"], "model_type": "mistral"}
QWEN2: dict[str, Any] = {"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2"}
QWEN3: dict[str, Any] = {"architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3"}
MISTRAL_7B = MISTRAL | {"vocab_size": 32768, "hidden_size": 4096, "head_dim": 128, "sliding_window": None}
QWEN25_HALF = QWEN2 | {
    "hidden_size": 896,
    "intermediate_size": 4864,
    "num_attention_heads": 14,
    "num_hidden_layers": 24,
    "num_key_value_heads": 2,
    "tie_word_embeddings": True,
    "use_sliding_window": False,
    "sliding_window": 32768,
    "max_window_layers": 21,
}
QWEN3_SMALL = QWEN3 | {
    "hidden_size": 1024,
    "intermediate_size": 3072,
    "num_attention_heads": 16,
    "num_hidden_layers": 28,
    "num_key_value_heads": 8,
    "tie_word_embeddings": True,
}
PUBLISHED = [(MISTRAL_7B, 7_248_023_552), (QWEN25_HALF, 494_032_768), (QWEN3_SMALL, 596_049_920)]
"""Mistral-7B-v0.3, Qwen2.5-0.5B, Qwen3-0.6B: config and parameters."""


@pytest.mark.parametrize(("config", "params"), PUBLISHED, ids=lambda value: str(value)[:40])
def test_published_sizes(config: dict[str, Any], params: int) -> None:
    from archspec.runtime.model.hosts import build

    structure = describe(config)
    tensors = expected_tensors(structure)
    assert tensors is not None
    assert sum(map(prod, tensors.values())) == params
    model = build(config, structure.library, structure.architecture)
    tied = getattr(model, "all_tied_weights_keys", {}) or {}
    assert {n: tuple(t.shape) for n, t in model.state_dict().items() if n not in tied} == tensors
    for site in structure.sites:
        assert site.port.input in inspect.signature(model.get_submodule(site.path).forward).parameters
        assert set(site.teacher.values()) <= tensors.keys()


def test_what_sets_them_apart() -> None:
    attn = {
        name: next(s for s in describe(config).sites if s.slot == "attn")
        for name, config in (("mistral", MISTRAL_7B), ("qwen2", QWEN25_HALF), ("qwen3", QWEN3_SMALL))
    }
    assert {name: (s.shape.bias, s.shape.out_bias, s.shape.qk_norm) for name, s in attn.items()} == {
        "mistral": (False, False, False),
        "qwen2": (True, False, False),
        "qwen3": (False, False, True),
    }
    assert (attn["qwen3"].shape.head_dim, attn["qwen2"].shape.head_dim) == (128, 64)
    assert attn["qwen3"].teacher["k_norm.weight"] == "model.layers.0.self_attn.k_norm.weight"
    assert "k_norm.weight" not in attn["qwen2"].teacher


REFUSED: list[tuple[dict[str, Any], str]] = [
    (MISTRAL, "sliding_window"),
    (MISTRAL | {"sliding_window": 4096}, "sliding_window"),
    (QWEN2 | {"use_sliding_window": True}, "use_sliding_window"),
    (QWEN3 | {"layer_types": ["full_attention", "sliding_attention"]}, "layer_types"),
    (QWEN2 | {"head_dim": 64}, "head_dim"),
    (QWEN3 | {"quantization_config": {"bits": 4}}, "quantization_config"),
]


@pytest.mark.parametrize(("config", "attribute"), REFUSED, ids=range(len(REFUSED)))
def test_windows_and_strangers_are_refused_by_name(config: dict[str, Any], attribute: str) -> None:
    with pytest.raises(ArchspecError) as caught:
        describe(config)
    assert [d.code for d in caught.value.diagnostics] == ["AS603"]
    assert f"'{attribute}'" in caught.value.diagnostics[0].message


@pytest.mark.parametrize("name", ["mistral", "qwen2", "qwen3"])
def test_defaults_are_those_of_transformers(name: str) -> None:
    from transformers import AutoConfig

    plain, family = AutoConfig.for_model(name), FAMILIES[name]
    strange = {"chunk_size_feed_forward", "is_encoder_decoder"}
    assert {n for n in plain.to_dict() if not bookkeeping(n)} - strange <= family.handled.keys() | family.ignored
    derived = {"layer_types"} | ({"head_dim"} if name == "mistral" else set())
    own = {n: a.default for n, a in family.handled.items() if n not in derived}
    assert {n: getattr(plain, n) for n in own} == own
