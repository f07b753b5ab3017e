"""What the pictures of the data set `shapes` show: one or two subjects before a background, drawn from an index.

A scene is a pure function of (seed, index), so the data set has no end and is stored nowhere. Its caption names the
shapes, from left to right or from top to bottom, and where each is; each colour, each texture, each place and the
background is left out of it at random, so that a model of these captions must be free in what a caption does not say.
`shapes` (the module) renders scenes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

SIDE = 48
"""Rows and columns of a picture, in pixels."""
SHAPES = ("circle", "square", "triangle", "star", "ring", "cross")
COLOURS = {
    "red": (0.88, 0.12, 0.12),
    "orange": (1.00, 0.52, 0.05),
    "yellow": (0.97, 0.90, 0.12),
    "green": (0.10, 0.78, 0.22),
    "cyan": (0.05, 0.85, 0.90),
    "blue": (0.12, 0.22, 0.92),
    "purple": (0.55, 0.15, 0.85),
    "pink": (1.00, 0.50, 0.75),
    "white": (0.97, 0.97, 0.97),
}
"""Red, green and blue in 0..1."""
TEXTURES = ("plain", "striped", "dotted", "checked")
BACKGROUNDS = {
    "sky": "in sky",
    "grass": "on grass",
    "sand": "on sand",
    "night": "at night",
    "brick": "on brick",
    "plaid": "on plaid",
}
"""How a caption says each."""
PLACES = {"middle": (0, 0), "left": (-1, 0), "right": (1, 0), "top": (0, -1), "bottom": (0, 1)}
"""Where a subject is: which way from the middle of the picture, to the right and down."""
PAIRS = (("left", "right"), ("top", "bottom"))
"""Places of two subjects."""
WORDS = tuple(
    dict.fromkeys(
        [
            *("a", "an", "and", "at", "the", *COLOURS, *TEXTURES, *SHAPES, *PLACES),
            *(word for said in BACKGROUNDS.values() for word in said.split()),
        ]
    )
)
"""Every word of every caption."""
LONGEST = 17
"""Words of the longest caption."""
LEFT_OUT = 0.25
"""Chance that a caption does not say a colour, a texture, a place or the background."""
TWO = 0.5
ANGLE = 0.3
"""A shape is turned by this at most, either way, in radians."""


@dataclass(frozen=True)
class Layout:
    """Of a scene's subjects, in pixels: their `radius` at least and at most; how far the `away` of their places is from
    the middle; how far they may be from there, `along` the line through both places and `across` it."""

    radius: tuple[float, float]
    away: float
    along: float
    across: float


ONE, BOTH = Layout((11.5, 14.0), 8.0, 2.0, 2.0), Layout((9.5, 11.0), 12.0, 0.75, 4.0)


@dataclass(frozen=True)
class Subject:
    """`x`, `y`: of the centre, in pixels from the left and from the top; `radius`: of the circle around the shape, in
    pixels; `angle`: of shape and texture, in radians; `phase`: where the texture starts, in parts of its period;
    `place`: how a caption says where it is."""

    shape: str
    colour: str
    texture: str
    x: float
    y: float
    radius: float
    angle: float
    phase: float
    place: str = "middle"


@dataclass(frozen=True)
class Scene:
    """`subjects`: one or two, from left to right or from top to bottom; `variation`: (16,) numbers in 0..1 that vary
    the background; `said`: which of (colour, texture, place) of each subject, and whether the background, the caption
    says."""

    subjects: tuple[Subject, ...]
    background: str
    variation: tuple[float, ...]
    said: tuple[tuple[bool, bool, bool], ...]
    background_said: bool

    @property
    def caption(self) -> str:
        """Such as "a red striped circle at the left and a square at the right on grass"."""
        names = [_name(subject, *said) for subject, said in zip(self.subjects, self.said, strict=True)]
        return " ".join([" and ".join(names), *[BACKGROUNDS[self.background]] * self.background_said])


def _name(subject: Subject, colour: bool, texture: bool, place: bool) -> str:
    words = [*[subject.colour] * colour, *[subject.texture] * texture, subject.shape]
    return " ".join(["an" if words[0] == "orange" else "a", *words, *[f"at the {subject.place}"] * place])


def draw_scene(index: int, seed: int = 0) -> Scene:
    """Return scene `index` of a seed's endless list."""
    random = np.random.default_rng((seed, index))
    two = random.random() < TWO
    places = PAIRS[random.integers(len(PAIRS))] if two else (list(PLACES)[random.integers(len(PLACES))],)
    shapes = random.permutation(len(SHAPES))[: len(places)]
    layout = BOTH if two else ONE
    subjects = tuple(draw_subject(random, SHAPES[i], place, layout) for i, place in zip(shapes, places, strict=True))
    said = random.random(7) >= LEFT_OUT
    return Scene(
        subjects,
        list(BACKGROUNDS)[random.integers(len(BACKGROUNDS))],
        tuple(random.random(16).tolist()),
        tuple((bool(said[3 * i]), bool(said[3 * i + 1]), bool(said[3 * i + 2])) for i in range(len(places))),
        bool(said[6]),
    )


def draw_subject(random: np.random.Generator, shape: str, place: str, layout: Layout) -> Subject:
    """Return a subject of this shape at this place, all else drawn."""
    colour, texture = (list(some)[random.integers(len(some))] for some in (COLOURS, TEXTURES))
    across, down = PLACES[place]
    along, aside = random.uniform(-1, 1, 2) * (layout.along, layout.across)
    x, y = (aside, along) if down else (along, aside)
    x, y = SIDE / 2 + layout.away * across + x, SIDE / 2 + layout.away * down + y
    radius, angle, phase = random.uniform(*layout.radius), random.uniform(-ANGLE, ANGLE), random.random()
    return Subject(shape, colour, texture, float(x), float(y), float(radius), float(angle), float(phase), place)
