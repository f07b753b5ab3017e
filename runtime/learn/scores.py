"""Which neurons of an MLP to keep when no data is at hand: those of the largest weights. With data, see `neurons`."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


def norm_scores(teacher: Mapping[str, Tensor]) -> Tensor:
    """Return (hidden,) strengths from weights alone: |up_i| |down_i|, and |gate_i| where there is a gate."""
    scores = _norm(teacher["up.weight"], 1) * _norm(teacher["down.weight"], 0)
    return scores * _norm(teacher["gate.weight"], 1) if "gate.weight" in teacher else scores


def select_neurons(scores: Tensor, hidden: int) -> Tensor:
    """Return the indices of the `hidden` strongest neurons (all, if there are fewer), ascending; ties go to the first.

    >>> select_neurons(torch.tensor([1.0, 3.0, 3.0, 2.0]), 2)
    tensor([1, 2])
    """
    order = torch.argsort(scores, descending=True, stable=True)
    return order[:hidden].sort().values


def _norm(weight: Tensor, dim: int) -> Tensor:
    """Return the norms along one dimension, in float64 where the device has it."""
    wide = torch.float32 if weight.device.type == "mps" else torch.float64
    norms: Tensor = torch.linalg.vector_norm(weight.to(wide), dim=dim)
    return norms
