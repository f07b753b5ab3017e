"""Fractions: exact size, every class's share, nested, reproducible."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from archspec.runtime.data.subset import stratified


@given(
    st.lists(st.integers(0, 4), min_size=1, max_size=200),
    st.floats(0.01, 1.0),
    st.floats(0.01, 1.0),
    st.integers(0, 5),
)
def test_smaller_fraction_is_part_of_larger(labels: list[int], a: float, b: float, seed: int) -> None:
    classes = np.array(labels)
    small, large = (set(stratified(len(labels), f, seed, classes).tolist()) for f in sorted((a, b)))
    assert small <= large
    assert len(small) == max(1, round(min(a, b) * len(labels)))


@pytest.mark.parametrize("fraction", [0.1, 0.25, 0.5])
def test_each_class_has_its_share_to_within_one(fraction: float) -> None:
    labels = np.repeat([0, 1, 2], [200, 60, 31])
    chosen = labels[stratified(len(labels), fraction, 3, labels)]
    for label, count in ((0, 200), (1, 60), (2, 31)):
        assert abs((chosen == label).sum() - fraction * count) <= 1


def test_seed_decides() -> None:
    labels = np.repeat([0, 1], 50)
    first = stratified(100, 0.3, 0, labels)
    assert np.array_equal(first, stratified(100, 0.3, 0, labels))
    assert not np.array_equal(first, stratified(100, 0.3, 1, labels))


def test_rare_class_does_not_change_with_the_others() -> None:
    """A class keeps its own order, whatever stands beside it."""
    alone = stratified(50, 0.5, 7, np.zeros(50, dtype=np.int64))
    beside = stratified(150, 0.5, 7, np.repeat([0, 1], [50, 100]))
    assert set(alone.tolist()) == {i for i in beside.tolist() if i < 50}


def test_a_fraction_without_some_class_is_refused() -> None:
    from pathlib import Path

    from archspec.diagnostics import ArchspecError
    from archspec.runtime.data import open_data

    with pytest.raises(ArchspecError, match="is 1: not one for each of its 10 classes") as caught:
        open_data({"from": "digits", "fraction": 0.001}, Path())
    assert caught.value.diagnostics[0].code == "AS715"
    assert caught.value.diagnostics[0].hints == ("write at least 0.7%, or take more data",)
    assert len(open_data({"from": "digits", "fraction": 0.007}, Path())) == 10
