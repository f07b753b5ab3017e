"""From pixels to tokens: which tokens of a grid a mask holds."""

from __future__ import annotations

from archspec.diagnostics import ArchspecError, fail
from archspec.runtime.collage.masks import Mask, wrong_mask


def to_tokens(mask: Mask, rows: int, columns: int, least: float = 0.5, name: str = "the subject") -> Mask:
    """Return (rows * columns,) bool, row after row: where at least the share `least` of a token's pixels is inside.

    FreeGraftor reads the one pixel at a token's corner instead, by which thin parts come and go with their position.
    `name` is for messages: of whom the mask is. Raises AS770 of an empty mask, AS778 where tokens would not be squares
    of whole pixels, or none is inside.

    >>> import numpy as np
    >>> to_tokens(np.array([[1, 1, 0, 0], [1, 0, 0, 0]], bool), 1, 2)
    array([ True, False])
    """
    wrong = wrong_mask(mask, mask.shape, f"of {name}")
    if wrong:
        raise ArchspecError(wrong)
    side = _side(mask.shape, rows, columns)
    if not 0 < least <= 1:
        raise fail("AS778", f"a token cannot be inside by a share of {least:g}", None, "write a number in (0, 1]")
    shares = mask.reshape(rows, side, columns, side).mean((1, 3))
    inside: Mask = (shares >= least).ravel()
    if not inside.any():
        message = f"no token is inside the mask of {name} by {least:g}; at most by {shares.max():.2g}"
        raise fail("AS778", message, None, "let the subject be larger, or lower the least share")
    return inside


def _side(size: tuple[int, ...], rows: int, columns: int) -> int:
    height, width = size
    side = height // max(rows, 1)
    if rows < 1 or columns < 1 or (side * rows, side * columns) != (height, width):
        message = f"{columns} x {rows} tokens do not tile a picture of {width} x {height} pixels in squares"
        raise fail("AS778", message, None, "give the template the width and height that the host draws")
    return side
