"""Hyena-X: gated short depthwise convolutions over the raster of tokens, or over the 2-D grid."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from archspec.host.structure import SiteShape
from archspec.operators.hyena_x import HyenaX as Signature
from archspec.runtime.operators.filters import slow_convolution
from archspec.runtime.operators.gated import GatedConvolution, shown


class HyenaX(GatedConvolution):
    """y = W_out (q ∘ k ∘ v) with [q, k, v] = conv(W_in x)."""

    signature = Signature
    config: Signature

    def make_filters(self) -> None:
        self.conv = self.filters("conv", self.config.filters)

    def gate(self, u: Tensor, present: Tensor | None, before: int = 0) -> Tensor:
        q, k, v = self.conv(shown(u, present), before=before).chunk(3, dim=-1)
        y: Tensor = q * (k * v)
        return y

    def open_gates(self, scale: Tensor) -> None:
        self.conv.open_gates(scale)

    @staticmethod
    def slow_gate(
        u: Tensor, present: Tensor | None, state: Mapping[str, Tensor], config: Any, shape: SiteShape
    ) -> Tensor:
        q, k, v = slow_convolution(shown(u, present), state, config, "conv", shape).chunk(3, -1)
        return q * k * v
