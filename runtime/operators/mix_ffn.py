"""Mix-FFN: the MLP whose inner features pass through one depthwise convolution over the tokens.

Padded tokens enter the convolution as zeros. While decoding, the host's cache keeps the inner features of the last
tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear

from archspec.host.structure import Port, SiteShape
from archspec.operators.mix_ffn import MixFfn as Signature
from archspec.runtime.operators.base import EMPTY, Context, grid_of
from archspec.runtime.operators.filters import TokenConvolution, slow_tokens
from archspec.runtime.operators.gated import presence, shown, with_past
from archspec.runtime.operators.mlp import ACTIVATIONS, Mlp


class MixFfn(Mlp):
    """y = W_down act(conv(W_up x)), or act(g) ∘ h of [h, g] = conv([W_up x, W_gate x])."""

    signature = Signature
    config: Signature

    def __init__(self, config: Signature, shape: SiteShape, port: Port = Port(), layer: int | None = None) -> None:
        super().__init__(config, shape, port, layer)
        channels = config.tensors(shape)["conv.bias"][0]
        self.conv = TokenConvolution(
            channels,
            config.kernel,
            shape,
            causal=bool(config.causal),
            layout=config.layout or "raster",
            filters=config.filters,
        )

    def features(self, x: Tensor, context: Context = EMPTY) -> Tensor:
        act = ACTIVATIONS[self.config.activation or ""]
        u = self.up(x) if self.gate is None else torch.cat((self.up(x), self.gate(x)), -1)
        u, present = with_past(act(u) if self.config.early else u, context, self.config.sides[0])
        u = torch.narrow(self.conv(shown(u, present), before=context.before), 1, u.shape[1] - x.shape[1], x.shape[1])
        if self.gate is None:
            return act(u)
        h, g = u.chunk(2, dim=-1)
        return act(g) * h

    def inherit(self, teacher: Mapping[str, Tensor]) -> None:
        """Take the teacher's neurons as `mlp` does, and let every filter pass the token itself through."""
        super().inherit(teacher)
        self.conv.pass_through()

    @staticmethod
    def reference(x: Tensor, state: Mapping[str, Tensor], config: Any, shape: SiteShape, context: Context) -> Tensor:
        act = ACTIVATIONS[config.activation]
        maps = [
            linear(x, state[f"{n}.weight"], state.get(f"{n}.bias")) for n in ("up", "gate") if f"{n}.weight" in state
        ]
        u = torch.cat([act(part) if config.early else part for part in maps], -1)
        grid = grid_of(x.shape[1], shape, context.before) if config.layout == "grid" else None
        u = shown(u, presence(context, u))
        filters = state["conv.weight"], state["conv.bias"]
        parts = slow_tokens(u, *filters, grid, bool(config.causal), shape.prefix + context.before).chunk(len(maps), -1)
        h = act(parts[0]) if len(parts) == 1 else act(parts[1]) * parts[0]
        return linear(h, state["readout.weight"], state.get("readout.bias"))
