"""The table of the host's card: what it says of the scenes' own pictures, and of wrong ones."""

from __future__ import annotations

from dataclasses import replace
from types import ModuleType

import numpy as np

from archspec.runtime.data.shapes import render


def test_real_pictures_are_read_right_and_others_are_not(script: ModuleType) -> None:
    ones, twos = script.scenes(24, 1), script.scenes(12, 2)
    assert all(len(scene.caption.split()) == 9 for scene in ones)
    one, two = ((render(some).images + 1) / 2 for some in (ones, twos))
    row = script.table(one, ones, two, twos)
    assert len(row) == len(script.COLUMNS + script.OF_TWO)
    assert min(row) >= 0.85
    wrong = script.table(np.roll(one, 1, axis=0), ones, np.roll(two, 1, axis=0), twos)
    assert max(wrong[:7]) < 0.5  # all of one subject, and the colours of two


def test_a_third_subject_is_seen(script: ModuleType) -> None:
    scene = next(s for s in script.scenes(12, 2) if s.subjects[0].place == "left")
    left, right = (replace(s, y=12.0, radius=8.0, colour="red", texture="plain") for s in scene.subjects)
    below = replace(left, x=24.0, y=40.0, colour="pink")
    told = replace(scene, background="sand", subjects=(left, replace(right, colour="blue")))
    two, other = (render([some]).images[0] for some in (told, replace(told, subjects=(left, below))))
    three = np.where(np.arange(48)[:, None] > 28, other, two)
    assert [script.read_two((image + 1) / 2, told)[0][3] for image in (two, three)] == [1.0, 0.0]
