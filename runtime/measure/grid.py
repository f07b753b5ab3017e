"""Grids of sample images, as PIL images: small ones enlarged without smoothing, so that each pixel is seen."""

from __future__ import annotations

import math
from pathlib import Path

from PIL import Image
from torch import Tensor

from archspec.runtime.store.files import writing

SMALL = 64
"""Images below this many pixels are enlarged to about as many."""


def grid(pixels: Tensor, columns: int | None = None, gap: int = 2) -> Image.Image:
    """(count, 1 or 3 channels, height, width) in [-1, 1] as one picture, row by row."""
    tiles = [_tile(x) for x in pixels]
    columns = columns or math.ceil(math.sqrt(len(tiles)))
    width, height = tiles[0].size
    rows = math.ceil(len(tiles) / columns)
    size = (columns * (width + gap) - gap, rows * (height + gap) - gap)
    sheet = Image.new(tiles[0].mode, size, "grey")
    for i, tile in enumerate(tiles):
        sheet.paste(tile, (i % columns * (width + gap), i // columns * (height + gap)))
    return sheet


def save_png(image: Image.Image, path: Path) -> None:
    """Write a picture under a temporary name and rename it. AS631, AS632."""
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}.partial")
        try:
            image.save(partial, format="PNG")
            partial.replace(path)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise


def _tile(x: Tensor) -> Image.Image:
    array = ((x.clamp(-1, 1) + 1) * 127.5).round().byte().permute(1, 2, 0).cpu().numpy()
    image = Image.fromarray(array[:, :, 0] if array.shape[2] == 1 else array)
    factor = max(1, SMALL // max(image.size))
    return image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)
