"""Mix-FFN: the MLP with a short depthwise convolution of its inner features over the tokens."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import ClassVar, Self

from archspec.host.structure import SiteShape
from archspec.language.fields import arg, node
from archspec.operators.base import Facts, Problem
from archspec.operators.gated import Filters, Layout
from archspec.operators.mlp import Mlp


@node
class MixFfn(Mlp):
    """y = W_down act(conv_K(W_up x)); gated: [h, g] = conv_K([W_up x, W_gate x]), y = W_down (act(g) ∘ h).

    The convolution is depthwise, over the grid of tokens or along their order. Ungated with GELU it is SegFormer's
    Mix-FFN; gated with silu, `early` and `bias` it is SANA's (GLUMBConv of diffusers, without its norm). Inheriting
    begins with filters that pass the token itself through, and is then the teacher's own MLP (not with `early`).
    """

    name: ClassVar[str] = "mix_ffn"
    single: ClassVar[str] = "its convolution would run on from the text into the image"
    source: ClassVar[str] = (
        "SegFormer, https://arxiv.org/abs/2105.15203, Eq. 3; SANA, https://arxiv.org/abs/2410.10629, Sec. 2.3"
    )

    kernel: int = arg("taps of the convolution, on the grid along each axis", default=3, least=1, most=128)
    layout: Layout | None = arg(
        "raster: 1-D kernel in token order; grid: K x K kernel; default: grid where the site has one", default=None
    )
    causal: bool | None = arg("no token sees a later one; default: as the host", default=None)
    early: bool = arg("apply the activation before the convolution as well", default=False)
    filters: Filters = arg(
        "filters before training: torch's random ones, or 1 at the token itself, as after init inherit",
        default="random",
    )

    def complete(self, site: SiteShape) -> Self:
        grid = site.grid is not None and not (self.causal or site.causal)
        return super().complete(site).fill(layout="grid" if grid else "raster", causal=site.causal)

    def problems(self, site: SiteShape) -> Iterator[Problem]:
        yield from super().problems(site)
        if self.layout == "grid" and site.grid is None:
            yield Problem("layout", "the tokens of this site form no 2-D grid", "write layout raster")
        if self.layout == "grid" and self.causal:
            yield Problem("layout", "a 2-D kernel is not causal", "write layout raster")
        if site.causal and not self.causal and self.kernel > 1:
            yield Problem("causal", "the host is causal and this operator would see later tokens", "leave causal out")

    def obstacles(self, site: SiteShape) -> Iterator[Problem]:
        yield from super().obstacles(site)
        if self.early and site.hidden is not None:
            yield Problem("early", "the teacher's activation stands in one place", "leave early out")

    def tensors(self, site: SiteShape) -> Mapping[str, tuple[int, ...]]:
        found = dict(super().tensors(site))
        channels, axes = (self.hidden or 0) * (2 if self.gated else 1), 2 if self.layout == "grid" else 1
        return found | {"conv.weight": (channels, 1, *(self.kernel,) * axes), "conv.bias": (channels,)}

    @property
    def sides(self) -> tuple[int, int]:
        """Tokens before and after that the convolution sees (on the grid: rows, and columns)."""
        before = self.kernel - 1 if self.causal else self.kernel // 2
        return before, self.kernel - 1 - before

    def facts(self, site: SiteShape) -> Facts:
        reach = max(self.sides)
        if self.layout == "grid" and site.grid:
            rows, columns = site.grid
            reach = min(reach, rows - 1) * columns + min(reach, columns - 1)
        everything = site.tokens is not None and reach >= site.tokens - 1
        return Facts(causal=self.sides[1] == 0, reach=None if everything else reach)
