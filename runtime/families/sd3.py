"""diffusers' SD3Transformer2DModel: text to image by rectified flow, blocks of two streams (arXiv 2403.03206)."""

from __future__ import annotations

from archspec.runtime.families.base import Example, Family, Objective, Request

CONTEXT_TOKENS = 333
"""Length of SD3's context in its pipeline: 77 tokens of CLIP and 256 of T5; no config says it."""


class SD3(Family):
    name = "sd3"
    objective: Objective = "flow"

    def inputs(self, request: Request) -> Example:
        """Noised latents (batch, channels, side, side), texts (batch, 333, width) and as one vector each, times."""
        own, batch, draw = request.config, request.batch, request.draw
        return {
            "hidden_states": request.latents(),
            "encoder_hidden_states": draw.normal(batch, CONTEXT_TOKENS, own.joint_attention_dim),
            "pooled_projections": draw.normal(batch, own.pooled_projection_dim),
            "timestep": request.times(),
        }
