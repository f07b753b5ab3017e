"""The token-wise MLP, and the inheritance of a narrower or wider one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from archspec.host.structure import Port, SiteShape
from archspec.operators.mlp import Mlp as Signature
from archspec.runtime.learn.scores import norm_scores, select_neurons
from archspec.runtime.operators import memory
from archspec.runtime.operators.base import EMPTY, Context, Operator, adopt, slow_map

ACTIVATIONS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "gelu_pytorch_tanh": partial(F.gelu, approximate="tanh"),
    "gelu_new": partial(F.gelu, approximate="tanh"),
    "quick_gelu": lambda x: x * torch.sigmoid(1.702 * x),
    "silu": F.silu,
    "swish": F.silu,
    "relu": F.relu,
    "relu2": lambda x: F.relu(x).square(),
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
}


class Mlp(Operator):
    """y = W_down h, h = act(W_up x), or act(W_gate x) ∘ W_up x."""

    signature = Signature
    config: Signature
    readout: nn.Linear

    def __init__(self, config: Signature, shape: SiteShape, port: Port = Port(), layer: int | None = None) -> None:
        super().__init__(config, shape, port, layer)
        hidden, bias = config.hidden or 0, bool(config.bias)
        self.up = nn.Linear(shape.width, hidden, bias=bias)
        self.gate = nn.Linear(shape.width, hidden, bias=bias) if config.gated else None
        self.readout = nn.Linear(hidden, shape.width, bias=bool(config.out_bias))

    def features(self, x: Tensor, context: Context = EMPTY) -> Tensor:
        memory.count(context, x)
        act = ACTIVATIONS[self.config.activation or ""]
        h = self.map("up", x, context)
        return act(h) if self.gate is None else act(self.map("gate", x, context)) * h

    def inherit(self, teacher: Mapping[str, Tensor]) -> None:
        """Keep the teacher's strongest neurons, judged by the norms of their weights (no data is at hand here). A
        wider MLP keeps all; its further neurons stay random within and contribute nothing."""
        kept = select_neurons(norm_scores(teacher), self.up.out_features)
        self.keep(teacher, kept)

    @torch.no_grad()
    def keep(self, teacher: Mapping[str, Tensor], neurons: Tensor) -> None:
        """Take these neurons of the teacher, in this order, in the first places."""
        if self.gate is not None and "gate.weight" not in teacher:
            teacher = opened(teacher)
        count = len(neurons)
        for name, linear in (("up", self.up), ("gate", self.gate)):
            if linear is not None:
                rest = {f"{name}.{leaf}": value[count:] for leaf, value in linear.named_parameters()}
                kept = {n: value[neurons.to(value.device)] for n, value in teacher.items() if n.startswith(f"{name}.")}
                adopt(linear, {n: _joined(value, rest.get(n)) for n, value in kept.items()}, name)
        weight = teacher["down.weight"]
        weight = F.pad(weight[:, neurons.to(weight.device)], (0, self.readout.in_features - count))
        adopt(self.readout, {**teacher, "down.weight": weight}, "down")

    @staticmethod
    def reference(x: Tensor, state: Mapping[str, Tensor], config: Any, shape: SiteShape, context: Context) -> Tensor:
        act = ACTIVATIONS[config.activation]
        h = slow_map(x, state, "up", context)
        h = act(slow_map(x, state, "gate", context)) * h if config.gated else act(h)
        return slow_map(h, state, "readout", context)


def opened(teacher: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return an MLP without gates as a gated one that does the same: act(W_up x) ∘ (0 x + 1)."""
    weight = teacher["up.weight"]
    ones = {"up.weight": torch.zeros_like(weight), "up.bias": torch.ones_like(weight[:, 0])}
    gates = {n.replace("up.", "gate."): value for n, value in teacher.items() if n.startswith("up.")}
    return {**teacher, **gates, **ones}


def _joined(kept: Tensor, rest: Tensor | None) -> Tensor:
    return kept if rest is None or len(rest) == 0 else torch.cat((kept, rest.to(kept)))
