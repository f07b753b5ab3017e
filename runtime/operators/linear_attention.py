"""Linear attention: bidirectional in O(tokens), causal in chunks, one token at a time with a constant state.

Sums are taken in float32 at least, under autocast too. Values get a column of ones, so that one product yields
numerator and denominator.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear, pad

from archspec.host.structure import SiteShape
from archspec.operators.linear_attention import LinearAttention as Signature
from archspec.runtime.operators import memory
from archspec.runtime.operators.base import EMPTY, Context
from archspec.runtime.operators.heads import Heads, State, merge, reference_heads
from archspec.runtime.operators.scores import key_weights, spread

CHUNK = 64
EPSILON = 1e-6


class LinearAttention(Heads):
    """Weights φ(q)·φ(k) in place of exp(q·k)."""

    signature = Signature
    config: Signature

    def features(self, x: Tensor, context: Context = EMPTY) -> Tensor:
        q, k, v = self.project(x, context)
        with _no_autocast(x.device.type):
            return merge(self._average(q, k, v, context)).to(x.dtype)

    def _average(self, q: Tensor, k: Tensor, v: Tensor, context: Context) -> Tensor:
        """Return the weighted means of values, (batch, heads, tokens, head_dim), in float32 at least."""
        wide = torch.promote_types(v.dtype, torch.float32)
        q, k = (feature(part.to(wide), self.config.feature) for part in (q, k))
        present = key_weights(context, k.shape[2])
        k = k if present is None else k * present[..., None]
        k, v = (spread(part, q.shape[1] // part.shape[1]) for part in (k, pad(v.to(wide), (0, 1), value=1.0)))
        sums = self._causal(q, k, v, context) if self.config.causal else q @ (k.transpose(-1, -2) @ v)
        return sums[..., :-1] / (sums[..., -1:] + EPSILON)

    def _causal(self, q: Tensor, k: Tensor, v: Tensor, context: Context) -> Tensor:
        if context.cache is None:
            return causal_sums(q, k, v, None)[0]
        layer = memory.running_sum(context.cache, context.layer)
        sums, state = causal_sums(q, k, v, layer.keys if layer.is_initialized else None)
        layer.replace(state, q.shape[-2])
        return sums

    @staticmethod
    def reference(x: Tensor, state: State, config: Any, shape: SiteShape, context: Context) -> Tensor:
        q, k, v = reference_heads(x, state, config, context)
        q, k = feature(q, config.feature), feature(k, config.feature)
        present = key_weights(context, x.shape[1])
        k = k if present is None else k * present[..., None]
        rows = []
        for i in range(x.shape[1]):
            last = i + 1 if config.causal else x.shape[1]
            weights = torch.einsum("bhd,bhjd->bhj", q[:, :, i], k[:, :, :last])
            row = torch.einsum("bhj,bhjd->bhd", weights, v[:, :, :last])
            rows.append(row / (weights.sum(-1, keepdim=True) + EPSILON))
        return linear(merge(torch.stack(rows, 2)), state["readout.weight"], state.get("readout.bias"))


def _no_autocast(device: str) -> AbstractContextManager[object]:
    return torch.autocast(device, enabled=False) if torch.amp.is_autocast_available(device) else nullcontext()


def feature(x: Tensor, name: str) -> Tensor:
    """Return φ(x), nowhere negative; elu(x) + 1 is written so that it does not lose the digits of a small exp(x)."""
    return x.relu() + x.clamp(max=0).exp() if name == "elu1" else x.relu()


def causal_sums(q: Tensor, k: Tensor, v: Tensor, state: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return Σ_{j<=i} (q_i·k_j) v_j for every i, and the state Σ_j k_j v_jᵀ after the last one.

    q, k (batch, heads, tokens, features), v (batch, heads, tokens, values), state (batch, heads, features, values).
    Within a chunk the sum is a masked product; what came before enters as a state per chunk.
    """
    tokens = q.shape[-2]
    size = min(CHUNK, tokens)
    fill = -tokens % size
    q, k, v = (torch.unflatten(pad(part, (0, 0, 0, fill)), 2, (-1, size)) for part in (q, k, v))
    own = k.transpose(-1, -2) @ v
    ends = own.cumsum(2)
    if state is not None:
        ends = ends + state[:, :, None]
    sums = (q @ k.transpose(-1, -2)).tril() @ v + q @ (ends - own)
    return sums.flatten(2, 3)[:, :, :tokens], ends[:, :, -1]
