"""diffusers' DiTTransformer2DModel: class-conditional, adaLN-Zero (arXiv 2212.09748)."""

from __future__ import annotations

from archspec.runtime.families.base import Example, Family, Objective, Request


class DiT(Family):
    name = "dit"
    objective: Objective = "epsilon"

    def inputs(self, request: Request) -> Example:
        """Noised latents (batch, channels, side, side), times in 0..999 and class labels."""
        labels = request.config.num_embeds_ada_norm
        return {
            "hidden_states": request.latents(),
            "timestep": request.times(),
            "class_labels": request.draw.integers(labels, request.batch),
        }
