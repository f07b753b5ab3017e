"""transformers' ViTModel and ViTForImageClassification: encoders of images."""

from __future__ import annotations

from archspec.diagnostics import fail
from archspec.runtime.families.base import Example, Family, Objective, Request


class ViT(Family):
    name = "vit"
    objective: Objective = "classification"

    def inputs(self, request: Request) -> Example:
        """Images (batch, channels, side, side), of the host's one size."""
        own, tokens = request.config, request.tokens
        native = 1 + (own.image_size // own.patch_size) ** 2
        if tokens is not None and tokens != native:
            message = f"the host takes {native} tokens, not {tokens}"
            raise fail("AS403", message, None, "leave out the number of tokens")
        shape = (request.batch, own.num_channels, own.image_size, own.image_size)
        return {"pixel_values": request.draw.normal(*shape)}
