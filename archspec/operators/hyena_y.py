"""Hyena-Y: one gated short convolution, of k ∘ v alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import ClassVar

from archspec.host.structure import SiteShape
from archspec.language.fields import arg, node
from archspec.operators.base import Problem
from archspec.operators.gated import Filters, GatedConvolution


@node
class HyenaY(GatedConvolution):
    """[q, k, v] = W_in x; y = W_out (q ∘ conv_K(k ∘ v)), depthwise.

    Causal, on the grid or padded to 'same' as hyena_x. Its filters pass through at first, as published, so that it
    starts without mixing tokens; to inherit, `filters: random` is nearer to attention.
    """

    name: ClassVar[str] = "hyena_y"

    kernel: int = arg("taps of the convolution of k ∘ v", default=4, least=1, most=128)
    filters: Filters = arg("filters before training: torch's random ones, or 1 at the token itself", default="identity")

    @property
    def kernels(self) -> Mapping[str, int]:
        return {"inner_conv": self.kernel}

    def obstacles(self, site: SiteShape) -> Iterator[Problem]:
        yield from super().obstacles(site)
        if not self.bias and not site.bias:
            yield Problem("bias", "gates near one need biases of W_in", "leave bias out")
