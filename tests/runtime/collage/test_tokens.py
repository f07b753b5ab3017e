"""Masks on grids of tokens."""

from __future__ import annotations

import numpy as np
import pytest

from archspec.diagnostics import ArchspecError
from archspec.runtime.collage import to_tokens


def test_tokens_go_row_after_row() -> None:
    mask = np.zeros((32, 48), dtype=bool)
    mask[:16, 16:32] = True  # the second of the first row
    mask[16:, 32:40] = True  # half of the last
    assert to_tokens(mask, 2, 3).tolist() == [False, True, False, False, False, True]
    assert to_tokens(mask, 2, 3, least=0.51).tolist() == [False, True, False, False, False, False]
    assert to_tokens(mask, 4, 6).reshape(4, 6).sum() == 4 + 2
    assert np.array_equal(to_tokens(mask, 32, 48), mask.ravel())


@pytest.mark.parametrize("grid", [(2, 2), (5, 3), (2, 0), (0, 3), (-2, -3), (64, 96), (4, 3)])
def test_tokens_are_squares_of_whole_pixels(grid: tuple[int, int]) -> None:
    with pytest.raises(ArchspecError, match=r"AS778.*do not tile a picture of 48 x 32 pixels"):
        to_tokens(np.ones((32, 48), dtype=bool), *grid)


def test_no_subject_is_lost_between_tokens() -> None:
    mask = np.zeros((32, 32), dtype=bool)
    with pytest.raises(ArchspecError, match=r"AS770.*the mask of 'dog' is empty"):
        to_tokens(mask, 2, 2, name="'dog'")
    mask[12:20, 12:20] = True
    with pytest.raises(
        ArchspecError, match=r"AS778.*no token is inside the mask of the subject by 0\.5; at most by 0\.062"
    ):
        to_tokens(mask, 2, 2)
    assert to_tokens(mask, 2, 2, least=0.0625).all()
    with pytest.raises(ArchspecError, match=r"AS778.*by a share of 0"):
        to_tokens(mask, 2, 2, least=0)
