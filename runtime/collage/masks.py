"""Pictures and masks: reading them from files, checking and measuring them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps
from scipy import ndimage

from archspec.diagnostics import ArchspecError, Diagnostic, fail
from archspec.runtime.data.folder import image_tensor

Pixels = NDArray[np.uint8]
Mask = NDArray[np.bool_]
UNREADABLE = (OSError, ValueError, SyntaxError, Image.DecompressionBombError)


def read_picture(path: Path) -> Pixels:
    """Return a picture (H, W, 3) as it is to be seen: turned as its EXIF says, transparency laid on white.

    Raises AS704 where the file is no picture.
    """
    try:
        with Image.open(path) as image:
            x = image_tensor(ImageOps.exif_transpose(image))
    except UNREADABLE as error:
        raise _unreadable(path, error) from error
    pixels = ((x + 1) * 127.5).round().byte().permute(1, 2, 0).numpy()
    return np.ascontiguousarray(np.broadcast_to(pixels, (*pixels.shape[:2], 3)))


def _unreadable(path: Path, error: Exception) -> ArchspecError:
    reason = error.strerror if isinstance(error, OSError) and error.strerror else error
    return fail("AS704", f"'{path}' is no readable image: {reason}")


def read_mask(path: Path, size: tuple[int, int] | None = None) -> Mask:
    """Return the mask (H, W) of a picture's file: its opacity where any of it is transparent, else its brightness.

    Half of full opacity or white is inside. `size` is the (height, width) of what it is a mask of. Raises AS704 where
    the file is no picture, AS770 where nothing is inside, AS771 where the size is another.
    """
    try:
        with Image.open(path) as image:
            levels, full = _levels(ImageOps.exif_transpose(image))
    except UNREADABLE as error:
        raise _unreadable(path, error) from error
    mask = 2 * levels.astype(np.int64) > full
    wrong = wrong_mask(mask, size or mask.shape[:2], f"'{path}'", brightest=f"{levels.max()} of {full}")
    if wrong:
        raise ArchspecError(wrong)
    return mask


def _levels(image: Image.Image) -> tuple[NDArray[np.integer], int]:
    """Return what a mask is read off, (H, W), and its largest possible value."""
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        opacity = np.asarray(image.convert("RGBA"))[..., 3]
        if opacity.min() < 255:
            return opacity, 255
    if image.mode == "F":
        raise ValueError("images of mode F have no stated range")
    if image.mode.startswith("I"):
        return np.asarray(image), 65535
    return np.asarray(image.convert("L")), 255


def wrong_mask(mask: Mask, size: tuple[int, ...], what: str, brightest: str = "") -> Diagnostic | None:
    """Return what is wrong with a mask, whose picture is of `size` (height, width): its size, or emptiness."""
    if mask.shape != tuple(size):
        (rows, columns), (height, width) = mask.shape, size
        message = f"the mask {what} is of {columns} x {rows} pixels, its picture of {width} x {height}"
        return Diagnostic("AS771", message, hints=("draw it over the picture itself, at full size",))
    if not mask.any():
        dark = f"its brightest pixel is {brightest}: " if brightest else ""
        return Diagnostic("AS770", f"the mask {what} is empty", hints=(f"{dark}write the subject as white on black",))
    return None


def overlap(one: Mask, other: Mask) -> float:
    """Return intersection over union (0 of two empty masks)."""
    union = np.count_nonzero(one | other)
    return float(np.count_nonzero(one & other) / union) if union else 0.0


def extents(mask: Mask) -> tuple[int, int, int, int]:
    """Return (left, top, right, bottom) of a mask that is not empty; right and bottom are the first ones outside."""
    (rows,), (columns,) = np.nonzero(mask.any(1)), np.nonzero(mask.any(0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def dilated(mask: Mask, share: float = 0.2) -> Mask:
    """Return the mask grown by a disc of diameter `share` times the square root of its area.

    >>> import numpy as np
    >>> grown = dilated(np.pad(np.ones((10, 10), bool), 5))     # a disc of diameter 2
    >>> int(grown.sum())
    140
    """
    radius = share * np.sqrt(np.count_nonzero(mask)) / 2
    grown: Mask = mask | (ndimage.distance_transform_edt(~mask) <= radius)
    return grown
