"""Hyena-SE: gated short convolutions twice, before the gates and between them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from archspec.language.fields import arg, node
from archspec.operators.gated import Filters, GatedConvolution


@node
class HyenaSe(GatedConvolution):
    """[q, k, v] = conv_K(W_in x); y = W_out (q ∘ conv_K'(k ∘ v)), both depthwise.

    Both are causal, or both padded to 'same', or both on the grid, as of hyena_x: causal, a token sees the K + K' - 2
    before it.
    """

    name: ClassVar[str] = "hyena_se"

    kernel: int = arg("taps of the convolution of q, k and v", default=4, least=1, most=128)
    inner_kernel: int = arg("taps of the convolution of k ∘ v", default=4, least=1, most=128)
    inner_filters: Filters = arg("the same of the convolution of k ∘ v", default="identity")

    @property
    def kernels(self) -> Mapping[str, int]:
        return {"conv": self.kernel, "inner_conv": self.inner_kernel}
