"""diffusers' PixArtTransformer2DModel: text to image, adaLN-single (arXiv 2310.00426, 2403.04692)."""

from __future__ import annotations

from archspec.runtime.families.base import Example, Family, Objective, Request

CAPTION_TOKENS = 120
"""PixArt-α's caption length; Σ takes up to 300, and no config says which."""


class PixArt(Family):
    name = "pixart"
    objective: Objective = "epsilon"

    def inputs(self, request: Request) -> Example:
        """Noised latents (batch, channels, side, side), captions (batch, 120, caption width) with their mask, times."""
        own, batch, draw = request.config, request.batch, request.draw
        width = own.caption_channels or own.cross_attention_dim
        sized = bool(request.module.use_additional_conditions)
        return {
            "hidden_states": request.latents(),
            "encoder_hidden_states": draw.normal(batch, CAPTION_TOKENS, width),
            "timestep": request.times(),
            "added_cond_kwargs": {
                "resolution": draw.ones(batch, 2) * 8 * own.sample_size if sized else None,
                "aspect_ratio": draw.ones(batch, 1) if sized else None,
            },
            "encoder_attention_mask": draw.ones(batch, CAPTION_TOKENS),
        }
