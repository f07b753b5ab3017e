"""Places of keys. A host with rotary positions rotates queries and keys after projection; a donor's key is rotated for
the place that it is to stand at. Hosts that add positions to their tokens have them in the keys already."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor


class Rotary(Protocol):
    """Rotations of one call, in the order norm, then rotation."""

    def own(self, x: Tensor) -> Tensor:
        """Rotate (..., heads, tokens, width), the whole sequence, each token for its own place."""

    def at(self, x: Tensor, tokens: Tensor) -> Tensor:
        """Rotate (heads, n, width) for the places of image tokens `tokens` (n,)."""

    def moved(self, x: Tensor, tokens: Tensor, offset: tuple[int, int], frame: int) -> Tensor:
        """Rotate (heads, n, width) for the places of image tokens, moved by rows and columns, in another frame."""


class Fixed:
    """Of hosts whose tokens hold their places: nothing is rotated."""

    def own(self, x: Tensor) -> Tensor:
        return x

    def at(self, x: Tensor, tokens: Tensor) -> Tensor:
        return x

    def moved(self, x: Tensor, tokens: Tensor, offset: tuple[int, int], frame: int) -> Tensor:
        return x


Table = tuple[Tensor, Tensor]
"""(cosines, sines), each (tokens, width)"""


@dataclass(frozen=True)
class Tables:
    """Rotations by tables of pairs of neighbouring channels (FLUX). `rotate`: the host's own function of (batch, heads,
    tokens, width) and a table. `places`: (image tokens, 3) of the host; `table_of` makes a table of places."""

    table: Table
    image: slice
    rotate: Callable[[Tensor, Table], Tensor]
    places: Tensor
    table_of: Callable[[Tensor], Table]

    def own(self, x: Tensor) -> Tensor:
        return self.rotate(x, self.table)

    def at(self, x: Tensor, tokens: Tensor) -> Tensor:
        rows = tokens + self.image.start
        return self.rotate(x[None], (self.table[0][rows], self.table[1][rows]))[0]

    def moved(self, x: Tensor, tokens: Tensor, offset: tuple[int, int], frame: int) -> Tensor:
        shift = torch.tensor([frame, *offset], device=self.places.device, dtype=self.places.dtype)
        return self.rotate(x[None], self.table_of(self.places[tokens] + shift))[0]
