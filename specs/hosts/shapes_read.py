"""What the host of shapes must tell half way up of each token's patch, beside the flow: what is drawn in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from diffusers import FluxTransformer2DModel
from torch import Tensor, nn

from archspec.runtime.data.scenes import COLOURS, SHAPES, TEXTURES, Scene
from archspec.runtime.data.shapes import Pictures

PATCH, AFTER = 4, 0
"""PATCH: pixels of a token's side. AFTER: the single block whose features are read."""
KINDS: Sequence[tuple[str, Sequence[str]]] = (("shape", SHAPES), ("colour", tuple(COLOURS)), ("texture", TEXTURES))
TOLD = sum(len(names) for _, names in KINDS)


def labels(drawn: Pictures) -> Tensor:
    """Return (pictures, tokens, 16 + TOLD) of zeros and ones: which of the patch's pixels a subject covers, row by row,
    then that subject's shape, colour and texture."""
    masks = torch.from_numpy(drawn.masks).float()
    covered = nn.functional.pixel_unshuffle(masks, PATCH).unflatten(1, (masks.shape[1], PATCH**2))
    some = covered.amax(2, keepdim=True)
    told = torch.from_numpy(np.stack([_told(scene, masks.shape[1]) for scene in drawn.scenes]))
    parts = torch.cat([covered, some * told[..., None, None]], 2)
    return parts.amax(1).flatten(2).transpose(1, 2)


def _told(scene: Scene, most: int) -> np.ndarray:
    """(subjects, TOLD)"""
    found = np.zeros((most, TOLD), np.float32)
    for row, subject in zip(found, scene.subjects, strict=False):
        said = [name == getattr(subject, kind) for kind, names in KINDS for name in names]
        row[:] = said
    return found


class Reader(nn.Module):
    """A host and a linear map of its features: inputs -> (what the host gives, (batch, tokens, 16 + TOLD) logits)."""

    def __init__(self, host: FluxTransformer2DModel) -> None:
        super().__init__()
        self.host = host
        self.map = nn.Sequential(nn.LayerNorm(host.inner_dim), nn.Linear(host.inner_dim, PATCH**2 + TOLD))

    def forward(self, inputs: Mapping[str, Any]) -> tuple[Any, Tensor]:
        seen: list[Tensor] = []
        block = self.host.single_transformer_blocks[AFTER]
        hook = block.register_forward_hook(lambda _, __, features: seen.append(features[1]))
        try:
            return self.host(**inputs), self.map(seen[0])
        finally:
            hook.remove()
