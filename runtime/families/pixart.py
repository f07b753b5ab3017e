"""diffusers' PixArtTransformer2DModel: text to image, adaLN-single (arXiv 2310.00426, 2403.04692)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from archspec.runtime.families.base import Draw, Example, Objective, side_of

CAPTION_TOKENS = 120
"""PixArt-α's caption length; Σ takes up to 300, and no config says which."""


class PixArt:
    name = "pixart"
    objective: Objective = "epsilon"

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
        """Noised latents (batch, channels, side, side), captions (batch, 120, caption width) with their mask, times."""
        draw = Draw(device, dtype, seed)
        own: Any = module.config
        side = side_of(tokens, own.sample_size, own.patch_size)
        width = own.caption_channels or own.cross_attention_dim
        sized = bool(module.use_additional_conditions)
        return {
            "hidden_states": draw.normal(batch, own.in_channels, side, side),
            "encoder_hidden_states": draw.normal(batch, CAPTION_TOKENS, width),
            "timestep": draw.integers(1000, batch),
            "added_cond_kwargs": {
                "resolution": draw.ones(batch, 2) * 8 * own.sample_size if sized else None,
                "aspect_ratio": draw.ones(batch, 1) if sized else None,
            },
            "encoder_attention_mask": draw.ones(batch, CAPTION_TOKENS),
        }
