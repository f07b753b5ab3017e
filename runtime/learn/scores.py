"""Which neurons of an MLP to keep: pure functions on weights and on sums of activations.

Strength can be judged without data (norms of weights), with the spread of activations, or greedily by how much of the
output's energy a set of neurons explains when the read-out is refitted to it. The last is orthogonal matching pursuit
on Gram matrices, with the deflations of a pivoted Cholesky factorisation.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


def norm_scores(teacher: Mapping[str, Tensor]) -> Tensor:
    """Return (hidden,) strengths from weights alone: |up_i| |down_i|, and |gate_i| where there is a gate."""
    scores = _norm(teacher["up.weight"], 1) * _norm(teacher["down.weight"], 0)
    return scores * _norm(teacher["gate.weight"], 1) if "gate.weight" in teacher else scores


def spread_scores(variance: Tensor, down: Tensor) -> Tensor:
    """Return (hidden,) strengths: standard deviation of each activation times the norm of its outgoing weights.

    `variance` (hidden,) is that of the activations, `down` (width, hidden) the read-out.
    """
    return variance.clamp(min=0).sqrt() * _norm(down, 0).to(variance.device)


def select_neurons(scores: Tensor, hidden: int) -> Tensor:
    """Return the indices of the `hidden` strongest neurons (all, if there are fewer), ascending; ties go to the first.

    >>> select_neurons(torch.tensor([1.0, 3.0, 3.0, 2.0]), 2)
    tensor([1, 2])
    """
    order = torch.argsort(scores, descending=True, stable=True)
    return order[:hidden].sort().values


@torch.no_grad()
def greedy_neurons(gram: Tensor, cross: Tensor, hidden: int) -> Tensor:
    """Return the indices, ascending, of `hidden` neurons chosen one by one, each for the output energy that it adds.

    `gram` (neurons, neurons) = Σ h hᵀ and `cross` (neurons, outputs) = Σ h yᵀ, both centred where the read-out has a
    bias. A neuron's gain, given those before it, is the energy of its remaining cross term over its remaining own.
    Costs neurons x hidden x (hidden + outputs) operations.
    """
    count = min(hidden, len(gram))
    own, rest = gram.diagonal().clone(), cross.clone()
    floor = own.max() * len(gram) * torch.finfo(gram.dtype).eps
    factor = gram.new_zeros(len(gram), count)
    taken = torch.zeros(len(gram), dtype=torch.bool, device=gram.device)
    for step in range(count):
        gain = rest.square().sum(1) / own.clamp(min=floor)
        gain = torch.where(own > floor, gain, torch.zeros_like(gain)).masked_fill(taken, -1.0)
        best = gain.argmax()
        taken[best] = True
        if own[best] <= floor:
            continue
        column = (gram[:, best] - factor[:, :step] @ factor[best, :step]) / own[best].sqrt()
        rest = rest - torch.outer(column, rest[best] / own[best].sqrt())
        own = (own - column.square()).clamp(min=0)
        factor[:, step] = column
    return taken.nonzero().flatten()


def _norm(weight: Tensor, dim: int) -> Tensor:
    """Return the norms along one dimension, in float64 where the device has it."""
    wide = torch.float32 if weight.device.type == "mps" else torch.float64
    norms: Tensor = torch.linalg.vector_norm(weight.to(wide), dim=dim)
    return norms
