"""Tiny hosts of every family, as saved folders with seeded random weights. One torch thread, offline."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # in the background of a script
    signal.signal(signal.SIGINT, signal.default_int_handler)

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
SANA: dict[str, Any] = {
    "num_attention_heads": 4,
    "attention_head_dim": 8,
    "in_channels": 4,
    "out_channels": 4,
    "num_layers": 4,
    "num_cross_attention_heads": 2,
    "cross_attention_head_dim": 12,
    "cross_attention_dim": 32,
    "caption_channels": 24,
    "sample_size": 4,
}
SD3: dict[str, Any] = {
    "num_attention_heads": 2,
    "attention_head_dim": 16,
    "in_channels": 4,
    "out_channels": 4,
    "num_layers": 4,
    "sample_size": 8,
    "patch_size": 2,
    "joint_attention_dim": 24,
    "caption_projection_dim": 32,
    "pooled_projection_dim": 20,
    "pos_embed_max_size": 6,
    "dual_attention_layers": [0, 1],
    "qk_norm": "rms_norm",
}
FLUX: dict[str, Any] = {
    "num_attention_heads": 2,
    "attention_head_dim": 16,
    "in_channels": 16,
    "num_layers": 3,
    "num_single_layers": 4,
    "joint_attention_dim": 24,
    "pooled_projection_dim": 20,
    "guidance_embeds": True,
    "axes_dims_rope": [4, 6, 6],
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
GPT2: dict[str, Any] = {
    "vocab_size": 64,
    "n_positions": 64,
    "n_embd": 32,
    "n_layer": 4,
    "n_head": 4,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
BERT: dict[str, Any] = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "max_position_embeddings": 64,
}
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


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Slow tests first: one that starts last keeps a worker busy while the others have none."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)


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
def tiny_sana(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """SANA: 4 blocks, width 32, 4 heads of linear attention, 2 of cross attention (inner width 24), 16 tokens."""
    from diffusers import SanaTransformer2DModel

    return _save(SanaTransformer2DModel(**SANA), tmp_path_factory.mktemp("hosts") / "tiny_sana")


@pytest.fixture(scope="session")
def tiny_sd3(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """SD3: 4 blocks of two streams (the last ends the context), width 32, 2 heads whose queries and keys are normed, 16
    tokens, captions of width 24; blocks 0 and 1 have a second attention over the image alone."""
    from diffusers import SD3Transformer2DModel

    return _save(SD3Transformer2DModel(**SD3), tmp_path_factory.mktemp("hosts") / "tiny_sd3")


@pytest.fixture(scope="session")
def tiny_flux(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """FLUX: 3 blocks of two streams and 4 single ones, width 32, 2 heads, captions of width 24, told its guidance."""
    from diffusers import FluxTransformer2DModel

    return _save(FluxTransformer2DModel(**FLUX), tmp_path_factory.mktemp("hosts") / "tiny_flux")


@pytest.fixture(scope="session")
def tiny_llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Llama: 4 layers, width 32, 4 heads, 2 key/value heads."""
    from transformers import LlamaConfig, LlamaForCausalLM

    return _save(LlamaForCausalLM(LlamaConfig(**LLAMA)), tmp_path_factory.mktemp("hosts") / "tiny_llama")


def _decoder(name: str, folder: Path, **changes: Any) -> Path:
    from transformers import AutoConfig, AutoModelForCausalLM

    return _save(AutoModelForCausalLM.from_config(AutoConfig.for_model(name, **{**LLAMA, **changes})), folder)


@pytest.fixture(scope="session")
def tiny_mistral(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Mistral: as the Llama, no window."""
    return _decoder("mistral", tmp_path_factory.mktemp("hosts") / "tiny_mistral", sliding_window=None)


@pytest.fixture(scope="session")
def tiny_qwen2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Qwen2: as the Llama, with biases of q, k and v, and tied embeddings."""
    return _decoder("qwen2", tmp_path_factory.mktemp("hosts") / "tiny_qwen2", tie_word_embeddings=True)


@pytest.fixture(scope="session")
def tiny_qwen3(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Qwen3: as the Llama, with heads of 16 (wider than the model) whose queries and keys are normed."""
    return _decoder("qwen3", tmp_path_factory.mktemp("hosts") / "tiny_qwen3", head_dim=16)


@pytest.fixture(scope="session")
def tiny_bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """BERT with its head: 4 layers, width 32, 2 heads, tied embeddings."""
    from transformers import BertConfig, BertForMaskedLM

    return _save(BertForMaskedLM(BertConfig(**BERT)), tmp_path_factory.mktemp("hosts") / "tiny_bert")


@pytest.fixture(scope="session")
def tiny_encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """BERT without a head, as sentence encoders are published: 4 layers, width 32, 2 heads."""
    from transformers import BertConfig, BertModel

    return _save(BertModel(BertConfig(**BERT)), tmp_path_factory.mktemp("hosts") / "tiny_encoder")


@pytest.fixture(scope="session")
def tiny_vit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """ViT with its head: 4 layers, width 32, 2 heads, 17 tokens, 2 classes; tensors named as its modules."""
    from transformers import ViTConfig, ViTForImageClassification

    folder = tmp_path_factory.mktemp("hosts") / "tiny_vit"
    return _save(ViTForImageClassification(ViTConfig(**VIT)), folder, save_original_format=False)


@pytest.fixture(scope="session")
def tiny_plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ViT-MSN: a host of no known family (4 layers, width 32, 2 heads, 17 tokens).

    Saved under the names of its modules, not those of old checkpoints, which transformers would write.
    """
    from transformers import ViTMSNConfig, ViTMSNModel

    folder = tmp_path_factory.mktemp("hosts") / "tiny_plain"
    return _save(ViTMSNModel(ViTMSNConfig(**VIT)), folder, save_original_format=False)


@pytest.fixture(scope="session")
def tiny_gpt2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """GPT-2: 4 layers, width 32, 4 heads, 64 positions, tied embeddings."""
    from transformers import GPT2Config, GPT2LMHeadModel

    return _save(GPT2LMHeadModel(GPT2Config(**GPT2)), tmp_path_factory.mktemp("hosts") / "tiny_gpt2")
