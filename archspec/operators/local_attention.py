"""Softmax attention within a window: a 1-D band over the raster of tokens, or a square of the site's 2-D grid."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar, Literal

from archspec.host.structure import SiteShape
from archspec.language.fields import arg, node
from archspec.operators.base import Facts, Problem
from archspec.operators.heads import Heads


@node
class LocalAttention(Heads):
    """Attention whose softmax runs over a window only.

    raster: token i sees j with abs(i - j) <= window (causal: 0 <= i - j <= window). grid: token (r, c) sees the tokens
    at most `window` rows and `window` columns away. Where two streams are mixed, windows are of the image's tokens;
    the text's see all tokens, and all see them.
    """

    name: ClassVar[str] = "local_attention"
    source: ClassVar[str] = "Beltagy et al. 2020, https://arxiv.org/abs/2004.05150, Sec. 3.1"

    window: int = arg("tokens to either side that a token sees", least=1, example=4)
    layout: Literal["raster", "grid"] = arg("raster: 1-D window in token order; grid: 2-D window", default="raster")

    def problems(self, site: SiteShape) -> Iterator[Problem]:
        yield from super().problems(site)
        if self.causal and site.beside:
            message = "the text's tokens, which stand before the image's, see all of them"
            yield Problem("causal", message, "leave causal out")
        if self.layout == "raster":
            return
        if site.grid is None:
            yield Problem("layout", "the tokens of this site form no 2-D grid", "write layout raster")
        elif site.prefix:
            message = "tokens stand before the grid of this site, and no window on it holds them"
            yield Problem("layout", message, "write layout raster")
        if self.causal:
            yield Problem("layout", "a 2-D window is not causal", "write layout raster")

    def facts(self, site: SiteShape) -> Facts:
        reach = self.window
        if self.layout == "grid" and site.grid:
            rows, columns = site.grid
            reach = min(self.window, rows - 1) * columns + min(self.window, columns - 1)
        text = site.beside is not None or (self.layout == "grid" and site.context_first)
        everything = text or (site.tokens is not None and reach >= site.tokens - 1)
        return Facts(causal=bool(self.causal), reach=None if everything else reach)
