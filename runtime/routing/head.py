"""Scores of tasks from embeddings; what `archspec.packs.router` declares, computed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn.functional import linear, normalize

from archspec.diagnostics import fail
from archspec.packs.router import AGAIN, Kind


@dataclass(frozen=True)
class Head:
    """`center`, `spread` (width); `weight` (tasks, width); `bias` (tasks). Prototypes have no spread and no bias."""

    center: Tensor
    weight: Tensor
    spread: Tensor | None = None
    bias: Tensor | None = None

    @property
    def by(self) -> Kind:
        return "prototypes" if self.spread is None else "classifier"

    @property
    def tensors(self) -> Mapping[str, Tensor]:
        return {name: value for name, value in vars(self).items() if value is not None}

    def logits(self, embeddings: Tensor) -> Tensor:
        """Return (requests, tasks), float32: cosines of prototypes, logits of a classifier."""
        found = embeddings.float().cpu() - self.center
        if self.spread is None:
            return linear(normalize(found, dim=1), normalize(self.weight, dim=1))
        return linear(found / self.spread, self.weight, self.bias)

    def scores(self, logits: Tensor, temperature: float) -> Tensor:
        """Return what the threshold is held against: cosines as they are, probabilities of a classifier."""
        return logits if self.spread is None else torch.softmax(logits / temperature, 1)


def read_head(path: Path) -> Head:
    """Return the head in a file whose header has been read. AS688 where it holds what is no number."""
    tensors = load_file(path)
    wrong = next((name for name, value in tensors.items() if not torch.isfinite(value).all()), None)
    if wrong or ("spread" in tensors and not (tensors["spread"] > 0).all()):
        raise fail("AS688", f"'{wrong or 'spread'}' of '{path.name}' holds values that cannot be", None, AGAIN)
    return Head(**tensors)
