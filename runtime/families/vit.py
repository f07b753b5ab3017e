"""transformers' ViTModel and ViTForImageClassification: encoders of images."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from archspec.diagnostics import fail
from archspec.runtime.families.base import Draw, Example, Objective


class ViT:
    name = "vit"
    objective: Objective = "classification"

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
        """Images (batch, channels, side, side), of the host's one size."""
        own: Any = module.config
        native = 1 + (own.image_size // own.patch_size) ** 2
        if tokens is not None and tokens != native:
            message = f"the host takes {native} tokens, not {tokens}"
            raise fail("AS403", message, None, "leave out the number of tokens")
        shape = (batch, own.num_channels, own.image_size, own.image_size)
        return {"pixel_values": Draw(device, dtype, seed).normal(*shape)}
