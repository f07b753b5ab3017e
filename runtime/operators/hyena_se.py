"""Hyena-SE: gated short depthwise convolutions before the gates, and of the product of keys and values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from archspec.host.structure import SiteShape
from archspec.operators.hyena_se import HyenaSe as Signature
from archspec.runtime.operators.filters import slow_convolution
from archspec.runtime.operators.gated import GatedConvolution, shown


class HyenaSe(GatedConvolution):
    """y = W_out (q ∘ inner_conv(k ∘ v)) with [q, k, v] = conv(W_in x)."""

    signature = Signature
    config: Signature

    def make_filters(self) -> None:
        self.conv = self.filters("conv", self.config.filters)
        self.inner_conv = self.filters("inner_conv", self.config.inner_filters)

    def gate(self, u: Tensor, present: Tensor | None, before: int = 0) -> Tensor:
        q, k, v = self.conv(shown(u, present), before=before).chunk(3, dim=-1)
        y: Tensor = q * self.inner_conv(shown(k * v, present), before=before)
        return y

    def open_gates(self, scale: Tensor) -> None:
        self.conv.open_gates(scale)

    @staticmethod
    def slow_gate(
        u: Tensor, present: Tensor | None, state: Mapping[str, Tensor], config: Any, shape: SiteShape
    ) -> Tensor:
        q, k, v = slow_convolution(shown(u, present), state, config, "conv", shape).chunk(3, -1)
        return q * slow_convolution(shown(k * v, present), state, config, "inner_conv", shape)
