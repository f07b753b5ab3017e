"""diffusers' SanaTransformer2DModel: text to image, rectified flow, linear attention (arXiv 2410.10629)."""

from __future__ import annotations

from archspec.runtime.families.base import Example, Family, Objective, Request

CAPTION_TOKENS = 300
"""SANA's caption length; no config says it."""


class Sana(Family):
    name = "sana"
    objective: Objective = "flow"

    def inputs(self, request: Request) -> Example:
        """Noised latents (batch, channels, side, side), captions (batch, 300, caption width) with their mask, times."""
        batch, draw = request.batch, request.draw
        return {
            "hidden_states": request.latents(),
            "encoder_hidden_states": draw.normal(batch, CAPTION_TOKENS, request.config.caption_channels),
            "timestep": request.times(),
            "encoder_attention_mask": draw.ones(batch, CAPTION_TOKENS),
        }
