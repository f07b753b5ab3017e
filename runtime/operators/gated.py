"""What the gated short convolutions share: projections, padding, the cache, and the teacher's weights.

A subclass is the row between W_in and W_out, `gate`, and its slow twin, `slow_gate`. While decoding, the host's cache
keeps the last outputs of W_in, as many as the whole row sees, and the row is applied to them again: so one window
serves one convolution or two. With them it keeps which of these tokens are padding: these enter every convolution as
zeros, as the empty positions before the first token do, so that padding on the left changes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from archspec.host.structure import Port, SiteShape
from archspec.operators.gated import Filters
from archspec.operators.gated import GatedConvolution as Signature
from archspec.runtime.operators import memory
from archspec.runtime.operators.base import (
    EMPTY,
    Context,
    Operator,
    adopt,
    gate_scale,
    regrouped,
    slow_map,
    slow_shape,
)
from archspec.runtime.operators.filters import TokenConvolution
from archspec.runtime.operators.scores import key_weights


class GatedConvolution(Operator):
    """y = W_out gate(W_in x)."""

    config: Signature
    project: nn.Linear
    readout: nn.Linear

    def __init__(self, config: Any, shape: SiteShape, port: Port = Port(), layer: int | None = None) -> None:
        super().__init__(config, shape, port, layer)
        inner = config.inner or shape.width
        self.project = nn.Linear(shape.width, 3 * inner, bias=bool(config.bias))
        self.make_filters()
        self.readout = nn.Linear(inner, shape.width, bias=bool(config.out_bias))

    def make_filters(self) -> None:
        """Make the convolutions, by their names in `Signature.kernels`. Between the projections, as they are drawn."""
        raise NotImplementedError

    def filters(self, name: str, first: Filters) -> TokenConvolution:
        """Make one of the convolutions."""
        c = self.config
        size = c.channels(name), c.kernels[name]
        return TokenConvolution(*size, self.shape, causal=bool(c.causal), layout=c.layout, filters=first)

    def gate(self, u: Tensor, present: Tensor | None, before: int = 0) -> Tensor:
        """u (batch, tokens, 3 inner) -> (batch, tokens, inner). `present`: see `shown`; `before`: as of `Context`."""
        raise NotImplementedError

    @staticmethod
    def slow_gate(
        u: Tensor, present: Tensor | None, state: Mapping[str, Tensor], config: Any, shape: SiteShape
    ) -> Tensor:
        """The definition of `gate`."""
        raise NotImplementedError

    def features(self, x: Tensor, context: Context = EMPTY) -> Tensor:
        u, present = with_past(self.map("project", x, context), context, self.config.reach[0])
        return self.gate(u, present, context.before)[:, -x.shape[1] :]

    @torch.no_grad()
    def inherit(self, teacher: Mapping[str, Tensor]) -> None:
        """Take q, k, v (key/value heads of grouped attention repeated) and the read-out, with gates near one:

        q and k become 1 + GATE u / |w| of the token itself (at most 1 + u), w being the channel's row of W_in, so that
        an input of unit variance moves each gate by about GATE, whatever the teacher's scale. The filters of v, and of
        k ∘ v, are what the config says, the former without bias. So the operator starts as a short convolution of the
        teacher's values, which is nearer to attention than the cubic form of unscaled projections (docs/log.md).
        """
        inner, size = self.readout.in_features, self.shape.head_dim or 1
        maps = {
            f"project.{leaf}": torch.cat([regrouped(teacher[f"{name}.{leaf}"], inner // size, size) for name in "qkv"])
            for leaf in ("weight", "bias")
            if f"q.{leaf}" in teacher
        }
        adopt(self.project, maps, "project")
        adopt(self.readout, teacher, "o")
        self.open_gates(gate_scale(self.project.weight[: 2 * inner]).squeeze(1))

    def open_gates(self, scale: Tensor) -> None:
        """Let q and k be 1 + scale u. scale (2 inner,)."""
        raise NotImplementedError

    @torch.no_grad()
    def lend(self, teacher: Mapping[str, Tensor]) -> Operator:
        """Filters that open gates are one for both streams, so what a twin's would scale otherwise is scaled in its
        rows of W_in."""
        twin = super().lend(teacher)
        mine, its = (dict(op.named_children()).get("conv") for op in (self, twin))
        if isinstance(mine, TokenConvolution) and isinstance(its, TokenConvolution):
            project: Any = twin.get_submodule("project")
            gates = project.out_features // 3 * 2
            ratio = its.weight.flatten(1)[:gates, its.own] / mine.weight.flatten(1)[:gates, mine.own]
            for parameter in project.parameters():
                parameter[:gates] *= ratio.reshape(-1, *(1,) * (parameter.dim() - 1))
        return twin

    @classmethod
    def reference(
        cls, x: Tensor, state: Mapping[str, Tensor], config: Any, shape: SiteShape, context: Context
    ) -> Tensor:
        u = slow_map(x, state, "project", context)
        h = cls.slow_gate(u, presence(context, u), state, config, slow_shape(shape, context))
        return slow_map(h, state, "readout", context)


def with_past(u: Tensor, context: Context, before: int) -> tuple[Tensor, Tensor | None]:
    """Return u and presence of the tokens that the new ones see, as far as there are any, and of the new ones.

    u (batch, tokens, channels) of the new tokens; `before` is how many tokens before its own each of them sees, and
    what the cache keeps.
    """
    present = presence(context, u)
    if context.cache is None:
        return u, present
    memory.window(context.cache, context.layer, before)
    present = u.new_ones(()).expand(*u.shape[:2], 1) if present is None else present.expand(u.shape[0], -1, -1)
    past, seen = context.cache.update(u[:, None], present[:, None], context.layer)
    return past[:, 0], seen[:, 0]


def presence(context: Context, u: Tensor) -> Tensor | None:
    """Return (batch or 1, tokens, 1), in the data type of u: 1 for a token, 0 for padding; None: all are tokens."""
    weights = key_weights(context, u.shape[1])
    return None if weights is None else weights[:, 0, :, None].to(u.dtype)


def shown(u: Tensor, present: Tensor | None) -> Tensor:
    """Return u with zeros at padded tokens."""
    return u if present is None else u * present
