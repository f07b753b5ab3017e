"""Balanced k-means: equal groups of rows that lie close together (MoEfication, arXiv 2110.01786, Sec. 3.2)."""

from __future__ import annotations

import torch
from torch import Tensor

ROUNDS = 20


@torch.no_grad()
def balanced_groups(rows: Tensor, groups: int) -> Tensor:
    """Return (groups, rows / groups) indices: the members of each group, ascending.

    Lloyd's rounds from centres that are far from one another, each with equal shares (see `equal_shares`), until no
    row moves or `ROUNDS` are over. It draws nothing: the same rows give the same groups.
    """
    points = rows.detach().to("cpu", torch.float32)
    share = len(points) // groups
    centres = points[_spread(points, groups)]
    owner = torch.full((len(points),), -1)
    for _ in range(ROUNDS):
        new = equal_shares(torch.cdist(points, centres), share)
        if torch.equal(new, owner):
            break
        owner = new
        centres = torch.zeros_like(centres).index_add_(0, owner, points) / share
    return torch.argsort(owner, stable=True).view(groups, share)


def equal_shares(distances: Tensor, share: int) -> Tensor:
    """Return the group of each row, `share` rows to each; distances (rows, groups).

    Nearest pairs first: what one gets by going through all pairs in order of distance, found in rounds: each row asks
    the nearest group that has not refused it, and a group keeps the nearest `share` of those that ask.

    >>> equal_shares(torch.tensor([[0.0, 9.0], [1.0, 2.0], [2.0, 4.0], [3.0, 9.0]]), 2).tolist()
    [0, 0, 1, 1]
    """
    open_ = distances.clone()
    while True:
        near = open_.min(1)
        order = torch.argsort(near.values, stable=True)
        order = order[torch.argsort(near.indices[order], stable=True)]
        asked = near.indices[order]
        first = torch.searchsorted(asked, asked)
        refused = order[torch.arange(len(order)) - first >= share]
        if len(refused) == 0:
            return near.indices
        open_[refused, near.indices[refused]] = float("inf")


def _spread(points: Tensor, count: int) -> Tensor:
    """Return the indices of points each of which is the farthest from those before it, from the one nearest to the
    mean on."""
    chosen = [int((points - points.mean(0)).square().sum(1).argmin())]
    nearest = torch.full((len(points),), float("inf"))
    for _ in range(count - 1):
        nearest = torch.minimum(nearest, (points - points[chosen[-1]]).square().sum(1))
        chosen.append(int(nearest.argmax()))
    return torch.tensor(chosen)
