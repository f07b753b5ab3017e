"""Tiny hosts of every family, as saved folders with seeded random weights. One torch thread, offline."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")

DIT: dict[str, Any] = {
    "num_attention_heads": 2,
    "attention_head_dim": 16,
    "in_channels": 4,
    "num_layers": 4,
    "sample_size": 8,
    "patch_size": 2,
    "num_embeds_ada_norm": 10,
}
PIXART: dict[str, Any] = {
    "num_attention_heads": 2,
    "attention_head_dim": 16,
    "in_channels": 4,
    "out_channels": 8,
    "num_layers": 4,
    "cross_attention_dim": 32,
    "sample_size": 8,
    "patch_size": 2,
    "caption_channels": 24,
}
LLAMA: dict[str, Any] = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
MISTRAL = {**LLAMA, "sliding_window": None}
QWEN2 = LLAMA
QWEN3 = {**LLAMA, "head_dim": 12}
VIT: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "image_size": 16,
    "patch_size": 4,
    "num_channels": 3,
}


def pytest_configure(config: pytest.Config) -> None:
    import torch

    torch.set_num_threads(1)


def _save(model: Any, folder: Path, **options: Any) -> Path:
    """Draw every parameter anew (zero-initialized gates would hide half of the model) and save."""
    import torch

    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            scale = 0.02 if parameter.dim() == 1 else parameter[0].numel() ** -0.5
            center = 1.0 if "norm" in name and name.endswith("weight") and parameter.dim() == 1 else 0.0
            parameter.copy_(center + scale * noise)
    model.eval().save_pretrained(folder, **options)
    return folder


@pytest.fixture(scope="session")
def tiny_dit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """DiT: 4 blocks, width 32, 2 heads, 16 tokens."""
    from diffusers import DiTTransformer2DModel

    return _save(DiTTransformer2DModel(**DIT), tmp_path_factory.mktemp("hosts") / "tiny_dit")


@pytest.fixture(scope="session")
def tiny_pixart(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """PixArt: 4 blocks, width 32, 2 heads, 16 tokens, captions of width 24."""
    from diffusers import PixArtTransformer2DModel

    return _save(PixArtTransformer2DModel(**PIXART), tmp_path_factory.mktemp("hosts") / "tiny_pixart")


@pytest.fixture(scope="session")
def tiny_llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Llama: 4 layers, width 32, 4 heads, 2 key/value heads."""
    from transformers import LlamaConfig, LlamaForCausalLM

    return _save(LlamaForCausalLM(LlamaConfig(**LLAMA)), tmp_path_factory.mktemp("hosts") / "tiny_llama")


@pytest.fixture(scope="session")
def tiny_mistral(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Mistral without a window: sizes as those of `tiny_llama`."""
    from transformers import MistralConfig, MistralForCausalLM

    return _save(MistralForCausalLM(MistralConfig(**MISTRAL)), tmp_path_factory.mktemp("hosts") / "tiny_mistral")


@pytest.fixture(scope="session")
def tiny_qwen2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Qwen2: sizes as those of `tiny_llama`, biases of q, k and v."""
    from transformers import Qwen2Config, Qwen2ForCausalLM

    return _save(Qwen2ForCausalLM(Qwen2Config(**QWEN2)), tmp_path_factory.mktemp("hosts") / "tiny_qwen2")


@pytest.fixture(scope="session")
def tiny_qwen3(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Qwen3: as `tiny_llama`, with heads of 12 features (together wider than the model) and norms of q and k."""
    from transformers import Qwen3Config, Qwen3ForCausalLM

    return _save(Qwen3ForCausalLM(Qwen3Config(**QWEN3)), tmp_path_factory.mktemp("hosts") / "tiny_qwen3")


@pytest.fixture(scope="session")
def tiny_plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ViT: a host of no known family (4 layers, width 32, 2 heads, 17 tokens).

    Saved under the names of its modules, not those of old checkpoints, which transformers would write.
    """
    from transformers import ViTConfig, ViTModel

    folder = tmp_path_factory.mktemp("hosts") / "tiny_plain"
    return _save(ViTModel(ViTConfig(**VIT)), folder, save_original_format=False)
