"""Linear attention: bidirectional in O(tokens), causal in chunks, one token at a time with a constant state.

Sums are taken in float32 at least, under autocast too. Values get a column of ones, so that one product yields
numerator and denominator. With a decay the sums are those of `scan`. While decoding, the host's cache keeps the sums,
and the values that the convolution needs again; padded tokens enter it as zeros.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid, pad, silu

from archspec.host.structure import Port, SiteShape
from archspec.operators.linear_attention import LinearAttention as Signature
from archspec.runtime.operators import memory
from archspec.runtime.operators.base import EMPTY, GATE, Context, gate_scale, grid_of, slow_map, slow_shape
from archspec.runtime.operators.filters import TokenConvolution, slow_tokens
from archspec.runtime.operators.heads import Heads, State, merge, reference_heads, sizes
from archspec.runtime.operators.scan import scan, single_precision
from archspec.runtime.operators.scores import key_weights, spread

CHUNK = 64
OPEN = 1.2784645
"""The bias of a gate beside what is inherited: its silu is 1."""


class LinearAttention(Heads):
    """Weights φ(q)·φ(k) in place of exp(q·k)."""

    signature = Signature
    config: Signature

    def __init__(self, config: Signature, shape: SiteShape, port: Port = Port(), layer: int | None = None) -> None:
        super().__init__(config, shape, port, layer)
        heads, _, size = sizes(config)
        inner = heads * size
        options: Any = {"causal": bool(config.causal), "layout": config.layout}
        self.conv = TokenConvolution(inner, config.conv, shape, **options) if config.conv else None
        self.gate = nn.Linear(shape.width, inner) if config.gate else None
        self.decay = nn.Parameter(torch.zeros(heads)) if config.decay else None

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Set the decays of RetNet, γ = 1 - 2^(-5 - head), kept as logits. Called after the parts were reset."""
        if self.decay is not None:
            exponents = torch.arange(len(self.decay), dtype=torch.float32, device=self.decay.device) + 5
            self.decay.copy_(exponents * math.log(2) + torch.log1p(-torch.exp2(-exponents)))

    def features(self, x: Tensor, context: Context = EMPTY) -> Tensor:
        q, k, v = self.project(x, context)
        present, groups = key_weights(context, k.shape[2]), q.shape[1] // k.shape[1]
        layer = memory.running_sum(context.cache, context.layer) if context.cache is not None else None
        old = (layer.keys, layer.values) if layer is not None and layer.is_initialized else (None, None)
        with single_precision(x.device.type):
            averages, state = self._average(q, k, v, present, old[0])
        y = merge(averages).to(x.dtype)
        recent = None
        if self.conv is not None:
            values = v if present is None else v * present[..., None].to(v.dtype)
            inputs = merge(spread(values, groups))
            y = y + self.conv(inputs, old[1], context.before)
            recent = None if layer is None else self.conv.recent(inputs, old[1])
        if layer is not None and state is not None:
            layer.replace(state, x.shape[1], recent)
        return y if self.gate is None else y * silu(self.map("gate", x, context))

    def _average(
        self, q: Tensor, k: Tensor, v: Tensor, present: Tensor | None, state: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """Return the weighted means of values, (batch, heads, tokens, head_dim), in float32 at least, and the state
        after the last token (None when not causal)."""
        wide = torch.promote_types(v.dtype, torch.float32)
        q, k = (feature(part.to(wide), self.config.feature) for part in (q, k))
        k = k if present is None else k * present[..., None]
        k, v = (spread(part, q.shape[1] // part.shape[1]) for part in (k, pad(v.to(wide), (0, 1), value=1.0)))
        if not self.config.causal:
            sums, last = q @ (k.transpose(-1, -2) @ v), None
        elif self.decay is None:
            sums, last = causal_sums(q, k, v, state)
        else:
            sums, last = decayed_sums(q, k, v, logsigmoid(self.decay.to(wide)), state)
        return sums[..., :-1] / (sums[..., -1:] + self.config.eps), last

    @torch.no_grad()
    def inherit(self, teacher: State) -> None:
        """Take the projections and the read-out. Filters begin as random ones times GATE, gates within GATE of one."""
        super().inherit(teacher)
        if self.conv is not None:
            for parameter in self.conv.parameters():
                parameter.mul_(GATE)
        if self.gate is not None:
            self.gate.weight.mul_(gate_scale(self.gate.weight))
            self.gate.bias.fill_(OPEN)

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
            if config.decay:
                rate = 1 / (1 + (-state["decay"]).exp())
                weights = weights * rate[:, None] ** torch.arange(i, -1, -1, device=x.device)
            row = torch.einsum("bhj,bhjd->bhd", weights, v[:, :, :last])
            rows.append(row / (weights.sum(-1, keepdim=True) + config.eps))
        y = merge(torch.stack(rows, 2)) + _reference_conv(v, present, state, config, slow_shape(shape, context))
        if config.gate:
            g = slow_map(x, state, "gate", context)
            y = y * g / (1 + (-g).exp())
        return slow_map(y, state, "readout", context)


def _reference_conv(
    v: Tensor, present: Tensor | None, state: Mapping[str, Tensor], config: Any, shape: SiteShape
) -> Tensor | float:
    if not config.conv:
        return 0.0
    grid = grid_of(v.shape[2], shape) if config.layout == "grid" else None
    v = merge(v if present is None else v * present[..., None])
    return slow_tokens(v, state["conv.weight"], state["conv.bias"], grid, bool(config.causal), shape.prefix)


def feature(x: Tensor, name: str) -> Tensor:
    """Return φ(x), nowhere negative; elu(x) + 1 is written so that it does not lose the digits of a small exp(x)."""
    if name == "relu2":
        return torch.cat((x.relu().square(), (-x).relu().square()), -1)
    return x.relu() + x.clamp(max=0).exp() if name == "elu1" else x.relu()


def decayed_sums(q: Tensor, k: Tensor, v: Tensor, rate: Tensor, state: Tensor | None) -> tuple[Tensor, Tensor]:
    """As `causal_sums`, the state shrinking by exp(rate) with every token; rate (heads), not positive."""
    q, k, v = (part.transpose(1, 2) for part in (q, k, v))
    rates = rate.expand(v.shape[:3])
    sums, last = scan(v, rates, k, q, None if state is None else state.unsqueeze(3), CHUNK)
    return sums.transpose(1, 2), last.squeeze(3)


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
