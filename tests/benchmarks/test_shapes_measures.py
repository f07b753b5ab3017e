"""The rules that read pictures of shapes: how often they are right on pictures whose scene is known."""

from __future__ import annotations

from dataclasses import replace
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from archspec.runtime.data.scenes import Scene, Subject
from archspec.runtime.data.shapes import pictures, render

STRIPED = Subject("circle", "red", "striped", 24.0, 24.0, 12.0, 0.0, 0.0)


def picture(subject: Subject, background: str = "grass") -> tuple[Any, Any]:
    drawn = render([Scene((subject,), background, (0.5,) * 16, ((True, True, True),), True)])
    return (drawn.images[0] + 1) / 2, drawn.masks[0, 0]


def test_what_is_drawn_is_found(script: ModuleType) -> None:
    drawn, right = pictures(range(10_000, 10_100)), []
    for image, masks, scene in zip((drawn.images + 1) / 2, drawn.masks, drawn.scenes, strict=True):
        if len(scene.subjects) == 1:
            found, true = script.find_subject(image), scene.subjects[0]
            assert found is not None
            overlap = (found.mask & masks[0]).sum() / (found.mask | masks[0]).sum()
            names = [getattr(found, name) == getattr(true, name) for name in ("colour", "shape", "texture")]
            right.append([*names, script.nearest_background(image, found.mask) == scene.background, overlap > 0.8])
    assert len(right) > 40
    assert np.mean(right, axis=0).min() >= 0.95


def test_nothing_is_found_where_nothing_is(script: ModuleType) -> None:
    for background in ("sky", "grass", "sand", "night", "brick", "plaid"):
        assert script.find_subject(picture(replace(STRIPED, x=-99.0), background)[0]) is None


def test_lab_is_cie_lab(script: ModuleType) -> None:
    """White, black and sRGB's red, by the published conversion (rounded)."""
    colours = np.array([[1.0, 0.0, 1.0], [1.0, 0.0, 0.0], [1.0, 0.0, 0.0]])
    wanted = np.array([[100, 0, 53.24], [0, 0, 80.09], [0, 0, 67.20]])
    assert np.allclose(script.lab(colours), wanted, atol=0.05)


def test_colour_distance_is_of_the_subject_alone(script: ModuleType) -> None:
    donor, same = picture(STRIPED), picture(replace(STRIPED, x=20.0, shape="square"), "sky")
    other = picture(replace(STRIPED, colour="blue"))
    assert script.colour_distance(*same, *donor) < 4
    assert script.colour_distance(*other, *donor) > 40
    assert script.colour_distance(*donor, *donor) == 0


def test_texture_distance_is_free_of_colour_place_and_turn(script: ModuleType) -> None:
    donor = picture(STRIPED)
    alike = [
        replace(STRIPED, colour="yellow"),
        replace(STRIPED, x=15.0, y=30.0, phase=0.4),
        replace(STRIPED, angle=0.4),
    ]
    unlike = [
        replace(STRIPED, texture=name, colour=c) for name in ("plain", "dotted", "checked") for c in ("red", "blue")
    ]
    near = [script.texture_distance(*picture(subject, "sand"), *donor) for subject in alike]
    far = [script.texture_distance(*picture(subject), *donor) for subject in unlike]
    assert 1.5 * max(near) < min(far)


def test_outside_distance_sees_what_is_outside(script: ModuleType) -> None:
    (striped, mask), (blue, _) = picture(STRIPED), picture(replace(STRIPED, colour="blue"))
    assert script.outside_distance(striped, blue, mask) == pytest.approx(0, abs=1e-6)
    assert script.outside_distance(striped, picture(STRIPED, "sky")[0], mask) > 0.2
