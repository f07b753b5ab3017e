"""Whole collages: what stays, what lies over what, and what is told of subjects that are not seen."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from archspec.diagnostics import ArchspecError, Severity
from archspec.runtime.collage import Place, Placement, Subject, box_place, make_collage
from archspec.runtime.collage.making import erase
from archspec.runtime.collage.masks import Mask, Pixels, dilated

SIZE = (96, 128)


def block(left: int, top: int, width: int, height: int, size: tuple[int, int] = SIZE) -> Mask:
    mask = np.zeros(size, dtype=bool)
    mask[top : top + height, left : left + width] = True
    return mask


@pytest.fixture
def template() -> Pixels:
    """A soft background with a black square on it."""
    y, x = np.mgrid[: SIZE[0], : SIZE[1]]
    image = np.stack([100 + x, 60 + y, 200 - x // 2 - y // 2], -1).astype(np.uint8)
    image[SQUARE] = 0
    return image


SQUARE = block(40, 30, 30, 30)
FREE = Place(block(80, 40, 30, 30), erase=False)


def subject(name: str, picture: Pixels, placement: Placement | None = None, side: int = 30) -> Subject:
    return Subject(name, picture, block(10, 10, side, side, (60, 80)), placement or Placement())


def unused(image: Pixels, hole: Mask) -> Pixels:
    raise AssertionError("nothing is to be removed")


def test_all_outside_of_hole_and_subject_stays(template: Pixels, picture: Pixels) -> None:
    before = template.copy(), picture.copy()
    found = make_collage(template, [Place(SQUARE)], [subject("dog", picture, Placement(0.5))])
    touched = dilated(SQUARE)
    assert np.array_equal(found.image[~touched], template[~touched])
    assert found.image[touched].min() > 0  # of the black square nothing is left
    assert abs(np.count_nonzero(found.mask) - 225) <= 15
    assert np.array_equal(found.owners, np.where(found.mask, 0, -1))
    assert found.findings == ()
    assert np.array_equal(template, before[0])
    assert np.array_equal(picture, before[1])


def test_the_removed_subject_is_painted_from_around_it(template: Pixels) -> None:
    y, x = np.mgrid[: SIZE[0], : SIZE[1]]
    without = np.stack([100 + x, 60 + y, 200 - x // 2 - y // 2], -1)
    painted = erase(template, [SQUARE])
    assert np.abs(painted[SQUARE].astype(int) - without[SQUARE]).mean() < 8


def test_a_subject_of_the_places_size_is_copied(template: Pixels, picture: Pixels) -> None:
    found = make_collage(template, [FREE], [subject("dog", picture)], unused)
    assert np.array_equal(found.mask, FREE.mask)
    assert np.array_equal(found.image[40:70, 80:110], picture[10:40, 10:40])
    assert np.array_equal(found.image[~FREE.mask], template[~FREE.mask])
    assert np.array_equal(found.moved[0], [[1, 0, 70], [0, 1, 30]])


def test_a_box_of_ones_own(template: Pixels, picture: Pixels) -> None:
    found = make_collage(template, [box_place((10, 60, 40, 90), SIZE)], [subject("hat", picture)], unused)
    assert np.array_equal(found.image[60:90, 10:40], picture[10:40, 10:40])


def test_any_inpainter_is_kept_to_the_hole(template: Pixels, picture: Pixels) -> None:
    def white(image: Pixels, hole: Mask) -> Pixels:
        assert np.array_equal(hole, dilated(SQUARE))
        return np.full_like(image, 255)

    found = make_collage(template, [Place(SQUARE)], [subject("dog", picture, Placement(0.5))], white)
    hole = dilated(SQUARE)
    assert (found.image[hole & ~found.mask] == 255).all()
    assert np.array_equal(found.image[~hole], template[~hole])


def test_later_subjects_lie_over_earlier_ones(template: Pixels, picture: Pixels) -> None:
    places = [FREE, Place(block(95, 40, 30, 30), erase=False)]
    found = make_collage(template, places, [subject("dog", picture), subject("hat", picture)])
    assert np.count_nonzero(found.owners == 0) == 450
    assert np.array_equal(found.owners == 1, places[1].mask)
    assert np.array_equal(found.image[40:70, 95:125], picture[10:40, 10:40])
    assert [(d.code, d.severity) for d in found.findings] == [("AS776", Severity.WARNING)]
    assert found.findings[0].message == "50.0% of 'dog' is covered by 'hat'"


def test_what_crosses_the_border_is_cut(template: Pixels, picture: Pixels) -> None:
    found = make_collage(template, [FREE], [subject("dog", picture, Placement(shift=(33, 0)))])
    assert np.array_equal(found.image[40:70, 113:], picture[10:40, 10:25])
    assert [d.message for d in found.findings] == ["50.0% of 'dog' lies outside of the picture"]


def test_every_subject_that_is_not_seen_is_an_error(template: Pixels, picture: Pixels) -> None:
    line = Subject("line", picture, block(10, 10, 60, 1, (60, 80)), Placement(0.1))
    subjects = [subject("dog", picture), subject("hat", picture), subject("cat", picture, Placement(shift=(-500, 0)))]
    with pytest.raises(ArchspecError) as caught:
        make_collage(template, [FREE] * 4, [*subjects, line])
    assert [(d.code, d.message) for d in caught.value.diagnostics] == [
        ("AS775", "'dog' is covered by later subjects"),
        ("AS775", "'cat' lies outside of the picture"),
        ("AS775", "'line' is too small to have a pixel"),
    ]


def test_every_subject_that_cannot_be_drawn_is_an_error(template: Pixels, picture: Pixels) -> None:
    subjects = [subject("dog", picture, Placement(50)), subject("cat", picture, Placement(1e-6))]
    with pytest.raises(ArchspecError) as caught:
        make_collage(template, [FREE] * 2, subjects)
    assert [d.code for d in caught.value.diagnostics] == ["AS774", "AS775"]


def test_every_wrong_mask_is_told(template: Pixels, picture: Pixels) -> None:
    empty, small = block(0, 0, 0, 0, (60, 80)), block(0, 0, 9, 9, (30, 40))
    places = [Place(block(0, 0, 0, 0)), Place(SQUARE[:90])]
    with pytest.raises(ArchspecError) as caught:
        make_collage(template, places, [Subject("dog", picture, empty), Subject("cat", picture, small)])
    assert [(d.code, d.message) for d in caught.value.diagnostics] == [
        ("AS770", "the mask of 'dog' is empty"),
        ("AS770", "the mask of the place of 'dog' is empty"),
        ("AS771", "the mask of 'cat' is of 40 x 30 pixels, its picture of 80 x 60"),
        ("AS771", "the mask of the place of 'cat' is of 128 x 90 pixels, its picture of 128 x 96"),
    ]


def test_nothing_to_paint_from(template: Pixels, picture: Pixels) -> None:
    with pytest.raises(ArchspecError, match=r"AS779.*fill the whole template"):
        make_collage(template, [Place(block(5, 5, 118, 86))], [subject("dog", picture)])


def test_without_opencv(template: Pixels, picture: Pixels, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(ArchspecError, match=r"AS777.*takes OpenCV") as caught:
        make_collage(template, [Place(SQUARE)], [subject("dog", picture)])
    assert caught.value.diagnostics[0].hints[0] == 'pip install "archspec-compiler[features]"'
    assert make_collage(template, [FREE], [subject("dog", picture)]).mask.any()  # which removes nothing


def test_an_inpainter_that_returns_another_size(template: Pixels, picture: Pixels) -> None:
    with pytest.raises(ValueError, match="an inpainter returned"):
        make_collage(template, [Place(SQUARE)], [subject("dog", picture)], lambda image, hole: image[1:])
