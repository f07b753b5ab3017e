"""The site's own operator with factorised maps; see the signature for the definition."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from archspec.host.structure import Port, SiteShape
from archspec.operators.low_rank import LowRank as Signature
from archspec.operators.mlp import Mlp as MlpConfig
from archspec.runtime.operators.attention import Attention
from archspec.runtime.operators.base import EMPTY, Context, Operator, put
from archspec.runtime.operators.mlp import Mlp

TEACHER = {"attention": "o", "mlp": "down"}
"""The teacher's name of the read-out."""


class Factored(nn.Module):
    """A linear map expand(reduce(x)) of rank `rank` at most; the bias is expand's."""

    def __init__(self, inputs: int, outputs: int, rank: int, bias: bool) -> None:
        super().__init__()
        rank = min(rank, inputs, outputs)
        self.reduce = nn.Linear(inputs, rank, bias=False)
        self.expand = nn.Linear(rank, outputs, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.expand(self.reduce(x))
        return y


class LowRank(Operator):
    """The operator `body`, whose maps are factorised; its read-out is split into `reduce` and `readout`."""

    signature = Signature
    config: Signature
    readout: nn.Linear

    def __init__(self, config: Signature, shape: SiteShape, port: Port = Port(), layer: int | None = None) -> None:
        super().__init__(config, shape, port, layer)
        inner = config.body(shape)
        self.body = Mlp(inner, shape) if isinstance(inner, MlpConfig) else Attention(inner, shape)
        for name, child in list(self.body.named_children()):
            if isinstance(child, nn.Linear) and name != "readout":
                factored = Factored(child.in_features, child.out_features, config.rank, child.bias is not None)
                setattr(self.body, name, factored)
        last = Factored(self.body.readout.in_features, shape.width, config.rank, self.body.readout.bias is not None)
        self.body.readout = None  # type: ignore[assignment]
        self.reduce, self.readout = last.reduce, last.expand

    def features(self, x: Tensor, context: Context = EMPTY) -> Tensor:
        y: Tensor = self.reduce(self.body.features(x, context))
        return y

    def inherit(self, teacher: Mapping[str, Tensor]) -> None:
        """Take the truncated singular value decomposition of each of the teacher's maps."""
        for name, child in self.body.named_children():
            if isinstance(child, Factored):
                _decompose(child.reduce, child.expand, teacher, name)
            elif f"{name}.weight" in teacher and isinstance(child, nn.RMSNorm):
                put(child.weight, teacher[f"{name}.weight"])
        _decompose(self.reduce, self.readout, teacher, TEACHER[self.body.config.name])

    @staticmethod
    def reference(x: Tensor, state: Mapping[str, Tensor], config: Any, shape: SiteShape, context: Context) -> Tensor:
        """The body's definition, with every product of factors multiplied out."""
        full = {name.removeprefix("body."): value for name, value in state.items()}
        for name in [n.removesuffix(".reduce.weight") for n in full if n.endswith(".reduce.weight")]:
            full[f"{name}.weight"] = full[f"{name}.expand.weight"] @ full[f"{name}.reduce.weight"]
            if f"{name}.expand.bias" in full:
                full[f"{name}.bias"] = full[f"{name}.expand.bias"]
        full["readout.weight"] = state["readout.weight"] @ state["reduce.weight"]
        inner = config.body(shape)
        operator = Mlp if isinstance(inner, MlpConfig) else Attention
        return operator.reference(x, full, inner, shape, context)


@torch.no_grad()
def _decompose(reduce: nn.Linear, expand: nn.Linear, teacher: Mapping[str, Tensor], name: str) -> None:
    """Set expand · reduce to the best approximation of the teacher's map, the singular values shared evenly."""
    weight = teacher[f"{name}.weight"]
    left, values, right = torch.linalg.svd(weight.to(torch.float32 if weight.device.type == "mps" else torch.float64))
    rank = reduce.out_features
    root = values[:rank].sqrt()
    put(reduce.weight, root[:, None] * right[:rank])
    put(expand.weight, left[:, :rank] * root)
    if expand.bias is not None:
        put(expand.bias, teacher.get(f"{name}.bias", torch.zeros_like(expand.bias)))
