"""Where a subject goes: the affine map from a donor's pixels to the collage's, and the subject drawn by it.

A subject is mirrored, turned and scaled, then moved so that its centroid falls on the place's, or one of its edges on
the place's edge. By default it gets the place's area. It is drawn once, by a spline of order 5 (which keeps photographs
closer than OpenCV's and torch's kernels do), of the subject's own colours alone: what lies outside of its mask is first
filled with the nearest of them, so that no halo of the donor's background comes along.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from archspec.diagnostics import Collector, fail, nearest
from archspec.runtime.collage.masks import Mask, Pixels, extents

Align = Literal["centroid", "top", "bottom", "left", "right"]
Affine = NDArray[np.float64]
"""(2, 3): a point (x, y, 1) of the donor -> (x, y) of the collage."""
ORDER = 5
MARGIN = 16
FARTHEST = 2**20
LARGEST = 4
"""A subject may be this many times as wide and high as the picture, of which it then shows a part."""


@dataclass(frozen=True)
class Placement:
    """How a subject is changed and aligned. `shift` is (right, down) in pixels of the collage, after aligning.

    `scale` 1 gives the subject the area of its place. `angle` is in degrees, counter-clockwise as one sees it. `flip`
    mirrors left and right, before turning. Aligned by an edge, the other direction goes by the centroid.
    """

    scale: float = 1.0
    angle: float = 0.0
    flip: bool = False
    align: Align = "centroid"
    shift: tuple[float, float] = (0.0, 0.0)

    def __post_init__(self) -> None:
        """Raise AS774 for each value that is none."""
        problems = Collector()
        if not (math.isfinite(self.scale) and self.scale > 0):
            problems.report("AS774", f"a subject cannot be scaled by {self.scale:g}", None, "write a positive number")
        if not math.isfinite(self.angle):
            problems.report("AS774", f"a subject cannot be turned by {self.angle:g} degrees", None, "write a number")
        if not all(abs(pixels) < FARTHEST for pixels in self.shift):
            problems.report("AS774", f"no picture is as large as a shift of {self.shift} pixels", None, "write pixels")
        if self.align not in get_args(Align):
            hints = nearest(self.align, get_args(Align)) or (f"use one of {', '.join(get_args(Align))}",)
            problems.report("AS774", f"subjects are not aligned by '{self.align}'", None, *hints)
        problems.raise_if_errors()


@dataclass(frozen=True)
class Place:
    """Where in the template a subject goes.

    `erase`: the template shows a subject there, which is to be removed. `fit`: whether the subject gets the area of
    the mask, or is as large as fits the mask's box.
    """

    mask: Mask
    erase: bool = True
    fit: Literal["area", "box"] = "area"


@dataclass(frozen=True)
class Drawn:
    """A subject as it will be pasted: `pixels` and `mask` go to the collage with their first pixel at `corner`."""

    pixels: Pixels
    mask: Mask
    corner: tuple[int, int]
    moved: Affine


def box_place(box: tuple[float, float, float, float], size: tuple[int, int]) -> Place:
    """Return the place of a box (left, top, right, bottom) in a template of `size` (height, width) without a subject.

    Raises AS775 where no pixel of the template lies in the box.
    """
    left, top, right, bottom = (round(edge) for edge in box)
    mask = np.zeros(size, dtype=bool)
    mask[max(top, 0) : max(bottom, 0), max(left, 0) : max(right, 0)] = True
    if not mask.any():
        message = f"the box from ({left}, {top}) to ({right}, {bottom}) holds nothing of {size[1]} x {size[0]} pixels"
        raise fail("AS775", message, None, "write it as left, top, right, bottom in pixels")
    return Place(mask, erase=False, fit="box")


def draw(name: str, image: Pixels, mask: Mask, placement: Placement, place: Place) -> Drawn:
    """Return the subject of a donor's `image` as `placement` puts it into `place`.

    Raises AS774 of a subject much larger than the picture, AS775 of one smaller than a pixel.
    """
    linear = _linear(mask, placement, place)
    moved = np.c_[linear, _anchor(place.mask, place.fit) - _anchor(mask, place.fit, linear) + placement.shift]
    if np.array_equal(linear, np.rint(linear)) and abs(np.linalg.det(linear)) == 1:
        moved[:, 2] = np.rint(moved[:, 2])  # turned by right angles at its size, it is copied pixel by pixel
    corner, shape = _patch(name, mask, moved, place.mask.shape)
    pixels, inside = _resample(image, mask, moved, corner, shape)
    step = _to_edge(inside, corner, placement, place.mask)
    moved[:, 2] += step
    return Drawn(pixels, inside, (corner[0] + step[0], corner[1] + step[1]), moved)


def _linear(mask: Mask, placement: Placement, place: Place) -> Affine:
    """Return (2, 2): mirror, turn, scale. Right angles are exact."""
    turns, rest = divmod(placement.angle % 360, 90)
    radians = math.radians(placement.angle)
    c, s = (math.cos(radians), math.sin(radians)) if rest else ((1, 0, -1, 0)[int(turns)], (0, 1, 0, -1)[int(turns)])
    turn = np.array([[c, s], [-s, c]], dtype=np.float64)
    turn[:, 0] *= -1 if placement.flip else 1
    if place.fit == "area":
        size = math.sqrt(np.count_nonzero(place.mask) / np.count_nonzero(mask))
    else:
        left, top, right, bottom = extents(place.mask)
        x0, y0, x1, y1 = _bounds(mask, turn)
        size = min((right - left) / (x1 - x0), (bottom - top) / (y1 - y0))
    return turn * (placement.scale * size)


def _bounds(mask: Mask, linear: Affine) -> NDArray[np.float64]:
    """Return (left, top, right, bottom) of the mask's pixels under a linear map, each as the square it is."""
    y, x = np.nonzero(mask)
    points = linear @ np.stack([x, y])
    half = np.abs(linear).sum(1) / 2
    bounds: NDArray[np.float64] = np.concatenate([points.min(1) - half, points.max(1) + half])
    return bounds


