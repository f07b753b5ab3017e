"""The backgrounds of the data set `shapes`, each varied by the sixteen numbers in 0..1 of its scene.

Muted colours, so that every colour of a subject stands out. Arrays as in `shapes`: (count, rows, columns), 0..1;
`w` is (count, 16, 1, 1).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from archspec.runtime.data.scenes import BACKGROUNDS, SIDE

Array = NDArray[np.floating]


def grounds(names: list[str], variation: Array, rows: Array, columns: Array) -> Array:
    """Return (count, 3, side, side) backgrounds; `variation` (count, 16), `rows` and `columns` (side, side) places."""
    found = np.empty((len(names), 3, SIDE, SIDE), np.float32)
    kinds = np.array(names)
    for name in dict.fromkeys(names):
        mine = kinds == name
        w = variation[mine][:, :, None, None]
        found[mine] = GROUNDS[name](w, rows, columns) * (0.9 + 0.2 * w[:, 15:])
    return np.asarray(np.clip(found, 0, 1))


def _mix(low: tuple[float, ...], high: tuple[float, ...], part: Array) -> Array:
    """Return (count, 3, side, side): from one colour to another by (count, side, side) in 0..1."""
    a, b = (np.array(colour, np.float32)[:, None, None] for colour in (low, high))
    found: Array = a + (b - a) * np.clip(part, 0, 1)[:, None]
    return found


def _wave(along: Array, phase: Array) -> Array:
    found: Array = 0.5 + 0.5 * np.sin(2 * np.pi * (along + phase)).astype(np.float32)
    return found


def _sky(w: Array, rows: Array, columns: Array) -> Array:
    """Blue above, pale below, with a soft cloud."""
    away = np.hypot((columns / SIDE - w[:, 0]) / (0.3 + 0.3 * w[:, 1]), (rows / SIDE - w[:, 2]) / 0.15)
    return _mix((0.33, 0.58, 0.86), (0.74, 0.85, 0.95), 0.9 * rows / SIDE + 0.8 * np.exp(-(away**2)))


def _grass(w: Array, rows: Array, columns: Array) -> Array:
    """Blades that lean."""
    lean = columns / (3 + 1.5 * w[:, 0]) + 0.6 * (w[:, 1] - 0.5) * np.sin(rows / (4 + 4 * w[:, 2]) + 6 * w[:, 3])
    return _mix((0.16, 0.34, 0.12), (0.34, 0.50, 0.20), _wave(lean, w[:, 4]))


def _sand(w: Array, rows: Array, columns: Array) -> Array:
    """Ripples from side to side."""
    ripple = rows / (6 + 4 * w[:, 0]) + (0.4 * w[:, 1] - 0.2) * columns / 4
    return _mix((0.70, 0.60, 0.44), (0.84, 0.76, 0.60), _wave(ripple + 0.15 * _wave(columns / 24, w[:, 2]), w[:, 3]))


def _night(w: Array, rows: Array, columns: Array) -> Array:
    """Dark blue with six stars."""
    stars = [np.exp(-((columns - SIDE * w[:, i]) ** 2 + (rows - SIDE * w[:, i + 6]) ** 2)) for i in range(6)]
    return _mix((0.04, 0.05, 0.17), (0.85, 0.85, 0.75), 0.12 * rows / SIDE + sum(stars))


def _brick(w: Array, rows: Array, columns: Array) -> Array:
    """Courses of 8 pixels, every other one shifted by half a brick of 16."""
    down = rows + 8 * w[:, 0]
    across = columns + 16 * w[:, 1] + 8 * (down // 8 % 2)
    inside = np.minimum(np.minimum(down % 8, 8 - down % 8), np.minimum(across % 16, 16 - across % 16))
    tone = np.sin(12.9 * (down // 8) + 78.2 * (across // 16) + 6 * w[:, 2])
    return _mix((0.62, 0.58, 0.54), (0.50, 0.27, 0.22), inside - 0.4) * (1 + 0.1 * tone)[:, None]


def _plaid(w: Array, rows: Array, columns: Array) -> Array:
    """Bands both ways; where they cross it is darkest."""
    period = 12 + 4 * w[:, 0]
    bands = [np.clip(3 * _wave(along / period, w[:, i]) - 1.5, 0, 1) for i, along in ((1, rows), (2, columns))]
    return _mix((0.72, 0.68, 0.76), (0.38, 0.34, 0.48), 0.5 * (bands[0] + bands[1]))


GROUNDS: Mapping[str, Callable[[Array, Array, Array], Array]] = dict(
    zip(BACKGROUNDS, (_sky, _grass, _sand, _night, _brick, _plaid), strict=True)
)
