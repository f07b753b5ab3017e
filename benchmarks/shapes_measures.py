"""What is seen in a picture of shapes: where its subject is, and how far its looks are from another's.

    find_subject(image) -> Found          colour, shape, texture and mask of the largest subject
    colour_distance, texture_distance     a subject against a donor's, each inside its own mask
    outside_distance                      a picture against another of the same place, outside of a mask

Images are (3, rows, columns) in 0..1, masks (rows, columns) of truth. No model judges: the data set is drawn by rules,
so rules read it back, and `tests/benchmarks/test_shapes_measures.py` holds how often they are right on its pictures.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from archspec.runtime.data.scenes import (
    ANGLE,
    BACKGROUNDS,
    COLOURS,
    ONE,
    PLACES,
    SHAPES,
    SIDE,
    TEXTURES,
    Scene,
    Subject,
)
from archspec.runtime.data.shapes import DARK, render

Array = NDArray[np.floating]
Mask = NDArray[np.bool_]

BRIGHT, DIM = 0.2, 0.09
"""A pixel is of a colour, or of its dark shade, if it is this close in RGB of 0..1. Subjects are vivid and backgrounds
are not, but dark shades are close to some of these."""
LEAST = 30
"""Pixels of the smallest subject that is seen."""
WAVES, TURNS = (4.0, 5.66, 8.0), 8
"""Of the texture's filters: lengths in pixels (stripes and dots repeat after 6, checks after 5.66 across their
diagonal), and how many directions in half a turn."""


@dataclass(frozen=True)
class Found:
    """`mask`: where the subject is; `fit`: intersection over union with the best of the shapes."""

    colour: str
    shape: str
    texture: str
    mask: Mask
    fit: float


def find_subject(image: Array, colour: str | None = None) -> Found | None:
    """Return the largest subject, or the largest of a colour; None if there is none of LEAST pixels."""
    masks = {name: colour_mask(image, name) for name in ([colour] if colour else COLOURS)}
    name = max(masks, key=lambda name: int(masks[name].sum()))
    if masks[name].sum() < LEAST:
        return None
    shape, fit = _best_shape(masks[name])
    return Found(name, shape, nearest_texture(image, masks[name]), masks[name], fit)


def colour_mask(image: Array, colour: str) -> Mask:
    """Return the region around the most pixels of a colour: these, its dark shade beside them, what they enclose."""
    bright, dark = (_near(image, shade * np.array(COLOURS[colour]), near) for shade, near in ((1, BRIGHT), (DARK, DIM)))
    regions, count = ndimage.label(ndimage.binary_closing(bright | dark, np.ones((3, 3))))
    if not count:
        return np.zeros(bright.shape, bool)
    found: Mask = regions == 1 + np.argmax(ndimage.sum_labels(bright, regions, np.arange(1, count + 1)))
    return found


def without(image: Array, masks: Sequence[Mask]) -> Array:
    """Return a picture with the median of the rest where subjects were."""
    gone = ndimage.binary_dilation(np.logical_or.reduce(masks), iterations=2)
    left: Array = image.copy()
    left[:, gone] = np.median(image[:, ~gone], axis=1)[:, None]
    return left


def _near(image: Array, colour: Array, near: float) -> Mask:
    found: Mask = np.sqrt(((image - colour[:, None, None]) ** 2).sum(0)) < near
    return found


def _best_shape(mask: Mask) -> tuple[str, float]:
    """Return the shape that, put where the mask is and as large, covers it best, and its intersection over union."""
    y, x = ndimage.center_of_mass(mask)
    shifted = np.stack([ndimage.shift(m.astype(float), (y - SIDE / 2 + 0.5, x - SIDE / 2 + 0.5), order=1) > 0.5 for m in
                        _templates(round(float(np.sqrt(mask.sum()))))])  # fmt: skip
    fits = (shifted & mask).sum((1, 2)) / (shifted | mask).sum((1, 2))
    best = int(fits.argmax())
    return SHAPES[best % len(SHAPES)], float(fits[best])


@cache
def _templates(size: int) -> Mask:
    """Every shape of size^2 pixels in the middle, at seven angles: (7 * shapes, rows, columns)."""
    radii = {shape: 12.0 * size / np.sqrt(_masks_of([_plain(shape, 12.0, 0.0)]).sum()) for shape in SHAPES}
    return _masks_of(
        [_plain(shape, radii[shape], angle) for angle in np.linspace(-ANGLE, ANGLE, 7) for shape in SHAPES]
    )


def _plain(shape: str, radius: float, angle: float) -> Subject:
    return Subject(shape, "white", "plain", SIDE / 2, SIDE / 2, radius, angle, 0.0)


def _masks_of(subjects: list[Subject]) -> Mask:
    return render([_scene(subject) for subject in subjects]).masks[:, 0]


def _scene(subject: Subject) -> Scene:
    return Scene((subject,), "night", (0.5,) * 16, ((True, True, True),), True)


def nearest_place(mask: Mask) -> str:
    """Return the place of a single subject whose mask this is, by its centre of mass."""
    y, x = (at + 0.5 - SIDE / 2 for at in ndimage.center_of_mass(mask))
    return min(PLACES, key=lambda name: float(np.hypot(x - ONE.away * PLACES[name][0], y - ONE.away * PLACES[name][1])))


def lab(image: Array) -> Array:
    """Return CIE L*a*b* of sRGB pixels (3, ...) in 0..1: a distance of 2.3 is just seen (CIE 15, white D65)."""
    linear = np.where(image <= 0.04045, image / 12.92, ((np.maximum(image, 0) + 0.055) / 1.055) ** 2.4)
    to_xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    xyz = np.tensordot(to_xyz / to_xyz.sum(1, keepdims=True), linear, 1)
    root = np.where(xyz > (6 / 29) ** 3, np.cbrt(xyz), xyz * (29 / 6) ** 2 / 3 + 4 / 29)
    return np.stack([116 * root[1] - 16, 500 * (root[0] - root[1]), 200 * (root[1] - root[2])])


def inner(mask: Mask) -> Mask:
    """Return the mask without its outermost pixels, which edges are smoothed over; as it is, if little is left."""
    found: Mask = ndimage.binary_erosion(mask)
    return found if found.sum() >= LEAST else mask


def colour_distance(image: Array, mask: Mask, donor: Array, donor_mask: Mask) -> float:
    """Return the distance of the mean colours inside two masks, in units of L*a*b*."""
    ours, theirs = lab(image)[:, inner(mask)].mean(1), lab(donor)[:, inner(donor_mask)].mean(1)
    return float(np.linalg.norm(ours - theirs))


def texture(image: Array, mask: Mask) -> Array:
    """Return how strongly each of the filters answers inside a mask: (waves, turns), of the mean brightness.

    Brightness over its mean is free of the colour (a dark shade is the same part of every colour); the answer's size,
    in the mean over the mask, is free of the phase, so of where the subject is. Pixels outside count as the mean: an
    outline is no texture.
    """
    luma = np.tensordot(np.array([0.299, 0.587, 0.114]), image, 1)
    inside = inner(mask)
    mean = max(float(luma[inside].mean()), 1 / 255)
    rest = np.where(inside, luma / mean - 1, 0)
    answers = np.fft.ifft2(np.fft.fft2(rest) * _filters(*rest.shape))
    found: Array = np.sqrt((np.abs(answers[:, :, inside]) ** 2).mean(-1))
    return found


@cache
def _filters(rows: int, columns: int) -> Array:
    """Gabor filters by their frequency responses (waves, turns, rows, columns): Gaussians, a quarter as wide as far."""
    v, u = np.meshgrid(np.fft.fftfreq(rows), np.fft.fftfreq(columns), indexing="ij")
    centres = [[np.exp(1j * np.pi * k / TURNS) / wave for k in range(TURNS)] for wave in WAVES]
    centre = np.array(centres)[:, :, None, None]
    found: Array = np.exp(-0.5 * (np.abs(u + 1j * v - centre) / (0.25 * np.abs(centre))) ** 2)
    return found


def texture_distance(image: Array, mask: Mask, donor: Array, donor_mask: Mask) -> float:
    """Return the distance of two textures: that of their filters' answers, the donor's turned to where it is least."""
    return _turned_distance(texture(image, mask), texture(donor, donor_mask))


def _turned_distance(ours: Array, theirs: Array) -> float:
    return min(float(np.linalg.norm(ours - np.roll(theirs, turn, axis=1))) for turn in range(TURNS))


def nearest_texture(image: Array, mask: Mask) -> str:
    """Return the texture whose rendering, in this mask, is nearest."""
    ours = texture(image, mask)
    return min(TEXTURES, key=lambda name: min(_turned_distance(ours, texture(p, mask)) for p in _patterns()[name]))


@cache
def _patterns() -> Mapping[str, Array]:
    """Each texture on a square as large as the picture, at two phases: (2, 3, rows, columns)."""
    whole = _plain("square", 4.0 * SIDE, 0.0)
    return {
        name: (render([_scene(replace(whole, texture=name, phase=phase)) for phase in (0.0, 0.3)]).images + 1) / 2
        for name in TEXTURES
    }


def nearest_background(image: Array, mask: Mask) -> str:
    """Return the background whose mean colour is nearest to that outside of a mask."""
    mean = lab(image)[:, ~ndimage.binary_dilation(mask, iterations=2)].mean(1)
    return min(BACKGROUNDS, key=lambda name: float(np.linalg.norm(mean - _ground_means()[name])))


@cache
def _ground_means() -> Mapping[str, Array]:
    away = _plain("circle", 1.0, 0.0)
    return {
        name: lab((render([replace(_scene(replace(away, x=-9.0)), background=name)]).images[0] + 1) / 2).mean((1, 2))
        for name in BACKGROUNDS
    }


def outside_distance(image: Array, other: Array, mask: Mask) -> float:
    """Return the root of the mean squared difference of two pictures outside of a mask and the pixels around it."""
    outside = ~ndimage.binary_dilation(mask, iterations=2)
    return float(np.sqrt(((image - other)[:, outside] ** 2).mean()))
