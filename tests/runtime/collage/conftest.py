"""Tiny detectors, segmenters and inpainting pipelines of the real classes, saved with seeded random weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from archspec.runtime.collage.masks import Mask, Pixels

LETTERS = "abcdefghijklmnopqrstuvwxyz"
TEXT: dict[str, Any] = {
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
}


def clip_tokenizer() -> Any:
    """A tokenizer of CLIP that spells every word."""
    from transformers import CLIPTokenizer

    words = ["!", "<|startoftext|>", "<|endoftext|>", *LETTERS, *(f"{letter}</w>" for letter in LETTERS)]
    numbers = {word: number for number, word in enumerate(words)}
    return CLIPTokenizer(vocab=numbers, merges=[], pad_token="!", model_max_length=16)


def clip_text() -> dict[str, Any]:
    ids = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    return TEXT | ids | {"vocab_size": len(clip_tokenizer()), "max_position_embeddings": 16}


@pytest.fixture(scope="session")
def grounding_dino(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from transformers import (
        BertConfig,
        BertTokenizer,
        GroundingDinoConfig,
        GroundingDinoForObjectDetection,
        GroundingDinoImageProcessorPil,
        GroundingDinoProcessor,
        SwinConfig,
    )

    folder = tmp_path_factory.mktemp("grounding-dino")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ".", "?", "dog", "red", "ball", "hat"]
    tokenizer = BertTokenizer(vocab={word: number for number, word in enumerate(words)})
    images = GroundingDinoImageProcessorPil(size={"shortest_edge": 64, "longest_edge": 96})
    torch.manual_seed(0)
    swin = SwinConfig(
        image_size=64, embed_dim=8, depths=[1] * 4, num_heads=[1] * 4, window_size=2, out_indices=[2, 3, 4]
    )
    sizes = {"encoder_ffn_dim": 16, "decoder_ffn_dim": 16, "encoder_n_points": 2, "decoder_n_points": 2}
    heads = {"encoder_attention_heads": 2, "decoder_attention_heads": 2, "encoder_layers": 1, "decoder_layers": 2}
    text = BertConfig(vocab_size=len(tokenizer), **TEXT)
    config = GroundingDinoConfig(backbone_config=swin, text_config=text, d_model=32, num_queries=10, **sizes, **heads)
    GroundingDinoForObjectDetection(config).save_pretrained(folder)
    GroundingDinoProcessor(images, tokenizer).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def owl(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from transformers import OwlViTConfig, OwlViTForObjectDetection, OwlViTImageProcessorPil, OwlViTProcessor

    folder = tmp_path_factory.mktemp("owl")
    vision = TEXT | {"image_size": 32, "patch_size": 8}
    torch.manual_seed(0)
    config = OwlViTConfig(text_config=clip_text(), vision_config=vision, projection_dim=16)
    OwlViTForObjectDetection(config).save_pretrained(folder)
    side = {"height": 32, "width": 32}
    OwlViTProcessor(OwlViTImageProcessorPil(size=side, crop_size=side), clip_tokenizer()).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def sam(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from transformers import SamConfig, SamImageProcessorPil, SamModel, SamProcessor

    folder = tmp_path_factory.mktemp("sam")
    grid = {"image_size": 64, "patch_size": 16}
    layers = {"num_hidden_layers": 1, "num_attention_heads": 2, "mlp_dim": 16}
    vision = grid | layers | {"hidden_size": 16, "output_channels": 8, "num_pos_feats": 4, "global_attn_indexes": [0]}
    prompts = grid | {"hidden_size": 8, "mask_input_channels": 4}
    masks = layers | {"hidden_size": 8, "iou_head_hidden_dim": 8}
    torch.manual_seed(0)
    SamModel(SamConfig(vision_config=vision, prompt_encoder_config=prompts, mask_decoder_config=masks)).save_pretrained(
        folder
    )
    images = SamImageProcessorPil(size={"longest_edge": 64}, pad_size={"height": 64, "width": 64})
    SamProcessor(images).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def stable_diffusion(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `inpaint`, a pipeline made for it, and `plain`, one that diffusers can inpaint with."""
    from diffusers import (
        AutoencoderKL,
        DDIMScheduler,
        StableDiffusionInpaintPipeline,
        StableDiffusionPipeline,
        UNet2DConditionModel,
    )
    from transformers import CLIPTextConfig, CLIPTextModel

    folder = tmp_path_factory.mktemp("stable-diffusion")
    torch.manual_seed(0)
    parts = {
        "text_encoder": CLIPTextModel(CLIPTextConfig(**clip_text())),
        "tokenizer": clip_tokenizer(),
        "vae": AutoencoderKL(
            block_out_channels=(8, 8),
            down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2,
            norm_num_groups=4,
        ),
        "scheduler": DDIMScheduler(steps_offset=1, clip_sample=False),
        "safety_checker": None,
        "feature_extractor": None,
        "requires_safety_checker": False,
    }
    for name, cls, channels in (("inpaint", StableDiffusionInpaintPipeline, 9), ("plain", StableDiffusionPipeline, 4)):
        unet = UNet2DConditionModel(
            sample_size=8,
            in_channels=channels,
            block_out_channels=(8,),
            layers_per_block=1,
            down_block_types=("CrossAttnDownBlock2D",),
            up_block_types=("CrossAttnUpBlock2D",),
            cross_attention_dim=16,
            attention_head_dim=4,
            norm_num_groups=4,
        )
        cls(unet=unet, **parts).save_pretrained(folder / name)
    return folder


@pytest.fixture
def picture() -> Pixels:
    """(60, 80, 3): noise."""
    return np.random.default_rng(0).integers(0, 256, (60, 80, 3)).astype(np.uint8)


@pytest.fixture
def letter() -> Mask:
    """(60, 80): an F, which no turn or mirror leaves as it is."""
    mask = np.zeros((60, 80), dtype=bool)
    mask[10:50, 20:30] = True
    mask[10:18, 20:50] = True
    mask[26:34, 20:42] = True
    return mask
