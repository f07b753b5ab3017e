"""The pictures of shapes: pure functions of their index, right masks, captions of known words."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from archspec.runtime.data.scenes import (
    BACKGROUNDS,
    BOTH,
    COLOURS,
    LEFT_OUT,
    LONGEST,
    ONE,
    PAIRS,
    PLACES,
    SHAPES,
    SIDE,
    TEXTURES,
    WORDS,
    Scene,
    Subject,
    draw_scene,
)  # fmt: skip
from archspec.runtime.data.shapes import DARK, pictures, render

RED = Subject("circle", "red", "plain", 24.0, 24.0, 10.0, 0.0, 0.0)


def scene(*subjects: Subject, background: str = "night") -> Scene:
    return Scene(subjects, background, (0.5,) * 16, ((True, True, True),) * len(subjects), True)


def test_a_picture_is_a_function_of_seed_and_index() -> None:
    some, again, other = pictures([7, 1007]), pictures([1007, 3, 7]), pictures([7, 1007], seed=1)
    assert np.array_equal(some.images[0], again.images[2])
    assert np.array_equal(some.masks[1], again.masks[0])
    assert some.captions == (again.captions[2], again.captions[0])
    assert not np.array_equal(some.images, other.images)
    assert some.images.shape == (2, 3, SIDE, SIDE)
    assert some.images.dtype == np.float32


def test_a_picture_stays_what_it_was() -> None:
    """Hosts were trained on it: a change of the drawing is a new data set."""
    drawn = pictures([0, 5])
    assert drawn.captions == (
        "an orange triangle at the right in sky",
        "a green plain square at the top and a striped ring at the bottom",
    )
    assert drawn.images.mean((1, 2, 3)).tolist() == pytest.approx([0.442159, -0.420955], abs=1e-5)


def test_captions_say_what_is_there_and_leave_out_a_quarter() -> None:
    scenes = [draw_scene(i) for i in range(600)]
    said = Counter(word for s in scenes for word in s.caption.split())
    assert set(said) == set(WORDS)
    assert max(len(s.caption.split()) for s in scenes) == LONGEST
    parts = [flag for s in scenes for pair in s.said for flag in pair] + [s.background_said for s in scenes]
    assert np.mean(parts) == pytest.approx(1 - LEFT_OUT, abs=0.03)
    for s in scenes[:100]:
        assert [w for w in s.caption.split() if w in SHAPES] == [subject.shape for subject in s.subjects]
    star = replace(RED, colour="orange", shape="star", place="right")
    full = replace(scene(RED, star), said=((False, True, False), (True, False, True)))
    assert full.caption == "a plain circle and an orange star at the right at night"
    assert replace(full, background_said=False).caption == "a plain circle and an orange star at the right"


def test_subjects_are_inside_differ_and_do_not_touch() -> None:
    drawn = pictures(range(200))
    for s, masks in zip(drawn.scenes, drawn.masks, strict=True):
        assert not (masks[0] & masks[1]).any()
        assert [bool(m.any()) for m in masks] == [True, len(s.subjects) == 2]
        assert len({subject.shape for subject in s.subjects}) == len(s.subjects)
        for subject in s.subjects:
            assert subject.radius <= min(subject.x, subject.y, SIDE - subject.x, SIDE - subject.y)


def test_subjects_are_where_the_caption_says() -> None:
    scenes = [draw_scene(i) for i in range(300)]
    for s in scenes:
        layout = BOTH if len(s.subjects) == 2 else ONE
        assert len(s.subjects) == 1 or tuple(subject.place for subject in s.subjects) in PAIRS
        for subject in s.subjects:
            across, down = PLACES[subject.place]
            off = np.array([subject.x, subject.y]) - SIDE / 2 - layout.away * np.array([across, down])
            assert (np.abs(off) <= ([layout.across, layout.along] if down else [layout.along, layout.across])).all()
    assert {subject.place for s in scenes if len(s.subjects) == 1 for subject in s.subjects} == set(PLACES)


@pytest.mark.parametrize("shape", SHAPES)
def test_masks_are_where_the_paint_is(shape: str) -> None:
    """Against a rendering of the background alone; and the shape is as large as its formula says."""
    subject = replace(RED, shape=shape, radius=14.0, angle=0.4, x=20.3, y=25.1)
    with_it, mask = render([scene(subject)]).images[0], render([scene(subject)]).masks[0, 0]
    without = render([scene(replace(subject, x=-99.0))]).images[0]
    changed = np.abs(with_it - without).max(0)
    assert (changed[mask] > 0.3).all()
    y, x = np.mgrid[:SIDE, :SIDE] + 0.5
    assert not changed[np.hypot(x - 20.3, y - 25.1) > 15.2].any()
    areas = {
        "circle": 0.81 * np.pi,
        "square": 1.44**2,
        "triangle": 0.75 * 3**0.5,
        "star": 5 * 0.45 * np.sin(np.pi / 5),
        "ring": np.pi * 0.68 * 1.04,
        "cross": 2 * 1.84 * 0.64 - 0.64**2,
    }
    assert mask.sum() == pytest.approx(areas[shape] * 14**2, rel=0.05)


@pytest.mark.parametrize("texture", TEXTURES)
def test_textures_have_two_shades_of_the_colour(texture: str) -> None:
    subject = replace(RED, texture=texture, radius=16.0, angle=0.2)
    drawn = render([scene(subject)])
    red = (drawn.images[0, 0][drawn.masks[0, 0]] + 1) / 2 / COLOURS["red"][0]
    dark = (red < (1 + DARK) / 2).mean()
    assert dark == pytest.approx({"plain": 0, "striped": 0.5, "dotted": 0.315, "checked": 0.5}[texture], abs=0.06)


def test_backgrounds_vary_and_are_told_apart() -> None:
    away = replace(RED, x=-99.0)
    for name in BACKGROUNDS:
        some = scene(away, background=name)
        a, b = render([some, replace(some, variation=(0.2,) * 15 + (0.5,))]).images
        assert np.abs(a - b).max() > 0.05
    means = render([scene(away, background=name) for name in BACKGROUNDS]).images.mean((2, 3))
    apart = np.linalg.norm(means[:, None] - means, axis=-1) + 9 * np.eye(len(BACKGROUNDS))
    assert apart.min() > 0.2


def test_scenes_are_rendered_alone_as_in_a_batch() -> None:
    many = pictures(range(40))
    for i in (0, 17, 39):
        alone = render([many.scenes[i]])
        assert np.array_equal(alone.images[0], many.images[i])
        assert np.array_equal(alone.masks[0], many.masks[i])
