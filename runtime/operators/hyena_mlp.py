"""The MLP Hyena-X: gates of features, each the sum of a few neighbouring ones.

The convolution runs along the 3 x hidden features of [q, k, v], with the tokens as its channels: causal, so that
feature f of k reads the last features of q, as published.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from archspec.host.structure import Port, SiteShape
from archspec.operators.hyena_mlp import HyenaMlp as Signature
from archspec.runtime.operators.base import EMPTY, Context, Operator, native_tokens
from archspec.runtime.operators.causal_conv import causal_conv
from archspec.runtime.operators.convolution import ShortFilters


class HyenaMlp(Operator):
    """y = W_out (q ∘ k ∘ v) with [q, k, v] = conv(W_in x) along the features."""

    signature = Signature
    config: Signature
    readout: nn.Linear

    def __init__(self, config: Signature, shape: SiteShape, port: Port = Port(), layer: int | None = None) -> None:
        super().__init__(config, shape, port, layer)
        hidden, channels = config.hidden or 1, config.tensors(shape)["conv.bias"][0]
        self.project = nn.Linear(shape.width, 3 * hidden, bias=bool(config.bias))
        self.conv = ShortFilters(channels, (config.kernel,), config.kernel - 1, config.filters)
        self.readout = nn.Linear(hidden, shape.width, bias=bool(config.out_bias))

    def features(self, x: Tensor, context: Context = EMPTY) -> Tensor:
        u = self.project(x)
        if self.config.channels == "tokens":
            native_tokens(x.shape[1], self.shape, self.config.name, "write channels shared")
            u = causal_conv(u, self.conv.weight, self.conv.bias)
        else:
            u = causal_conv(u.flatten(0, 1)[:, None], self.conv.weight, self.conv.bias).view_as(u)
        q, k, v = u.chunk(3, dim=-1)
        return q * k * v

    @staticmethod
    def reference(x: Tensor, state: Mapping[str, Tensor], config: Any, shape: SiteShape, context: Context) -> Tensor:
        u = x @ state["project.weight"].T + state.get("project.bias", x.new_zeros(1))
        weight, bias = (state[f"conv.{leaf}"].expand(u.shape[1], *s) for leaf, s in (("weight", (-1, -1)), ("bias", ())))
        features = []
        for f in range(u.shape[2]):
            taps = [(j, f - config.kernel + 1 + j) for j in range(config.kernel)]
            features.append(bias + sum(weight[:, 0, j] * u[:, :, g] for j, g in taps if g >= 0))
        q, k, v = torch.stack(features, -1).chunk(3, -1)
        return (q * k * v) @ state["readout.weight"].T + state.get("readout.bias", x.new_zeros(1))
