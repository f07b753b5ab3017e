"""Hyena-Y: one short depthwise convolution, of the product of keys and values, between two gates."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from archspec.host.structure import SiteShape
from archspec.operators.hyena_y import HyenaY as Signature
from archspec.runtime.operators.filters import slow_convolution
from archspec.runtime.operators.gated import GatedConvolution, shown


class HyenaY(GatedConvolution):
    """y = W_out (q ∘ inner_conv(k ∘ v)) with [q, k, v] = W_in x."""

    signature = Signature
    config: Signature

    def make_filters(self) -> None:
        self.inner_conv = self.filters("inner_conv", self.config.filters)

    def gate(self, u: Tensor, present: Tensor | None, before: int = 0) -> Tensor:
        q, k, v = u.chunk(3, dim=-1)
        y: Tensor = q * self.inner_conv(shown(k * v, present), before=before)
        return y

    @torch.no_grad()
    def open_gates(self, scale: Tensor) -> None:
        """No convolution makes the gates, so their rows of W_in are scaled."""
        gates = len(scale)
        self.project.weight[:gates] *= scale[:, None]
        self.project.bias[:gates] *= scale
        self.project.bias[:gates] += 1.0

    @staticmethod
    def slow_gate(
        u: Tensor, present: Tensor | None, state: Mapping[str, Tensor], config: Any, shape: SiteShape
    ) -> Tensor:
        q, k, v = u.chunk(3, -1)
        return q * slow_convolution(shown(k * v, present), state, config, "inner_conv", shape)
