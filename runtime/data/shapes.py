"""Pictures of coloured, textured shapes with their masks: the scenes of `scenes`, rendered all at once.

    render(scenes) -> Pictures

Edges are smoothed over one pixel by the distance to the shape's outline. A texture turns with its shape and has two
shades: the colour itself and a dark one. Arrays are (count, rows, columns) throughout, float32 in 0..1 until the end.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from archspec.runtime.data.grounds import grounds
from archspec.runtime.data.scenes import COLOURS, SHAPES, SIDE, TEXTURES, Scene, Subject, draw_scene

Array = NDArray[np.floating]

DARK = 0.4
"""A texture's dark shade, as a part of the colour."""
MOST = 2
"""Subjects of a scene at most."""


@dataclass(frozen=True)
class Pictures:
    """`images` (count, 3, side, side) float32 in [-1, 1]; `masks` (count, 2, side, side): where each subject is, all
    false for one that a scene does not have; `captions` and `scenes`, one each."""

    images: Array
    masks: NDArray[np.bool_]
    captions: tuple[str, ...]
    scenes: tuple[Scene, ...]


def pictures(indices: Sequence[int], seed: int = 0) -> Pictures:
    """Return the pictures of these indices of a seed's list: a pure function of both."""
    return render([draw_scene(int(index), seed) for index in indices])


def render(scenes: Sequence[Scene]) -> Pictures:
    """Return what the scenes look like."""
    rows, columns = np.mgrid[:SIDE, :SIDE].astype(np.float32) + np.float32(0.5)
    variation = np.array([scene.variation for scene in scenes], np.float32)
    images = grounds([scene.background for scene in scenes], variation, rows, columns)
    masks = np.zeros((len(scenes), MOST, SIDE, SIDE), bool)
    for place in range(MOST):
        having = [i for i, scene in enumerate(scenes) if len(scene.subjects) > place]
        if having:
            cover, paint = _subjects([scenes[i].subjects[place] for i in having], rows, columns)
            images[having] += cover[:, None] * (paint - images[having])
            masks[having, place] = cover > 0.5
    return Pictures(2 * images - 1, masks, tuple(scene.caption for scene in scenes), tuple(scenes))


def _subjects(subjects: Sequence[Subject], rows: Array, columns: Array) -> tuple[Array, Array]:
    """Return how far each pixel is covered, (count, side, side), and in which colour, (count, 3, side, side)."""

    def column(name: str) -> Array:
        return np.array([getattr(s, name) for s in subjects], np.float32)[:, None, None]

    x, y, angle = columns - column("x"), rows - column("y"), column("angle")
    u, v = np.cos(angle) * x + np.sin(angle) * y, np.cos(angle) * y - np.sin(angle) * x
    distance = _choose(OUTLINES, [s.shape for s in subjects], u, v, column("radius"))
    bright = _choose(PATTERNS, [s.texture for s in subjects], u, v, column("phase"))
    colour = np.array([COLOURS[s.colour] for s in subjects], np.float32)[:, :, None, None]
    return np.clip(0.5 - distance, 0, 1), colour * (DARK + (1 - DARK) * bright)[:, None]


def _choose(table: Mapping[str, Callable[..., Array]], names: Sequence[str], u: Array, v: Array, more: Array) -> Array:
    """Return, for each name, its function of the table on its rows of the arguments."""
    found, kinds = np.empty_like(u), np.array(names)
    for name in dict.fromkeys(names):
        mine = kinds == name
        found[mine] = table[name](u[mine], v[mine], more[mine])
    return found


# Signed distances in pixels to outlines that a circle of radius r holds, negative inside.


def _circle(u: Array, v: Array, r: Array) -> Array:
    found: Array = np.hypot(u, v) - 0.9 * r
    return found


def _box(u: Array, v: Array, width: Array, height: Array) -> Array:
    found: Array = np.maximum(np.abs(u) - width, np.abs(v) - height)
    return found


def _square(u: Array, v: Array, r: Array) -> Array:
    return _box(u, v, 0.72 * r, 0.72 * r)


def _triangle(u: Array, v: Array, r: Array) -> Array:
    """Corners at the top and at the lower left and right."""
    found: Array = np.maximum(v - 0.5 * r, np.sqrt(3) / 2 * np.abs(u) - 0.5 * v - 0.5 * r).astype(np.float32)
    return found


def _star(u: Array, v: Array, r: Array) -> Array:
    """Five points: the edge from a point (radius r) to the next dent (0.45 r), mirrored ten times."""
    sector = np.float32(np.pi / 5)
    turn = np.abs((np.arctan2(u, -v) + sector) % (2 * sector) - sector)
    along, across = np.hypot(u, v) * np.cos(turn), np.hypot(u, v) * np.sin(turn)
    dent = 0.45 * r * np.cos(sector), 0.45 * r * np.sin(sector)
    length = np.hypot(r - dent[0], dent[1])
    found: Array = ((along - r) * dent[1] + across * (r - dent[0])) / length
    return found


def _ring(u: Array, v: Array, r: Array) -> Array:
    found: Array = np.abs(np.hypot(u, v) - 0.68 * r) - 0.26 * r
    return found


def _cross(u: Array, v: Array, r: Array) -> Array:
    found: Array = np.minimum(_box(u, v, 0.92 * r, 0.32 * r), _box(u, v, 0.32 * r, 0.92 * r))
    return found


OUTLINES: Mapping[str, Callable[[Array, Array, Array], Array]] = dict(
    zip(SHAPES, (_circle, _square, _triangle, _star, _ring, _cross), strict=True)
)


# How bright a texture is in 0..1: periods of 6 and 8 pixels, edges over about one.


def _plain(u: Array, v: Array, phase: Array) -> Array:
    return np.ones_like(u)


def _wave(u: Array, period: float, phase: Array | float) -> Array:
    found: Array = np.sin(2 * np.pi * (u / period + phase)).astype(np.float32)
    return found


def _striped(u: Array, v: Array, phase: Array) -> Array:
    found: Array = np.clip(0.5 + 1.5 * _wave(u, 6, phase), 0, 1)
    return found


def _dotted(u: Array, v: Array, phase: Array) -> Array:
    across, down = (u + 6 * phase) % 6 - 3, v % 6 - 3
    found: Array = np.clip(np.hypot(across, down) - 1.4, 0, 1)
    return found


def _checked(u: Array, v: Array, phase: Array) -> Array:
    found: Array = np.clip(0.5 + 2 * _wave(u, 8, phase) * _wave(v, 8, phase), 0, 1)
    return found


PATTERNS: Mapping[str, Callable[[Array, Array, Array], Array]] = dict(
    zip(TEXTURES, (_plain, _striped, _dotted, _checked), strict=True)
)
