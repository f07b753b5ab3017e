"""Attention with donors' keys: what the queries of one sample see, and what comes out.

Shapes: queries, keys and values (heads, tokens, head width); a host's mask broadcasts to (heads, queries, keys). All
softmaxes are torch's own kernel: queries that see the same keys are attended together, so there is no matrix of
tokens x tokens, and a key that nothing may see is not there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class Keys:
    """Keys and values of donors for one sample. `queries` (tokens,) bool: those that see them. `replaces`: these see
    them in place of the sample's own image tokens."""

    k: Tensor
    v: Tensor
    queries: Tensor
    strength: float = 0.0
    weight: float = 1.0
    replaces: bool = False


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, scale: float | None = None) -> Tensor:
    """Return torch's attention; grouped heads where keys have fewer."""
    grouped = q.shape[-3] != k.shape[-3]
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scale, enable_gqa=grouped)


def attend_grafted(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    keys: Sequence[Keys],
    image: slice,
    mask: Tensor | None = None,
    scale: float | None = None,
) -> Tensor:
    """Return (heads, tokens, head width). With equal keys n times over, this is plain attention with ln(1 + n) added to
    their logits."""
    seen = torch.zeros(q.shape[-2], dtype=torch.long, device=q.device)
    for number, one in enumerate(keys):
        seen |= one.queries.long() << number
    out = torch.empty(*q.shape[:-1], v.shape[-1], dtype=q.dtype, device=q.device)
    for code in set(seen.tolist()):
        rows = (seen == code).nonzero()[:, 0]
        chosen = [one for number, one in enumerate(keys) if code >> number & 1]
        own = None if mask is None else mask.expand(q.shape[0], q.shape[1], k.shape[1])[:, rows]
        out[:, rows] = _group(q[:, rows], k, v, chosen, image, own, scale)
    return out


def _group(
    q: Tensor, k: Tensor, v: Tensor, keys: list[Keys], image: slice, mask: Tensor | None, scale: float | None
) -> Tensor:
    """Attend with queries that see the same donors. Those of weight 1 are always seen; each other one then mixes the
    output that it would lead to with the one without it."""
    if any(one.replaces and one.weight == 1 for one in keys):
        k, v, mask = _without(k, v, mask, image)
    whole = [one for one in keys if one.weight == 1]
    out = _joined(q, k, v, whole, mask, scale)
    for one in keys:
        if one.weight != 1:
            own = _without(k, v, mask, image) if one.replaces else (k, v, mask)
            out = torch.lerp(out, _joined(q, own[0], own[1], [*whole, one], own[2], scale), one.weight)
    return out


def _without(k: Tensor, v: Tensor, mask: Tensor | None, image: slice) -> tuple[Tensor, Tensor, Tensor | None]:
    """Leave out the sample's own image tokens."""
    rest = torch.ones(k.shape[1], dtype=torch.bool, device=k.device)
    rest[image] = False
    return k[:, rest], v[:, rest], None if mask is None else mask[..., rest]


def _joined(q: Tensor, k: Tensor, v: Tensor, keys: list[Keys], mask: Tensor | None, scale: float | None) -> Tensor:
    if not keys:
        return attend(q[None], k[None], v[None], None if mask is None else mask[None], scale)[0]
    bias = _bias(q, k.shape[1], keys, mask)
    k = torch.cat([k, *(one.k for one in keys)], dim=1)
    v = torch.cat([v, *(one.v for one in keys)], dim=1)
    return attend(q[None], k[None], v[None], bias, scale)[0]


def _bias(q: Tensor, own: int, keys: list[Keys], mask: Tensor | None) -> Tensor | None:
    """(1, heads or 1, queries or 1, keys) what is added to logits; None where that is nothing."""
    if mask is None and not any(one.strength for one in keys):
        return None
    added = [q.new_full((one.k.shape[1],), one.strength) for one in keys]
    if mask is None:
        return torch.cat([q.new_zeros(own), *added])[None, None, None]
    if mask.dtype == torch.bool:
        mask = torch.zeros_like(mask, dtype=q.dtype).masked_fill(~mask, -torch.inf)
    wide = torch.cat(added).expand(*mask.shape[:-1], -1)
    return torch.cat([mask.to(q), wide], dim=-1)[None]


def adapted(x: Tensor, donor: Tensor, weight: float = 1.0, eps: float = 1e-5) -> Tensor:
    """Return tokens (heads, n, head width) with mean and deviation of the donor's (heads, m, head width), per head and
    channel: AdaIN, as StyleAligned (https://arxiv.org/abs/2312.02133, Eq. 4) applies it to queries and keys."""
    mean, scale = x.mean(dim=1, keepdim=True), (x.var(dim=1, keepdim=True, correction=0) + eps).sqrt()
    like, wide = donor.mean(dim=1, keepdim=True), (donor.var(dim=1, keepdim=True, correction=0) + eps).sqrt()
    return torch.lerp(x, (x - mean) / scale * wide + like, weight)
