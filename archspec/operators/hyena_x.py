"""Hyena-X: gated short convolutions, the operator of arXiv 2506.05340 that costs next to nothing in tokens."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from archspec.language.fields import node
from archspec.operators.gated import GatedConvolution


@node
class HyenaX(GatedConvolution):
    """[q, k, v] = conv_K(W_in x), depthwise; y = W_out (q ∘ k ∘ v).

    The inner width is the teacher's (heads x head_dim), the host's width for most. Causal: taps i-K+1 ... i.
    Otherwise 'same' padding: taps i-K//2 ... i+K-1-K//2. On the grid the kernel is K x K and never causal.
    """

    name: ClassVar[str] = "hyena_x"

    @property
    def kernels(self) -> Mapping[str, int]:
        return {"conv": self.kernel}
