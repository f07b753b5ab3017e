"""A short depthwise convolution over tokens: along their order, causal or not, or over the 2-D grid."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.functional import conv1d, conv2d, pad

from archspec.host.structure import SiteShape
from archspec.operators.gated import Filters, GatedConvolution
from archspec.runtime.operators import depthwise
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


class TokenConvolution(ShortFilters):
    """(batch, tokens, channels) -> the same, with zeros around the first and the last token."""

    def __init__(self, config: GatedConvolution, name: str, filters: Filters, shape: SiteShape) -> None:
        kernel = config.kernels[name]
        back, grid = config.back(kernel), config.layout == "grid"
        size = (kernel, kernel) if grid else (kernel,)
        super().__init__(config.channels(name), size, back * kernel + back if grid else back, filters)
        self.shape, self.sides = shape, (back, kernel - 1 - back)

    def forward(self, u: Tensor) -> Tensor:
        channels, line = u.shape[2], u.transpose(1, 2)
        if self.weight.dim() == 4:
            image = torch.unflatten(line, 2, grid_of(u.shape[1], self.shape))
            y = conv2d(pad(image, self.sides * 2), self.weight, self.bias, groups=channels).flatten(2)
        elif self.sides[1] == 0:
            y = causal_conv(line, self.weight, self.bias)
        else:
            y = conv1d(pad(line, self.sides), self.weight, self.bias, groups=channels)
        return y.transpose(1, 2)


def slow_convolution(
    u: Tensor, state: Mapping[str, Tensor], config: GatedConvolution, name: str, shape: SiteShape
) -> Tensor:
    """The definition of `TokenConvolution`, tap by tap."""
    grid = grid_of(u.shape[1], shape) if config.layout == "grid" else None
    return depthwise.reference(u, state[f"{name}.weight"], state[f"{name}.bias"], grid, bool(config.causal))
