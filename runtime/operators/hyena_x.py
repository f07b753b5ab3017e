"""Hyena-X: gated short depthwise convolutions over the raster of tokens, or over the 2-D grid.

While decoding, the host's cache keeps the last K - 1 outputs of W_in. Padded tokens enter as zeros, as the empty
positions before the first token do, so that padding on the left changes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, pad

from archspec.host.structure import Port, SiteShape
from archspec.operators.hyena_x import HyenaX as Signature
from archspec.runtime.operators import memory
from archspec.runtime.operators.base import EMPTY, Context, Operator, adopt, grid_of
from archspec.runtime.operators.scores import key_weights

GATE = 0.1
"""How far an inherited gate moves from one for an input of unit variance."""


class HyenaX(Operator):
    """y = W_out (q ∘ k ∘ v) with [q, k, v] = conv(W_in x)."""

    signature = Signature
    config: Signature
    readout: nn.Linear

    def __init__(self, config: Signature, shape: SiteShape, port: Port = Port(), layer: int | None = None) -> None:
        super().__init__(config, shape, port, layer)
        inner = config.inner or shape.width
        kind = nn.Conv2d if config.layout == "grid" else nn.Conv1d
        self.project = nn.Linear(shape.width, 3 * inner, bias=bool(config.bias))
        self.conv = kind(3 * inner, 3 * inner, config.kernel, groups=3 * inner)
        self.readout = nn.Linear(inner, shape.width, bias=bool(config.out_bias))
        if config.filters == "identity":
            self.pass_through()

    def reset_parameters(self) -> None:
        """Called after the parts were reset."""
        if self.config.filters == "identity":
            self.pass_through()

    @torch.no_grad()
    def pass_through(self) -> None:
        """Let every filter be 1 at the token itself: conv(u) = u."""
        self.conv.weight.zero_()
        self.conv.weight.flatten(2)[..., self._own] = 1.0
        assert self.conv.bias is not None
        self.conv.bias.zero_()

    @property
    def _own(self) -> int:
        """The tap at the token itself, of a filter laid flat."""
        back, kernel = self.config.back, self.config.kernel
        return back * kernel + back if self.config.layout == "grid" else back

    def features(self, x: Tensor, context: Context = EMPTY) -> Tensor:
        u = _without_padding(self.project(x), context)
        u = self._grid(u) if self.config.layout == "grid" else self._raster(u, context)
        q, k, v = u.chunk(3, dim=-1)
        return q * (k * v)

    def _raster(self, u: Tensor, context: Context) -> Tensor:
        back, tokens = self.config.back, u.shape[1]
        if context.cache is not None:
            u = self._with_past(u, context)[:, -back - tokens :]
        missing = back + tokens - u.shape[1]
        u = pad(u.transpose(1, 2), (missing, self.config.kernel - 1 - back))
        y: Tensor = self.conv(u).transpose(1, 2)
        return y

    def _with_past(self, u: Tensor, context: Context) -> Tensor:
        if context.cache is None:
            return u
        memory.window(context.cache, context.layer, self.config.back)
        past, _ = context.cache.update(u[:, None], u[:, None, :, :0], context.layer)
        return past[:, 0]

    def _grid(self, u: Tensor) -> Tensor:
        before = self.config.back
        behind = self.config.kernel - 1 - before
        image = torch.unflatten(u.transpose(1, 2), 2, grid_of(u.shape[1], self.shape))
        y: Tensor = self.conv(pad(image, (before, behind, before, behind)))
        return y.flatten(2).transpose(1, 2)

    @torch.no_grad()
    def inherit(self, teacher: Mapping[str, Tensor]) -> None:
        """Take q, k, v (key/value heads of grouped attention repeated) and the read-out, with gates near one:

        the filters of q and k make 1 + GATE u / |w| of the token itself (at most 1 + u), w being the channel's row of
        W_in, so that an input of unit variance moves each gate by about GATE, whatever the teacher's scale. The filters
        of v are what `filters` says, without bias. So the operator starts as a short convolution of the teacher's
        values, which is nearer to attention than the cubic q ∘ k ∘ v of unscaled projections (docs/log.md).
        """
        maps = {
            f"project.{leaf}": torch.cat([self._widened(teacher[f"{name}.{leaf}"]) for name in "qkv"])
            for leaf in ("weight", "bias")
            if f"q.{leaf}" in teacher
        }
        adopt(self.project, maps, "project")
        adopt(self.readout, teacher, "o")
        gates = 2 * self.readout.in_features
        norms = self.project.weight[:gates].norm(dim=1).clamp(min=GATE)
        filters = self.conv.weight.flatten(2)  # a view
        filters[:gates] = 0.0
        filters[:gates, 0, self._own] = GATE / norms
        assert self.conv.bias is not None
        self.conv.bias.zero_()
        self.conv.bias[:gates] = 1.0

    def _widened(self, value: Tensor) -> Tensor:
        """Repeat whole key/value heads up to the inner width."""
        inner = self.config.inner or self.shape.width
        if value.shape[0] == inner:
            return value
        heads = torch.unflatten(value, 0, (-1, self.shape.head_dim or 1))
        return heads.repeat_interleave(inner // value.shape[0], 0).flatten(0, 1)

    @staticmethod
    def reference(x: Tensor, state: Mapping[str, Tensor], config: Any, shape: SiteShape, context: Context) -> Tensor:
        u = _without_padding(linear(x, state["project.weight"], state.get("project.bias")), context)
        rows, columns = grid_of(x.shape[1], shape) if config.layout == "grid" else (1, x.shape[1])
        down = config.kernel if config.layout == "grid" else 1
        weight = state["conv.weight"].reshape(-1, down, config.kernel)
        out = []
        for i in range(x.shape[1]):
            total = state["conv.bias"].expand(x.shape[0], -1)
            for a in range(down):
                for b in range(config.kernel):
                    row = i // columns + (a - config.back if down > 1 else 0)
                    column = i % columns + b - config.back
                    if 0 <= row < rows and 0 <= column < columns:
                        total = total + weight[:, a, b] * u[:, row * columns + column]
            out.append(total)
        q, k, v = torch.stack(out, 1).chunk(3, -1)
        return linear(q * k * v, state["readout.weight"], state.get("readout.bias"))


def _without_padding(u: Tensor, context: Context) -> Tensor:
    """Return u (batch, tokens, channels) with zeros at padded tokens."""
    present = key_weights(context, u.shape[1])
    return u if present is None else u * present[:, 0, :, None].to(u.dtype)
