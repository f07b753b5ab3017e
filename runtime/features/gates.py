"""Which of a donor's tokens are taken: the donor's mask and dropout. A mask that is passed in is never written to."""

from __future__ import annotations

import torch
from torch import Tensor

from archspec.injection import Gate
from archspec.runtime.learn.draws import generator


def kept(gate: Gate, count: int, time: float, seed: int, words: tuple[int | str, ...], mask: Tensor | None) -> Tensor:
    """Return (count,) bool on the CPU. `words`: what a draw of dropout is for, beside its scope."""
    keep = torch.ones(count, dtype=torch.bool) if mask is None or not gate.donor_mask else mask.clone()
    chance = gate.dropout * (time if gate.law == "time" else 1.0)
    if chance > 0:
        keep &= torch.rand(count, generator=generator(seed, "dropout", *words)) >= chance
    return keep
