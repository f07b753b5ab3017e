"""Depthwise convolutions over tokens: along their order, with what came before, or over their 2-D grid."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import pad


def taps(kernel: int, causal: bool) -> tuple[int, int]:
    """Return the taps before and after the token itself: all before it, or as many to either side ('same').

    >>> taps(4, True), taps(4, False)
    ((3, 0), (2, 1))
    """
    return (kernel - 1, 0) if causal else (kernel // 2, kernel - 1 - kernel // 2)


def over_raster(conv: nn.Module, u: Tensor, kernel: int, causal: bool, past: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return the convolution (batch, tokens, channels), and the last `taps` inputs before the next token.

    `past`: what an earlier call returned; None at the beginning, where there were zeros.
    """
    before, after = taps(kernel, causal)
    u = torch.cat((pad(u[:, :0], (0, 0, 0, before)) if past is None else past.to(u.dtype), u), 1)
    y: Tensor = conv(pad(u.transpose(1, 2), (0, after))).transpose(1, 2)
    return y, u[:, u.shape[1] - before :]


def over_grid(conv: nn.Module, u: Tensor, kernel: int, grid: tuple[int, int]) -> Tensor:
    """Return the K x K convolution of tokens (batch, rows * columns, channels), zeros around the grid."""
    before, after = taps(kernel, False)
    image = torch.unflatten(u.transpose(1, 2), 2, grid)
    y: Tensor = conv(pad(image, (before, after, before, after)))
    return y.flatten(2).transpose(1, 2)


def reference(u: Tensor, weight: Tensor, bias: Tensor, grid: tuple[int, int] | None, causal: bool) -> Tensor:
    """The definition of both: u (batch, tokens, channels), weight (channels, 1, taps or taps x taps)."""
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
