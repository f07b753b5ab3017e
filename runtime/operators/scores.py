"""Softmax attention over heads: masks, rotary embeddings and the call of torch's fused kernel.

Queries are (batch, heads, queries, head_dim); keys and values (batch, kv_heads, keys, head_dim). The queries are the
*last* of the keys: query i stands at key position i + keys - queries.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from archspec.runtime.operators.base import Context


def rotate(x: Tensor, cos: Tensor, sin: Tensor, interleaved: bool = False) -> Tensor:
    """Turn pairs of features by the token's angle (Su et al. 2021, arXiv 2104.09864): i and i + head_dim / 2, or
    (interleaved) 2i and 2i + 1.

    x (batch, heads, tokens, head_dim); cos and sin (batch or 1, tokens, head_dim).
    """
    if interleaved:
        first, second = torch.unflatten(x, -1, (-1, 2)).unbind(-1)
        turned = torch.stack((-second, first), dim=-1).flatten(-2)
    else:
        first, second = x.chunk(2, dim=-1)
        turned = torch.cat((-second, first), dim=-1)
    return (x * cos.unsqueeze(1) + turned * sin.unsqueeze(1)).to(x.dtype)


def four_dims(mask: Tensor) -> Tensor:
    """Return a host's mask as (batch, 1 or heads, 1 or queries, keys), boolean (True: seen) or additive.

    (batch, keys) is a padding mask; (batch, 1 or queries, keys) diffusers' form. Integers count as booleans.
    """
    if not mask.is_floating_point():
        mask = mask.bool()
    if mask.dim() == 2:
        return mask[:, None, None, :]
    return mask[:, None] if mask.dim() == 3 else mask


def key_weights(context: Context, tokens: int) -> Tensor | None:
    """Return what the host's mask multiplies the weight of each new token's key by, (batch, 1 or heads, tokens).

    The last query of a causal mask sees every key that is not padding, so its row is the mask of the keys; an
    additive mask multiplies weights by its exponential.
    """
    if context.mask is None:
        return None
    seen = int(context.cache.get_seq_length(context.layer)) if context.cache is not None else 0
    last = four_dims(context.mask)[..., -1, seen : seen + tokens]
    return last.exp() if last.is_floating_point() else last


def narrow(mask: Tensor, allowed: Tensor) -> Tensor:
    """Return the mask that lets through what both let through; `allowed` is boolean."""
    return mask.masked_fill(~allowed, float("-inf")) if mask.is_floating_point() else mask & allowed


def band(queries: int, keys: int, left: int, right: int, device: torch.device) -> Tensor:
    """Return (queries, keys) booleans: key j is from `left` before to `right` after the query's own position."""
    key, query = torch.arange(keys, device=device), torch.arange(keys - queries, keys, device=device)[:, None]
    return (key >= query - left) & (key <= query + right)


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, causal: bool) -> Tensor:
    """Return softmax(q kᵀ / √head_dim) v, (batch, heads, queries, head_dim). `mask` is of four dimensions.

    A mask with a row per query has been composed by the host and says itself who sees whom.
    """
    queries, keys = q.shape[-2], k.shape[-2]
    causal = causal and queries > 1
    if causal and mask is not None:
        if mask.shape[-2] == 1:
            mask = narrow(mask, band(queries, keys, keys, 0, q.device))
    elif causal and keys != queries:
        mask = band(queries, keys, keys, 0, q.device)
    return fused(q, k, v, mask, causal and mask is None)


def fused(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, causal: bool = False) -> Tensor:
    """Call the fused kernel. Grouped heads stay grouped where the fast kernels know them (CUDA, no mask)."""
    if mask is not None and mask.is_floating_point():
        mask = mask.to(q.dtype)
    groups = q.shape[1] // k.shape[1]
    native = groups > 1 and q.is_cuda and mask is None
    if groups > 1 and not native:
        k, v = spread(k, groups), spread(v, groups)
    return scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal, enable_gqa=native)


def spread(x: Tensor, groups: int) -> Tensor:
    """Repeat every key/value head for its `groups` query heads."""
    return x if groups == 1 else x.repeat_interleave(groups, dim=1)
