"""A short depthwise convolution over tokens: along their order, causal or not, or over the 2-D grid."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.functional import conv1d, conv2d, pad

from archspec.host.structure import SiteShape
from archspec.operators.gated import Filters, GatedConvolution, Layout
from archspec.runtime.operators.base import grid_of
from archspec.runtime.operators.causal_conv import causal_conv


class ShortFilters(nn.Module):
    """Weights (channels, 1, *kernel) and bias (channels,), drawn as torch draws those of a convolution.

    `own` is the tap at the token itself, of a filter laid flat.
    """

    def __init__(self, channels: int, kernel: tuple[int, ...], own: int, filters: Filters) -> None:
        super().__init__()
        self.own, self.filters = own, filters
        self.weight = nn.Parameter(torch.empty(channels, 1, *kernel))
        self.bias = nn.Parameter(torch.empty(channels))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw in any case, so that what is drawn next does not depend on `filters`."""
        bound = self.weight[0].numel() ** -0.5
        nn.init.kaiming_uniform_(self.weight, a=5**0.5)
        nn.init.uniform_(self.bias, -bound, bound)
        if self.filters == "identity":
            self.pass_through()

    @torch.no_grad()
    def pass_through(self) -> None:
        """Let every filter be 1 at the token itself: y = u."""
        self.weight.zero_()
        self.weight.flatten(2)[..., self.own] = 1.0
        self.bias.zero_()

    @torch.no_grad()
    def open_gates(self, scale: Tensor) -> None:
        """Let the first channels be 1 + scale u, of the token itself. scale (gates,)."""
        gates = len(scale)
        filters = self.weight.flatten(2)  # a view
        filters[:gates] = 0.0
        filters[:gates, 0, self.own] = scale
        self.bias.zero_()
        self.bias[:gates] = 1.0


def taps(kernel: int, causal: bool) -> tuple[int, int]:
    """Return the taps before and after the token itself: all before it, or as many to either side ('same').

    >>> taps(4, True), taps(4, False)
    ((3, 0), (2, 1))
    """
    return (kernel - 1, 0) if causal else (kernel // 2, kernel - 1 - kernel // 2)


class TokenConvolution(ShortFilters):
    """(batch, tokens, channels) -> the same, with zeros around the first and the last token."""

    def __init__(
        self,
        channels: int,
        kernel: int,
        shape: SiteShape,
        *,
        causal: bool = True,
        layout: Layout = "raster",
        filters: Filters = "random",
    ) -> None:
        (before, after), axes = taps(kernel, causal), 2 if layout == "grid" else 1
        own = before * kernel + before if axes == 2 else before
        super().__init__(channels, (kernel,) * axes, own, filters)
        self.shape, self.before, self.after = shape, before, after

    def forward(self, u: Tensor, past: Tensor | None = None, before: int = 0) -> Tensor:
        """Convolve. `past`: what `recent` returned of the tokens before; None at the beginning. `before`: tokens of a
        second stream, which on the grid are shown nothing but themselves."""
        channels, sides, line = u.shape[2], (self.before, self.after), u.transpose(1, 2)
        if self.weight.dim() == 4:
            prefix = self.shape.prefix + before
            image = torch.unflatten(line[..., prefix:], 2, grid_of(u.shape[1], self.shape, before))
            y = conv2d(pad(image, sides * 2), self.weight, self.bias, groups=channels).flatten(2)
            if prefix:
                alone = line[..., :prefix] * self.weight.flatten(1)[:, self.own, None] + self.bias[:, None]
                y = torch.cat((alone.to(y.dtype), y), 2)
        elif past is not None:
            line = torch.cat((past.to(u.dtype).transpose(1, 2), line), 2)
            y = conv1d(pad(line, (0, self.after)), self.weight, self.bias, groups=channels)
        elif self.after == 0:
            y = causal_conv(line, self.weight, self.bias)
        else:
            y = conv1d(pad(line, sides), self.weight, self.bias, groups=channels)
        return y.transpose(1, 2)

    def recent(self, u: Tensor, past: Tensor | None = None) -> Tensor:
        """Return the inputs (batch, taps before the token itself, channels) that the next tokens need again."""
        known = u.new_zeros(len(u), self.before, u.shape[2]) if past is None else past.to(u.dtype)
        last = u[:, max(0, u.shape[1] - self.before) :]
        return torch.cat((known, last), 1)[:, last.shape[1] :]


def slow_convolution(
    u: Tensor, state: Mapping[str, Tensor], config: GatedConvolution, name: str, shape: SiteShape
) -> Tensor:
    """The definition of one convolution of a row."""
    grid = grid_of(u.shape[1], shape) if config.layout == "grid" else None
    weight, bias = state[f"{name}.weight"], state[f"{name}.bias"]
    return slow_tokens(u, weight, bias, grid, bool(config.causal), shape.prefix)


def slow_tokens(
    u: Tensor, weight: Tensor, bias: Tensor, grid: tuple[int, int] | None, causal: bool, prefix: int = 0
) -> Tensor:
    """The definition of `TokenConvolution`: u (batch, tokens, channels), weight (channels, 1, taps [x taps]). On a
    grid, each of the `prefix` first tokens is a grid of its own."""
    if grid and prefix:
        alone = [slow_tokens(u[:, i : i + 1], weight, bias, (1, 1), causal) for i in range(prefix)]
        return torch.cat((*alone, slow_tokens(u[:, prefix:], weight, bias, grid, causal)), 1)
    rows, columns = grid or (1, u.shape[1])
    kernel = weight.shape[-1]
    filters = weight.reshape(len(weight), -1, kernel)
    (before, _), above = taps(kernel, causal), kernel // 2 if grid else 0
    out = []
    for i in range(u.shape[1]):
        total = bias.expand(len(u), -1)
        for a in range(filters.shape[1]):
            for b in range(kernel):
                row, column = i // columns + a - above, i % columns + b - before
                if 0 <= row < rows and 0 <= column < columns:
                    total = total + filters[:, a, b] * u[:, row * columns + column]
        out.append(total)
    return torch.stack(out, 1)
