"""diffusers' DiTTransformer2DModel: class-conditional, adaLN-Zero (arXiv 2212.09748)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from archspec.runtime.families.base import Draw, Example, Objective, side_of


class DiT:
    name = "dit"
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
        """Noised latents (batch, channels, side, side), times in 0..999 and class labels."""
        draw = Draw(device, dtype, seed)
        own: Any = module.config
        side = side_of(tokens, own.sample_size, own.patch_size)
        return {
            "hidden_states": draw.normal(batch, own.in_channels, side, side),
            "timestep": draw.integers(1000, batch),
            "class_labels": draw.integers(own.num_embeds_ada_norm, batch),
        }
