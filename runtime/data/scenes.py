"""What the pictures of the data set `shapes` show: one or two subjects before a background, drawn from an index.

A scene is a pure function of (seed, index), so the data set has no end and is stored nowhere. Its caption names the
shapes from left to right; each colour, each texture and the background is left out of it at random, so that a model of
these captions must be free in what a caption does not say. `shapes` (the module) renders scenes.
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
WORDS = tuple(
    dict.fromkeys(
        ["a", "an", "and", *COLOURS, *TEXTURES, *SHAPES, *(w for s in BACKGROUNDS.values() for w in s.split())]
    )
)
"""Every word of every caption."""
LONGEST = 11
"""Words of the longest caption."""
LEFT_OUT = 0.25
"""Chance that a caption does not say a colour, a texture or the background."""
TWO = 0.5
ONE_RADIUS, TWO_RADIUS = (10.0, 16.0), (8.0, 11.0)


@dataclass(frozen=True)
class Subject:
    """`x`, `y`: of the centre, in pixels from the left and from the top; `radius`: of the circle around the shape, in
    pixels; `angle`: of shape and texture, in radians; `phase`: where the texture starts, in parts of its period."""

    shape: str
    colour: str
    texture: str
    x: float
    y: float
    radius: float
    angle: float
    phase: float


@dataclass(frozen=True)
class Scene:
    """`subjects`: one or two, from left to right; `variation`: (16,) numbers in 0..1 that vary the background;
    `said`: which of (colour, texture) of each subject, and whether the background, the caption says."""

    subjects: tuple[Subject, ...]
    background: str
    variation: tuple[float, ...]
    said: tuple[tuple[bool, bool], ...]
    background_said: bool

    @property
    def caption(self) -> str:
        """Such as "a red striped circle and a square on grass"."""
        names = [_name(subject, *said) for subject, said in zip(self.subjects, self.said, strict=True)]
        return " ".join([" and ".join(names), *[BACKGROUNDS[self.background]] * self.background_said])


def _name(subject: Subject, colour: bool, texture: bool) -> str:
    words = [*[subject.colour] * colour, *[subject.texture] * texture, subject.shape]
    return " ".join(["an" if words[0] == "orange" else "a", *words])


def draw_scene(index: int, seed: int = 0) -> Scene:
    """Return scene `index` of a seed's endless list."""
    random = np.random.default_rng((seed, index))
    count = 2 if random.random() < TWO else 1
    shapes = random.permutation(len(SHAPES))[:count]
    places = _two_places(random) if count == 2 else _one_place(random)
    subjects = tuple(_subject(random, SHAPES[shape], *place) for shape, place in zip(shapes, places, strict=True))
    said = random.random(5) >= LEFT_OUT
    return Scene(
        subjects,
        list(BACKGROUNDS)[random.integers(len(BACKGROUNDS))],
        tuple(random.random(16).tolist()),
        tuple((bool(said[2 * i]), bool(said[2 * i + 1])) for i in range(count)),
        bool(said[4]),
    )


def _subject(random: np.random.Generator, shape: str, x: float, y: float, radius: float) -> Subject:
    colour = list(COLOURS)[random.integers(len(COLOURS))]
    angle, phase = random.uniform(-0.5, 0.5), random.random()
    return Subject(shape, colour, TEXTURES[random.integers(len(TEXTURES))], x, y, radius, angle, phase)


def _one_place(random: np.random.Generator) -> list[tuple[float, float, float]]:
    radius = random.uniform(*ONE_RADIUS)
    x, y = random.uniform(radius, SIDE - radius, 2)
    return [(x, y, radius)]


def _two_places(random: np.random.Generator) -> list[tuple[float, float, float]]:
    """Return two (x, y, radius) that do not touch, the left one first."""
    while True:
        radii = random.uniform(*TWO_RADIUS, 2)
        x, y = random.uniform(radii[:, None], SIDE - radii[:, None], (2, 2)).T
        if np.hypot(x[0] - x[1], y[0] - y[1]) > radii.sum() + 1 and abs(x[0] - x[1]) > 6:
            return [(float(x[i]), float(y[i]), float(radii[i])) for i in np.argsort(x)]
