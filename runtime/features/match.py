"""Semantic matching: which token of the target each token of a donor stands for.

One product of normalized features, in float32 and by chunks of donor tokens, gives both directions: the best target of
every donor token, and, kept up from chunk to chunk, the best donor token of every target. Memory is linear in tokens.
Grids are of any shape: places are integers, rows and columns, never coordinates that must be rounded.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from archspec.injection import Match

Grid = tuple[int, int]
"""(rows, columns)"""


@dataclass(frozen=True)
class Pairs:
    """Of n donor tokens and m target tokens: `target` (n,) and `similarity` (n,) of each donor token's match, `donor`
    (m,) and `reverse` (m,) of each target token's. Tokens that were no candidates have similarity -inf."""

    target: Tensor
    similarity: Tensor
    donor: Tensor
    reverse: Tensor

    @property
    def back(self) -> Tensor:
        """(n,) the donor token that a donor token's match is matched with."""
        return self.donor[self.target]


def pair(
    donor: Tensor,
    target: Tensor,
    chunk: int = 1024,
    donors: Tensor | None = None,
    targets: Tensor | None = None,
) -> Pairs:
    """Match features (n, width) with (m, width) by cosine. `donors` (n,) and `targets` (m,): the candidates, bool. Of
    equals the first wins."""
    a, b = F.normalize(donor.float(), dim=-1), F.normalize(target.float(), dim=-1)
    best = a.new_full((len(b),), -torch.inf)
    owner = torch.zeros(len(b), dtype=torch.long, device=a.device)
    found, similarity = [], []
    for start in range(0, len(a), chunk):
        cosines = a[start : start + chunk] @ b.T
        if targets is not None:
            cosines.masked_fill_(~targets, -torch.inf)
        if donors is not None:
            cosines.masked_fill_(~donors[start : start + chunk, None], -torch.inf)
        values, indices = cosines.max(dim=1)
        found.append(indices)
        similarity.append(values)
        values, indices = cosines.max(dim=0)
        better = values > best
        best = torch.where(better, values, best)
        owner = torch.where(better, indices + start, owner)
    return Pairs(torch.cat(found), torch.cat(similarity), owner, best)


def accepted(pairs: Pairs, match: Match, grid: Grid) -> Tensor:
    """Return (n,) bool: the donor tokens whose match passes threshold, cycle and mutual filter; `grid`: the donor's."""
    keep = pairs.similarity > (-torch.inf if match.threshold is None else match.threshold)
    if match.mutual:
        keep &= pairs.back == torch.arange(len(keep), device=keep.device)
    if match.cycle is not None:
        keep &= distance(pairs.back, grid, match.unit) <= match.cycle
    return keep


def distance(back: Tensor, grid: Grid, unit: str = "token") -> Tensor:
    """Return (n,) Euclidean distances between each token of a grid and token `back[i]`, float32."""
    own = torch.arange(len(back), device=back.device)
    rows, columns = grid
    down = (own // columns - back // columns).float()
    across = (own % columns - back % columns).float()
    if unit == "normalised":
        down, across = 2 * down / rows, 2 * across / columns
    return torch.hypot(down, across)


def owners(pairs: list[Pairs]) -> list[Tensor]:
    """Of several donors, return for each (n,) bool: the tokens whose match is most like this donor of all. Of equals
    the first wins."""
    best = torch.stack([one.reverse for one in pairs]).argmax(dim=0)
    return [best[one.target] == number for number, one in enumerate(pairs)]
