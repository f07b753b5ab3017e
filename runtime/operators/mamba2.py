"""Mamba-2 in plain torch: projection, short convolution, scan in chunks (see `scan`), gated norm.

While decoding, the host's cache keeps one state and the last K - 1 inputs of the convolution. Padded tokens enter as
zeros, before the convolution and after it, so that padding on the left changes nothing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import rms_norm, silu, softplus

from archspec.host.structure import Port, SiteShape
from archspec.operators.mamba2 import Mamba2 as Signature
from archspec.runtime.operators import memory
from archspec.runtime.operators.base import EMPTY, Context, Operator, adopt, gate_scale, regrouped, slow_map
from archspec.runtime.operators.filters import TokenConvolution, slow_tokens
from archspec.runtime.operators.scan import selective_scan, single_precision
from archspec.runtime.operators.scores import key_weights

STEP = (1e-3, 1e-1)
"""Range of dt before training, log-uniform (dt_min and dt_max of mamba_ssm)."""
RATE = (1.0, 16.0)
"""Range of exp(a_log) before training, uniform."""
EPSILON = 1e-5


class GatedNorm(nn.Module):
    """w ∘ y silu(z) / rms(y silu(z)), the root mean square over each of `groups` parts, in float32 at least."""

    def __init__(self, width: int, groups: int) -> None:
        super().__init__()
        self.groups = groups
        self.weight = nn.Parameter(torch.ones(width))

    def reset_parameters(self) -> None:
        nn.init.ones_(self.weight)

    def forward(self, y: Tensor, z: Tensor) -> Tensor:
        gated = torch.unflatten(y * silu(z.to(y.dtype)), -1, (self.groups, -1))
        return rms_norm(gated, gated.shape[-1:], eps=EPSILON).flatten(-2) * self.weight.to(y.dtype)


class Mamba2(Operator):
    """A scan over the tokens; not causal: one more, with the same weights, over the tokens in reverse."""

    signature = Signature
    config: Signature
    readout: nn.Linear

    def __init__(self, config: Signature, shape: SiteShape, port: Port = Port(), layer: int | None = None) -> None:
        super().__init__(config, shape, port, layer)
        inner, heads, parts = config.inner(shape), config.heads(shape), config.parts(shape)
        mixed = sum(parts[1:4])
        self.project = nn.Linear(shape.width, sum(parts), bias=bool(config.bias))
        self.conv = TokenConvolution(mixed, config.conv, shape)
        self.dt_bias, self.a_log, self.skip = (nn.Parameter(torch.zeros(heads)) for _ in range(3))
        self.norm = GatedNorm(inner, config.groups)
        self.readout = nn.Linear(inner, shape.width, bias=bool(config.out_bias))

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draw dt log-uniform in STEP, kept as softplus⁻¹, and rates uniform in RATE. Called after the parts' own."""
        low, high = (math.log(end) for end in STEP)
        step = self.dt_bias.uniform_(low, high).exp()
        self.dt_bias.copy_(step + torch.log(-torch.expm1(-step)))
        self.a_log.uniform_(*RATE).log_()
        self.skip.fill_(1.0)

    def features(self, x: Tensor, context: Context = EMPTY) -> Tensor:
        inner, _, _, _, heads = self.config.parts(self.shape)
        y = self.map("project", x, context)
        z, u, dt = y[..., :inner], y[..., inner : y.shape[-1] - heads], y[..., y.shape[-1] - heads :]
        present = key_weights(context, x.shape[1])
        weights = None if present is None else present[:, 0, :, None]
        mixed = self._mix(u, dt, weights, context)
        if not self.config.causal:
            back = None if weights is None else weights.flip(1)
            mixed = mixed + self._mix(u.flip(1), dt.flip(1), back, EMPTY).flip(1)
        with single_precision(x.device.type):
            normed: Tensor = self.norm(mixed, z)
        return normed.to(x.dtype)

    def _mix(self, u: Tensor, dt: Tensor, present: Tensor | None, context: Context) -> Tensor:
        """Return y (batch, tokens, inner) of one direction, in float32 at least."""
        layer = memory.running_sum(context.cache, context.layer) if context.cache is not None else None
        old = (layer.keys, layer.values) if layer is not None and layer.is_initialized else (None, None)
        u = u if present is None else u * present.to(u.dtype)
        recent = None if layer is None else self.conv.recent(u, old[1])
        u = self.conv(u, old[1])
        u = silu(u) if present is None else silu(u) * present.to(u.dtype)
        with single_precision(u.device.type):
            y, state = self._scan(u, dt, old[0])
        if layer is not None:
            layer.replace(state, u.shape[1], recent)
        return y

    def _scan(self, u: Tensor, dt: Tensor, state: Tensor | None) -> tuple[Tensor, Tensor]:
        config, wide = self.config, torch.promote_types(u.dtype, torch.float32)
        x, b, c = torch.split(u.to(wide), list(config.parts(self.shape)[1:4]), dim=-1)
        x = torch.unflatten(x, -1, (-1, config.head_dim))
        b, c = (torch.unflatten(part, -1, (config.groups, -1)) for part in (b, c))
        dt = softplus(dt.to(wide) + self.dt_bias.to(wide))
        y, last = selective_scan(x, dt, self.a_log.to(wide).exp(), b, c, state, config.chunk)
        return (y + x * self.skip.to(wide)[:, None]).flatten(2), last

    @torch.no_grad()
    def inherit(self, teacher: Mapping[str, Tensor]) -> None:
        """Take v, k, q as x, B, C and the read-out; filters pass the token itself, and where W_in has a bias, gates
        are near a constant. dt hangs on no input at first, decays stay as drawn. Without the skip, whose D = 1 drowns
        a sum whose dt are below 0.1: attention sees a token's own value once."""
        z, x, b, c, heads = self.config.parts(self.shape)
        sets = self.config.groups, self.config.state
        for leaf, target in self.project.named_parameters():
            own = torch.split(target, [z, x, b, c, heads])
            for part, name in zip(own[1:4], "vkq", strict=True):
                value = teacher.get(f"{name}.{leaf}")
                part.zero_() if value is None else part.copy_(regrouped(value, *sets))
            own[4].zero_()
        self.conv.pass_through()
        self.skip.zero_()
        self._open_gates(z)
        adopt(self.readout, teacher, "o")

    def _open_gates(self, count: int) -> None:
        if self.project.bias is not None:
            rows = self.project.weight[:count]
            rows.mul_(gate_scale(rows))
            self.project.bias[:count] = 1.0

    @staticmethod
    def reference(x: Tensor, state: Mapping[str, Tensor], config: Any, shape: SiteShape, context: Context) -> Tensor:
        parts = config.parts(shape)
        y = slow_map(x, state, "project", context)
        z, u, dt = torch.split(y, [parts[0], sum(parts[1:4]), parts[4]], -1)
        present = key_weights(context, x.shape[1])
        keep = torch.ones_like(x[..., :1]) if present is None else present[:, 0, :, None].to(x.dtype)
        y = _recurrence(u, dt, keep, state, config, shape)
        if not config.causal:
            u, dt, keep = (part.flip(1) for part in (u, dt, keep))
            y = y + _recurrence(u, dt, keep, state, config, shape).flip(1)
        y = torch.unflatten(y * silu(z), -1, (config.groups, -1))
        y = (y / (y.square().mean(-1, keepdim=True) + EPSILON).sqrt()).flatten(2) * state["norm.weight"]
        return slow_map(y, state, "readout", context)


def _recurrence(
    u: Tensor, dt: Tensor, keep: Tensor, weights: Mapping[str, Tensor], config: Any, shape: SiteShape
) -> Tensor:
    """One direction, one token at a time."""
    u = silu(slow_tokens(u * keep, weights["conv.weight"], weights["conv.bias"], None, True)) * keep
    x, b, c = torch.split(u, list(config.parts(shape)[1:4]), -1)
    heads = config.heads(shape)
    shared = heads // config.groups
    x = torch.unflatten(x, -1, (heads, -1))
    b, c = (torch.unflatten(part, -1, (config.groups, -1)).repeat_interleave(shared, 2) for part in (b, c))
    h, rows = torch.zeros(len(u), heads, config.head_dim, config.state, dtype=u.dtype, device=u.device), []
    for i in range(u.shape[1]):
        step = (1 + (dt[:, i] + weights["dt_bias"]).exp()).log()
        decay = (-weights["a_log"].exp() * step).exp()
        h = decay[..., None, None] * h + (step[..., None] * x[:, i])[..., None] * b[:, i, :, None, :]
        rows.append((h @ c[:, i, :, :, None])[..., 0] + weights["skip"][:, None] * x[:, i])
    return torch.stack(rows, 1).flatten(2)
