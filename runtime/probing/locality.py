"""Band-k locality: the share of attention that falls on tokens at most k places away.

    L_k = 1/N sum_ij A_ij [|i - j| <= k],  A = softmax(Q K^T scale + mask),    mean over heads    (2506.05340, Sec. 3.4)

Places count in the order of the tokens, as the paper's do. Rows of A are made some at a time and summed at once, so
memory grows with the number of tokens, not with its square.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

ROWS = 1 << 22
"""Most entries of A, over batch and heads, that are in memory at a time (one row of each at least)."""


def band_mass(
    query: Tensor,
    key: Tensor,
    bands: Sequence[int],
    mask: Tensor | None = None,
    causal: bool = False,
    scale: float | None = None,
) -> Tensor:
    """Return (batch, bands), float32, the mass within each band.

    query (batch, heads, tokens, head_dim), key (batch, kv_heads, tokens, head_dim), as scaled dot-product attention
    takes them; `mask` additive or boolean, broadcastable to (batch, heads, tokens, tokens).
    """
    batch, heads, tokens, size = query.shape
    key = key.repeat_interleave(heads // key.shape[1], 1)
    scale = size**-0.5 if scale is None else scale
    places = torch.arange(tokens, device=query.device)
    rows = max(1, ROWS // (batch * heads * tokens))
    mass = query.new_zeros((batch, len(bands)), dtype=torch.float32)
    for start in range(0, tokens, rows):
        chosen = places[start : start + rows]
        scores = (query[:, :, chosen].float() @ key.float().transpose(2, 3)) * scale
        weights = _masked(scores, mask, chosen, places, causal).softmax(-1).nan_to_num_(0.0)
        far = (chosen[:, None] - places).abs()
        for number, band in enumerate(bands):
            mass[:, number] += (weights * (far <= band)).sum((1, 2, 3))
    return mass / (heads * tokens)


def _masked(scores: Tensor, mask: Tensor | None, rows: Tensor, places: Tensor, causal: bool) -> Tensor:
    if causal:
        scores = scores.masked_fill(rows[:, None] < places, -torch.inf)
    if mask is None:
        return scores
    mask = mask[..., rows, :] if mask.shape[-2] > 1 else mask
    return scores.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else scores + mask.float()
