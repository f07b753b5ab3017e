"""The picture of what was matched: every donor token has a colour of its own, by its place, and every target token the
colours of the donor tokens that stood for it, mixed by how often."""

from __future__ import annotations

import colorsys
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from archspec.runtime.features.match import Grid

Pixels = NDArray[np.uint8]
GAP, HEIGHT = 12, 384
"""Pixels between pictures, and the height that each is enlarged to."""
SHOWN = 0.65
"""Of a token's colour over the picture."""


def palette(grid: Grid) -> NDArray[np.float64]:
    """Return (rows * columns, 3) colours in 0..1: hue by the angle from the middle, paler towards it."""
    rows, columns = grid
    y, x = np.mgrid[:rows, :columns].reshape(2, -1)
    down, across = (y + 0.5) / rows - 0.5, (x + 0.5) / columns - 0.5
    hue = np.arctan2(down, across) / (2 * np.pi) % 1
    far = np.minimum(np.hypot(down, across) / 0.5, 1)
    return np.array([colorsys.hsv_to_rgb(h, 0.25 + 0.75 * f, 1.0) for h, f in zip(hue, far, strict=True)])


def matches(donors: Mapping[str, Pixels], target: Pixels, votes: Mapping[str, Tensor], grid: Grid) -> Image.Image:
    """Return one row for each donor: its picture with the tokens that were taken, and the target with what stood for
    what. `votes`: (donor tokens, target tokens)."""
    rows = [_row(donors[name], target, votes[name].double().numpy(), grid) for name in donors]
    width = max(row.width for row in rows)
    sheet = Image.new("RGB", (width, sum(row.height + GAP for row in rows) - GAP), "white")
    top = 0
    for row in rows:
        sheet.paste(row, (0, top))
        top += row.height + GAP
    return sheet


def _row(donor: Pixels, target: Pixels, votes: NDArray[np.float64], grid: Grid) -> Image.Image:
    colours = palette(grid)
    taken, given = votes.sum(axis=1), votes.sum(axis=0)
    mixed = votes.T @ colours / np.maximum(given, 1)[:, None]
    left = _over(donor, colours, taken, grid)
    right = _over(target, mixed, given, grid)
    row = Image.new("RGB", (left.width + GAP + right.width, HEIGHT), "white")
    row.paste(left, (0, 0))
    row.paste(right, (left.width + GAP, 0))
    return row


def _over(image: Pixels, colours: NDArray[np.float64], weight: NDArray[np.float64], grid: Grid) -> Image.Image:
    """Lay colours over a picture, the more the more often a token counted."""
    share = SHOWN * np.sqrt(weight / max(weight.max(), 1))
    sheet = np.concatenate([colours, share[:, None]], axis=1).reshape(*grid, 4)
    width = max(round(image.shape[1] * HEIGHT / image.shape[0]), 1)
    below = Image.fromarray(image).resize((width, HEIGHT), Image.Resampling.NEAREST).convert("RGBA")
    above = Image.fromarray((sheet * 255).round().astype(np.uint8), "RGBA").resize(
        (width, HEIGHT), Image.Resampling.NEAREST
    )
    return Image.alpha_composite(below, above).convert("RGB")
