"""diffusers' FluxTransformer2DModel: text to image by rectified flow; the patches of a sample come as tokens with their
places (FLUX.1)."""

from __future__ import annotations

from archspec.families.flux import GRID
from archspec.runtime.families.base import Example, Family, Objective, Request, side_of
from archspec.runtime.packing import places

ROWS, COLUMNS = GRID
CONTEXT_TOKENS = 512
"""Length of FLUX's context in its pipeline."""


class Flux(Family):
    name = "flux"
    objective: Objective = "flow"

    def inputs(self, request: Request) -> Example:
        """Noised patches (batch, tokens, channels) of a square and texts (batch, 512, width) with their places (tokens,
        3), texts as one vector each, times in 0..1, and the guidance of a host that is told it."""
        own, batch, draw = request.config, request.batch, request.draw
        side = side_of(request.tokens or ROWS * COLUMNS, 0, 1)
        told = {"guidance": draw.ones(batch)} if own.guidance_embeds else {}
        return {
            "hidden_states": draw.normal(batch, side * side, own.in_channels),
            "encoder_hidden_states": draw.normal(batch, CONTEXT_TOKENS, own.joint_attention_dim),
            "pooled_projections": draw.normal(batch, own.pooled_projection_dim),
            "timestep": request.times().to(draw.dtype) / 1000,
            "img_ids": places(side, side).to(draw.device, draw.dtype),
            "txt_ids": 0 * draw.ones(CONTEXT_TOKENS, 3),
            **told,
        }
