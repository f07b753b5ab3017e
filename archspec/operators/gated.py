"""What the gated short convolutions of arXiv 2506.05340 share: parameters, constraints, tensors, receptive field.

A row of convolutions stands between W_in and W_out, each of some kernel; `kernels` names them in the order in which a
token passes through them. Reaches of the row add up, on the raster and along each axis of the grid.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import ClassVar, Literal, Self

from archspec.host.structure import SiteShape
from archspec.language.fields import arg, node
from archspec.operators.base import Facts, Problem, Signature, linear, projections

Filters = Literal["random", "identity"]
Layout = Literal["raster", "grid"]


@node
class GatedConvolution(Signature):
    """Base of the signatures of Hyena-X, Hyena-SE and Hyena-Y."""

    slots: ClassVar[frozenset[str]] = frozenset({"attn"})
    inits: ClassVar[tuple[str, ...]] = ("inherit", "random", "identity", "least_squares")
    maps: ClassVar[frozenset[str]] = frozenset({"project", "readout"})
    source: ClassVar[str] = (
        "Grafting, https://arxiv.org/abs/2506.05340, Tab. 3; Hyena, https://arxiv.org/abs/2302.10866"
    )

    kernel: int = arg("taps of the convolution", default=4, least=1, most=128)
    inner: int | None = arg(
        "channels of q, of k and of v; default: the teacher's heads x head_dim", default=None, least=1
    )
    causal: bool | None = arg("no token sees a later one; default: true, on the grid false", default=None)
    layout: Layout = arg("raster: 1-D kernel in token order; grid: K x K kernel", default="raster")
    filters: Filters = arg(
        "filters before training: torch's random ones, or 1 at the token itself; init inherit sets those of q and k",
        default="random",
    )
    bias: bool | None = arg("biases of W_in; default: true", default=None)
    out_bias: bool | None = arg("bias of W_out; default: as the host", default=None)

    @property
    def kernels(self) -> Mapping[str, int]:
        """Name of each convolution -> its taps, in the order in which a token passes through them."""
        raise NotImplementedError

    def channels(self, convolution: str) -> int:
        """Return the channels of a convolution: q, k and v together, or their product k ∘ v."""
        return (self.inner or 0) * (3 if convolution == "conv" else 1)

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
        return projections(site)

    def obstacles(self, site: SiteShape) -> Iterator[Problem]:
        theirs = (site.heads or 0) * (site.head_dim or 0)
        if self.inner != theirs:
            yield Problem("inner", f"the teacher's projections are {theirs} wide, not {self.inner}", "leave inner out")
        if site.bias and not self.bias:
            yield Problem("bias", "the teacher's projections have biases", "leave bias out")
        if site.out_bias and not self.out_bias:
            yield Problem("out_bias", "the teacher's read-out has a bias", "leave out_bias out")

    def tensors(self, site: SiteShape) -> Mapping[str, tuple[int, ...]]:
        inner, axes = self.inner or 0, 2 if self.layout == "grid" else 1
        found = linear("project", 3 * inner, site.width, self.bias)
        for name, kernel in self.kernels.items():
            channels = self.channels(name)
            found |= {f"{name}.weight": (channels, 1, *(kernel,) * axes), f"{name}.bias": (channels,)}
        return found | linear("readout", site.width, inner, self.out_bias)

    def back(self, kernel: int) -> int:
        """Return the taps of a kernel before the token itself (on the grid: rows, and columns)."""
        return kernel - 1 if self.causal else kernel // 2

    @property
    def reach(self) -> tuple[int, int]:
        """Tokens before and after that the whole row sees (on the grid: rows, and columns)."""
        kernels = self.kernels.values()
        before = sum(self.back(kernel) for kernel in kernels)
        return before, sum(kernel - 1 for kernel in kernels) - before

    def facts(self, site: SiteShape) -> Facts:
        reach = max(self.reach)
        if self.layout == "grid" and site.grid:
            rows, columns = site.grid
            reach = min(reach, rows - 1) * columns + min(reach, columns - 1)
        everything = site.tokens is not None and reach >= site.tokens - 1
        return Facts(causal=self.reach[1] == 0, reach=None if everything else reach)
