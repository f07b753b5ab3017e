"""Cases of the study of feature grafts: what is asked for, what the host draws of it alone, and donors for it.

A prompt names shapes, their places and a background, and leaves colour and texture free. Donors are rendered: subjects
of the same shapes and sizes, on another background, at other places, at least APART pixels from where the host puts its
own. Where that is is measured in the host's own picture (`find_subject`), since no detector is here. A case is a pure
function of the host, the seed and its number; numbers whose picture shows no such subject are passed over, whatever a
graft would do.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from archspec.runtime.data.scenes import (
    BACKGROUNDS,
    COLOURS,
    ONE,
    PAIRS,
    PLACES,
    SHAPES,
    SIDE,
    Scene,
    Subject,
    draw_subject,
)
from archspec.runtime.data.shapes import render
from benchmarks.shapes_measures import Array, Found, Mask, find_subject, without

APART = 12
"""Three tokens of four pixels."""
LEAST, MOST = 100, 900
"""Pixels of a subject that is grafted onto."""
TRIES = 200
SIDES = ("left", "right", "top", "bottom")
"""Places that have others at least APART pixels away."""

Paint = Callable[[str, int], Array]
"""What the host draws of a prompt alone from the noise of a seed: (3, rows, columns) in 0..1."""


@dataclass(frozen=True)
class Donor:
    """`image` (rows, columns, 3) uint8; `place`: the mask of the subject that it is for, in the host's own picture."""

    image: NDArray[np.uint8]
    mask: Mask
    place: Mask
    subject: Subject

    @property
    def pixels(self) -> Array:
        """(3, rows, columns) in 0..1"""
        return self.image.transpose(2, 0, 1) / 255


@dataclass(frozen=True)
class Case:
    """`plain`: the host's own picture of the prompt, (3, rows, columns) in 0..1; `donors`: of its subjects from left to
    right."""

    number: int
    seed: int
    prompt: str
    shapes: tuple[str, ...]
    background: str
    plain: Array
    donors: tuple[Donor, ...]


def make_case(number: int, base: int, subjects: int, paint: Paint) -> Case | None:
    """Return case `number` of a seed's endless list; None if the host's picture shows nothing to graft onto."""
    random = np.random.default_rng((base, subjects, number))
    shapes = tuple(SHAPES[i] for i in random.permutation(len(SHAPES))[:subjects])
    background, other = (list(BACKGROUNDS)[i] for i in random.permutation(len(BACKGROUNDS))[:2])
    colours = [list(COLOURS)[i] for i in random.permutation(len(COLOURS))[:subjects]]
    told = PAIRS[0] if subjects == 2 else (SIDES[random.integers(len(SIDES))],)
    named = [f"a {shape} at the {place}" for shape, place in zip(shapes, told, strict=True)]
    prompt = f"{' and '.join(named)} {BACKGROUNDS[background]}"
    seed = 100_000 * base + 10_000 * subjects + number
    plain = paint(prompt, seed)
    places = find_places(plain, subjects)
    if places is None:
        return None
    donors = []
    for shape, colour, place in zip(shapes, colours, places, strict=True):
        subject = place_donor(random, shape, colour, place)
        if subject is None:
            return None
        donors.append(draw_donor(random, subject, other, place))
    return Case(number, seed, prompt, shapes, background, plain, tuple(donors))


def find_all(image: Array, count: int) -> list[Found]:
    """Return the `count` largest subjects, or as many as there are, from left to right."""
    found: list[Found] = []
    for _ in range(count):
        subject = find_subject(image)
        if subject is None:
            break
        found.append(subject)
        image = without(image, [subject.mask])
    return sorted(found, key=lambda one: ndimage.center_of_mass(one.mask)[1])


def find_places(image: Array, count: int) -> list[Mask] | None:
    """Return where the subjects of a picture are; None if one is missing, or is too small or too large."""
    masks = [one.mask for one in find_all(image, count)]
    return masks if len(masks) == count and all(LEAST <= mask.sum() <= MOST for mask in masks) else None


def place_donor(random: np.random.Generator, shape: str, colour: str, place: Mask) -> Subject | None:
    """Return a subject of the area of a mask, far from it; None if none of TRIES is."""
    radius = SIDE / 4 * float(np.sqrt(place.sum() / _area(shape)))
    row, column = ndimage.center_of_mass(place)
    for _ in range(TRIES):
        drawn = draw_subject(random, shape, list(PLACES)[random.integers(len(PLACES))], ONE)
        if np.hypot(drawn.x - column, drawn.y - row) >= APART:
            return replace(drawn, colour=colour, radius=radius)
    return None


def _area(shape: str) -> int:
    """Return the pixels of a shape whose radius is a quarter of the picture."""
    subject = Subject(shape, "white", "plain", SIDE / 2, SIDE / 2, SIDE / 4, 0.0, 0.0)
    return int(render([Scene((subject,), "night", (0.5,) * 16, ((True, True, True),), True)]).masks[0, 0].sum())


def draw_donor(random: np.random.Generator, subject: Subject, background: str, place: Mask) -> Donor:
    scene = Scene((subject,), background, tuple(random.random(16).tolist()), ((True, True, True),), True)
    drawn = render([scene])
    image = np.rint((drawn.images[0].transpose(1, 2, 0) + 1) * 127.5).astype(np.uint8)
    return Donor(image, drawn.masks[0, 0], place, subject)
