"""Hyena-X: gated short convolutions, the operator of arXiv 2506.05340 that costs next to nothing in tokens."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import ClassVar, Literal, Self

from archspec.host.structure import SiteShape
from archspec.language.fields import arg, node
from archspec.operators.base import Facts, Problem, Signature, linear


@node
class HyenaX(Signature):
    """[q, k, v] = conv_K(W_in x), depthwise; y = W_out (q ∘ k ∘ v).

    The inner width is the teacher's (heads x head_dim), the host's width for most. Causal: taps i-K+1 ... i.
    Otherwise 'same' padding: taps i-K//2 ... i+K-1-K//2. On the grid the kernel is K x K and never causal.
    """

    name: ClassVar[str] = "hyena_x"
    slots: ClassVar[frozenset[str]] = frozenset({"attn"})
    inits: ClassVar[tuple[str, ...]] = ("inherit", "random", "identity", "least_squares")
    source: ClassVar[str] = (
        "Grafting, https://arxiv.org/abs/2506.05340, Tab. 3; Hyena, https://arxiv.org/abs/2302.10866"
    )

    kernel: int = arg("taps of the convolution", default=4, least=1, most=128)
    inner: int | None = arg(
        "channels of q, of k and of v; default: the teacher's heads x head_dim", default=None, least=1
    )
    causal: bool | None = arg("no token sees a later one; default: true, on the grid false", default=None)
    layout: Literal["raster", "grid"] = arg("raster: 1-D kernel in token order; grid: K x K kernel", default="raster")
    filters: Literal["random", "identity"] = arg(
        "filters before training: torch's random ones, or 1 at the token itself; init inherit sets those of q and k",
        default="random",
    )
    bias: bool | None = arg("biases of W_in; default: true", default=None)
    out_bias: bool | None = arg("bias of W_out; default: as the host", default=None)

    def complete(self, site: SiteShape) -> Self:
        inner = (site.heads or 0) * (site.head_dim or 0) or site.width
        return self.fill(inner=inner, causal=self.layout == "raster", bias=True, out_bias=site.out_bias)

    def problems(self, site: SiteShape) -> Iterator[Problem]:
        yield from super().problems(site)
        if self.layout == "grid" and site.grid is None:
            yield Problem("layout", "the tokens of this site form no 2-D grid", "write layout raster")
        if self.layout == "grid" and self.causal:
            yield Problem("causal", "a 2-D kernel is not causal", "write causal false, or layout raster")
        if site.causal and not self.facts(site).causal:
            field = "layout" if self.layout == "grid" else "causal"
            yield Problem(field, "the host is causal and this operator would see later tokens", "write causal true")

    def inherits(self, site: SiteShape) -> tuple[str, ...]:
        return ("q", "k", "v", "o")

    def obstacles(self, site: SiteShape) -> Iterator[Problem]:
        theirs = (site.heads or 0) * (site.head_dim or 0)
        if self.inner != theirs:
            yield Problem("inner", f"the teacher's projections are {theirs} wide, not {self.inner}", "leave inner out")
        if site.bias and not self.bias:
            yield Problem("bias", "the teacher's projections have biases", "leave bias out")
        if site.out_bias and not self.out_bias:
            yield Problem("out_bias", "the teacher's read-out has a bias", "leave out_bias out")

    def tensors(self, site: SiteShape) -> Mapping[str, tuple[int, ...]]:
        inner, kernel = self.inner or 0, (self.kernel,) * (2 if self.layout == "grid" else 1)
        return {
            **linear("project", 3 * inner, site.width, self.bias),
            "conv.weight": (3 * inner, 1, *kernel),
            "conv.bias": (3 * inner,),
            **linear("readout", site.width, inner, self.out_bias),
        }

    @property
    def back(self) -> int:
        """Taps before the token itself (on the grid: rows, and columns)."""
        return self.kernel - 1 if self.causal else self.kernel // 2

    def facts(self, site: SiteShape) -> Facts:
        reach = max(self.back, self.kernel - 1 - self.back)
        if self.layout == "grid" and site.grid:
            rows, columns = site.grid
            reach = min(reach, rows - 1) * columns + min(reach, columns - 1)
        everything = site.tokens is not None and reach >= site.tokens - 1
        return Facts(causal=self.back == self.kernel - 1, reach=None if everything else reach)
