"""The table of the host's card: what it says of the scenes' own pictures, and of wrong ones."""

from __future__ import annotations

from types import ModuleType

import numpy as np

from archspec.runtime.data.shapes import render


def test_real_pictures_are_read_right_and_others_are_not(script: ModuleType) -> None:
    ones, twos = script.scenes(24, 1), script.scenes(12, 2)
    assert all(len(scene.caption.split()) == 6 for scene in ones)
    one, two = ((render(some).images + 1) / 2 for some in (ones, twos))
    row = script.table(one, ones, two, twos)
    assert len(row) == len(script.COLUMNS)
    assert min(row) >= 0.85
    wrong = script.table(np.roll(one, 1, axis=0), ones, np.roll(two, 1, axis=0), twos)
    assert max(wrong[:5]) < 0.5
    assert wrong[5] < 0.6
