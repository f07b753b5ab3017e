"""How FLUX takes a sample: not as a raster of channels but as tokens, each a patch of 2 x 2, with the places of all."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from archspec.diagnostics import fail

GUIDANCE = 3.5
"""What a host that is told its guidance (FLUX.1 dev) learns at: the default of its pipeline."""


@dataclass(frozen=True)
class Packing:
    """FLUX's form of a sample: its patches of 2 x 2 as tokens, with their places and those of the text's tokens, and
    times in 0..1. `channels`: of a token. `guided`: the host is told its guidance."""

    channels: int
    guided: bool = False

    def pack(self, x: Tensor) -> Tensor:
        """(batch, channels, rows, columns) -> (batch, rows / 2 * columns / 2, 4 * channels)"""
        _, channels, rows, columns = x.shape
        if rows % 2 or columns % 2 or 4 * channels != self.channels:
            wanted = f"{self.channels // 4} channels and even sides"
            raise fail("AS707", f"the data holds latents of shape {tuple(x.shape[1:])}, the host takes {wanted}")
        patches = torch.unflatten(torch.unflatten(x, 3, (-1, 2)), 2, (-1, 2))
        return patches.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)

    def unpack(self, tokens: Tensor, rows: int) -> Tensor:
        """What `pack` made of samples of 2 `rows` rows, back."""
        patches = torch.unflatten(torch.unflatten(tokens, 2, (-1, 2, 2)), 1, (rows, -1))
        return patches.permute(0, 3, 1, 4, 2, 5).flatten(4).flatten(2, 3)

    def keywords(
        self, x: Tensor, t: Tensor, condition: Mapping[str, Any], guidance: float = GUIDANCE
    ) -> dict[str, Any]:
        """Return the host's inputs of noised samples at times `t` (batch,)."""
        where = places(x.shape[2] // 2, x.shape[3] // 2).to(x)
        text = x.new_zeros(condition["encoder_hidden_states"].shape[1], 3)
        told = {"guidance": x.new_full((len(x),), guidance)} if self.guided else {}
        return {"hidden_states": self.pack(x), "timestep": t, "img_ids": where, "txt_ids": text, **told, **condition}


def places(rows: int, columns: int) -> Tensor:
    """Return (rows * columns, 3): zero, row and column of each token of a raster."""
    row, column = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    return torch.stack([torch.zeros_like(row), row, column], dim=-1).flatten(0, 1).float()
