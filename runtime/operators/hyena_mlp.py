"""The MLP Hyena-X: gates of features, each the sum of a few neighbouring ones.

The convolution runs along the 3 x hidden features of [q, k, v], with the tokens as its channels: causal, so that
feature f of k reads the last features of q, as published.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from archspec.host.structure import Port, SiteShape
from archspec.operators.hyena_mlp import HyenaMlp as Signature
from archspec.runtime.learn.scores import norm_scores, select_neurons
from archspec.runtime.operators.base import EMPTY, GATE, Context, Operator, adopt, native_tokens, put
from archspec.runtime.operators.causal_conv import causal_conv
from archspec.runtime.operators.filters import ShortFilters

BEND = 0.1
"""Half the curvature of an inherited activation. GELU's own at zero is 0.4, but z² outgrows it: for inputs of a trained
host 0.1 is nearer (docs/log.md)."""


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

    @torch.no_grad()
    def inherit(self, teacher: Mapping[str, Tensor]) -> None:
        """Imitate the activation by its Taylor form: act(z) = z (1/2 + BEND z) for z = W_up x (gated: W_gate x).

        So q is z, k is 1/2 + BEND z, and v what the teacher multiplies act(z) by: W_up x of a gated MLP; else a drawn
        gate near one, 1 + GATE u / |w|, that training can open. The strongest neurons are taken, as by `mlp`, and the
        filters pass through. Missing ones stay random within and contribute nothing.
        """
        kept = select_neurons(norm_scores(teacher), self.readout.in_features)
        count, kept = len(kept), kept.to(teacher["up.weight"].device)
        z = "gate" if "gate.weight" in teacher else "up"
        for leaf, parameter in self.project.named_parameters():
            q, k, v = parameter.chunk(3)  # views
            rows = teacher[f"{z}.{leaf}"][kept] if f"{z}.{leaf}" in teacher else torch.zeros_like(q[:count])
            put(q[:count], rows)
            put(k[:count], BEND * rows + (0.5 if leaf == "bias" else 0.0))
            if z == "gate":
                put(v[:count], teacher[f"up.{leaf}"][kept] if f"up.{leaf}" in teacher else torch.zeros_like(q[:count]))
            else:
                put(v, GATE * v / v.norm(dim=1, keepdim=True) if leaf == "weight" else torch.ones_like(v))
        self.conv.pass_through()
        weight = pad(teacher["down.weight"][:, kept], (0, self.readout.in_features - count))
        adopt(self.readout, {**teacher, "down.weight": weight}, "down")

    @staticmethod
    def reference(x: Tensor, state: Mapping[str, Tensor], config: Any, shape: SiteShape, context: Context) -> Tensor:
        u = x @ state["project.weight"].T + state.get("project.bias", x.new_zeros(1))
        weight, bias = state["conv.weight"].expand(u.shape[1], 1, -1), state["conv.bias"].expand(u.shape[1])
        features = []
        for f in range(u.shape[2]):
            taps = [(j, f - config.kernel + 1 + j) for j in range(config.kernel)]
            features.append(bias + sum(weight[:, 0, j] * u[:, :, g] for j, g in taps if g >= 0))
        q, k, v = torch.stack(features, -1).chunk(3, -1)
        return (q * k * v) @ state["readout.weight"].T + state.get("readout.bias", x.new_zeros(1))
