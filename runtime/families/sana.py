"""diffusers' SanaTransformer2DModel: text to image, rectified flow, linear attention (arXiv 2410.10629)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from archspec.runtime.families.base import Draw, Example, Objective, side_of

CAPTION_TOKENS = 300
"""SANA's caption length; no config says it."""


class Sana:
    name = "sana"
    objective: Objective = "flow"

    def example(
        self,
        module: nn.Module,
        config: Mapping[str, Any],
        batch: int = 1,
        tokens: int | None = None,
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.float32,
        seed: int = 0,
    ) -> Example:
        """Noised latents (batch, channels, side, side), captions (batch, 300, caption width) with their mask, times."""
        draw = Draw(device, dtype, seed)
        own: Any = module.config
        side = side_of(tokens, own.sample_size, own.patch_size)
        return {
            "hidden_states": draw.normal(batch, own.in_channels, side, side),
            "encoder_hidden_states": draw.normal(batch, CAPTION_TOKENS, own.caption_channels),
            "timestep": draw.integers(1000, batch),
            "encoder_attention_mask": draw.ones(batch, CAPTION_TOKENS),
        }
