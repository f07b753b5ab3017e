"""What the host of shapes is taught after all pictures at once had left shapes unlearnt: lessons from easy to whole.

A lesson shows pictures of the same rules, made easier: one subject more often, larger, nearer to the middle, less
turned, with less texture; and it counts errors more where subjects are. A picture is a pure function of its index.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from archspec.runtime.data.scenes import SIDE, Scene, Subject, draw_scene

SEED, POOL = 77, 6
"""POOL: a token counts as one of the subject if this many pixels around it, its own four among them, touch it."""
BESIDE, HALVES = (9.0, 11.0), (13.0, 35.0)
"""Of two subjects: their radii, and the middles of their halves of the picture, in pixels."""


@dataclass(frozen=True)
class Lesson:
    """`first`: index of its first picture. `two`: how many of the pictures of two subjects keep both; `plain`: how many
    textures are taken off; `radius`, `spread`: of a subject that is alone, in pixels, and how far it may be from the
    middle; `apart`: how far each of two may be from the middle of its half (down, three times as far), None: where the
    scene has them; `angle`: part of the angle that is kept; `peak`: learning rate; `weight`: how much more errors count
    at subjects' tokens."""

    steps: int
    first: int
    two: float
    plain: float
    radius: tuple[float, float]
    spread: float
    angle: float
    apart: float | None = None
    peak: float = 1e-3
    weight: float = 3.0
    shift: float = 4.0

    def scene(self, index: int) -> Scene:
        random = np.random.default_rng((SEED, index))
        scene = draw_scene(index)
        if len(scene.subjects) == 2 and random.random() >= self.two:
            scene = replace(scene, subjects=scene.subjects[:1], said=scene.said[:1])
        eased = self._alone if len(scene.subjects) == 1 else self._beside
        subjects = (eased(subject, place, random) for place, subject in enumerate(scene.subjects))
        return replace(scene, subjects=tuple(subjects))

    def _alone(self, subject: Subject, _: int, random: np.random.Generator) -> Subject:
        radius = float(random.uniform(*self.radius))
        away = min(self.spread, SIDE / 2 - radius)
        x, y = (float(SIDE / 2 + random.uniform(-away, away)) for _ in "xy")
        return self._eased(replace(subject, radius=radius, x=x, y=y), random)

    def _beside(self, subject: Subject, place: int, random: np.random.Generator) -> Subject:
        if self.apart is None:
            return self._eased(subject, random)
        radius = float(random.uniform(*BESIDE))
        x = float(HALVES[place] + random.uniform(-self.apart, self.apart))
        y = float(SIDE / 2 + random.uniform(-3 * self.apart, 3 * self.apart))
        return self._eased(replace(subject, radius=radius, x=x, y=y), random)

    def _eased(self, subject: Subject, random: np.random.Generator) -> Subject:
        texture = "plain" if random.random() < self.plain else subject.texture
        return replace(subject, angle=self.angle * subject.angle, texture=texture)

    def weights(self, masks: np.ndarray) -> Tensor:
        """Return (pictures, tokens, 1): what errors count. `masks`: (pictures, subjects, rows, columns)."""
        some = torch.from_numpy(masks.any(1)).float()[:, None]
        near = torch.nn.functional.max_pool2d(some, POOL, stride=4, padding=1)
        return 1 + self.weight * near.flatten(1)[..., None]


LESSONS = (
    Lesson(2000, 5_000_000, two=0.0, plain=1.0, radius=(13, 18), spread=4, angle=0.0),
    Lesson(4000, 7_000_000, two=0.0, plain=1.0, radius=(13, 18), spread=5, angle=0.0),
    Lesson(4500, 8_000_000, two=0.5, plain=0.4, radius=(12, 17), spread=6, angle=0.3, apart=2),
    Lesson(3000, 8_100_000, two=0.6, plain=0.35, radius=(12, 17), spread=6, angle=0.3, apart=2),
    Lesson(1400, 9_200_000, two=0.7, plain=0.25, radius=(10, 16), spread=24, angle=0.6, peak=3e-4),
)
"""docs/log.md tells what each brought."""