def _anchor(mask: Mask, fit: str, linear: Affine | None = None) -> NDArray[np.float64]:
    """Return the point that is aligned: the centroid, or the middle of the box; under a linear map."""
    linear = np.eye(2) if linear is None else linear
    found: NDArray[np.float64]
    if fit == "box":
        found = _bounds(mask, linear).reshape(2, 2).mean(0)
    else:
        y, x = np.nonzero(mask)
        found = linear @ np.array([x.mean(), y.mean()])
    return found


def _patch(name: str, mask: Mask, moved: Affine, size: tuple[int, ...]) -> tuple[tuple[int, int], tuple[int, int]]:
    """Return the first pixel (x, y) and the (height, width) of what the moved mask reaches."""
    bounds = _bounds(mask, moved[:, :2]) + np.tile(moved[:, 2], 2)
    (x0, y0), (x1, y1) = np.floor(bounds[:2]).astype(int), np.ceil(bounds[2:]).astype(int) + 1
    if max(x1 - x0, y1 - y0) > LARGEST * max(size):
        message = f"'{name}' would be of {x1 - x0} x {y1 - y0} pixels in a picture of {size[1]} x {size[0]}"
        raise fail("AS774", message, None, "write a smaller 'scale'")
    if np.count_nonzero(mask) * abs(np.linalg.det(moved[:, :2])) < 1:
        raise fail("AS775", f"'{name}' would be smaller than a pixel", None, "write a larger 'scale'")
    return (int(x0), int(y0)), (int(y1 - y0), int(x1 - x0))


def _resample(
    image: Pixels, mask: Mask, moved: Affine, corner: tuple[int, int], shape: tuple[int, int]
) -> tuple[Pixels, Mask]:
    """Draw the patch of `shape` whose first pixel is `corner`: (h, w, 3) and its mask (h, w)."""
    left, top, right, bottom = extents(mask)
    x0, y0 = max(left - MARGIN, 0), max(top - MARGIN, 0)
    part = np.s_[y0 : bottom + MARGIN, x0 : right + MARGIN]
    inverse = np.linalg.inv(moved[:, :2])
    offset = inverse @ (np.array(corner) - moved[:, 2]) - (x0, y0)
    colours, share = _averaged(image[part], mask[part], 1 / math.sqrt(abs(np.linalg.det(moved[:, :2]))))

    def sample(values: NDArray[np.float64], order: int, mode: str) -> NDArray[np.float64]:
        found: NDArray[np.float64] = ndimage.affine_transform(
            values, inverse[::-1, ::-1], offset[::-1], output_shape=shape, order=order, mode=mode
        )
        return found

    drawn = np.stack([sample(colours[..., c], ORDER, "nearest") for c in range(3)], -1)
    return np.rint(drawn).clip(0, 255).astype(np.uint8), sample(share, 1, "grid-constant") >= 0.5


def _averaged(image: Pixels, mask: Mask, shrink: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the subject's colours (h, w, 3) and its share of each pixel (h, w), averaged over what becomes one pixel.

    Colours are averaged within the mask only; each pixel outside of it has the colour of the nearest one inside.
    """

    def average(values: NDArray[np.float64]) -> NDArray[np.float64]:
        found: NDArray[np.float64] = ndimage.gaussian_filter(values, max(shrink - 1, 0.0) / 2, mode="constant")
        return found

    share = average(mask.astype(np.float64))
    sums = np.stack([average(np.where(mask, image[..., c], 0.0)) for c in range(3)], -1)
    rows, columns = ndimage.distance_transform_edt(~mask, return_distances=False, return_indices=True)
    return (sums / np.where(mask, share, 1.0)[..., None])[rows, columns], share


def _to_edge(inside: Mask, corner: tuple[int, int], placement: Placement, place: Mask) -> tuple[int, int]:
    """Return the whole pixels (x, y) by which what is drawn must move for its edge to fall on the place's."""
    if placement.align == "centroid" or not inside.any():
        return (0, 0)
    side = ("left", "top", "right", "bottom").index(placement.align)
    axis = side % 2
    step = extents(place)[side] + round(placement.shift[axis]) - (extents(inside)[side] + corner[axis])
    return (step, 0) if axis == 0 else (0, step)
