"""Subjects go where the placement says: exactly where pixels can be copied, within a pixel elsewhere."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import ndimage

from archspec.diagnostics import ArchspecError
from archspec.runtime.collage.masks import Mask, Pixels, extents
from archspec.runtime.collage.placement import Align, Drawn, Place, Placement, box_place, draw

SIZE = (120, 160)


def disc(x: float, y: float, radius: float, size: tuple[int, int] = SIZE) -> Mask:
    rows, columns = np.mgrid[: size[0], : size[1]]
    found: Mask = np.hypot(columns - x, rows - y) <= radius
    return found


def centroid(mask: Mask) -> np.ndarray:
    y, x = np.nonzero(mask)
    return np.array([x.mean(), y.mean()])


def on_canvas(drawn: Drawn) -> tuple[Pixels, Mask]:
    image, mask = np.zeros((*SIZE, 3), np.uint8), np.zeros(SIZE, bool)
    y, x = np.nonzero(drawn.mask)
    image[y + drawn.corner[1], x + drawn.corner[0]] = drawn.pixels[y, x]
    mask[y + drawn.corner[1], x + drawn.corner[0]] = True
    return image, mask


def same_area(letter: Mask) -> Place:
    """A place of exactly the letter's area."""
    mask = np.zeros(SIZE, dtype=bool)
    mask[30:, 40:140].flat[: np.count_nonzero(letter)] = True
    return Place(mask)


def cut(array: np.ndarray, mask: Mask) -> np.ndarray:
    left, top, right, bottom = extents(mask)
    return array[top:bottom, left:right]


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("angle", [0, 90, -90, 180, 270, 360, -450])
def test_right_angles_and_mirrors_copy_pixels(picture: Pixels, letter: Mask, angle: float, flip: bool) -> None:
    drawn = draw("F", picture, letter, Placement(angle=angle, flip=flip), same_area(letter))
    mirrored = slice(None, None, -1 if flip else 1)
    turns = int(angle // 90)  # np.rot90 turns counter-clockwise
    wanted = np.rot90(picture[:, mirrored], turns), np.rot90(letter[:, mirrored], turns)
    image, mask = on_canvas(drawn)
    assert np.array_equal(cut(mask, mask), cut(wanted[1], wanted[1]))
    inside = cut(mask, mask)
    assert np.array_equal(cut(image, mask)[inside], cut(wanted[0], wanted[1])[inside])
    assert np.abs(centroid(mask) - centroid(same_area(letter).mask)).max() <= 0.5


@pytest.mark.parametrize(
    "placement",
    [
        Placement(),
        Placement(scale=1.4),
        Placement(scale=0.5, angle=31.7),
        Placement(angle=-12.5, flip=True),
        Placement(scale=0.8, angle=200, shift=(7.25, -5.5)),
    ],
)
def test_centroid_and_area(picture: Pixels, letter: Mask, placement: Placement) -> None:
    place = Place(disc(81.3, 57.8, 21))
    _, mask = on_canvas(draw("F", picture, letter, placement, place))
    assert np.abs(centroid(mask) - centroid(place.mask) - placement.shift).max() < 1
    wanted = placement.scale**2 * np.count_nonzero(place.mask)
    assert abs(np.count_nonzero(mask) / wanted - 1) < 0.03


@pytest.mark.parametrize("side", ["left", "top", "right", "bottom"])
@pytest.mark.parametrize("angle", [0.0, 27.0])
def test_edges_fall_on_edges(picture: Pixels, letter: Mask, side: Align, angle: float) -> None:
    place, index = Place(disc(83, 61, 25)), ("left", "top", "right", "bottom").index(side)
    placement = Placement(scale=0.7, angle=angle, align=side, shift=(3, -2))
    _, mask = on_canvas(draw("F", picture, letter, placement, place))
    assert extents(mask)[index] == extents(place.mask)[index] + placement.shift[index % 2]
    across = 1 - index % 2
    assert abs(centroid(mask)[across] - centroid(place.mask)[across] - placement.shift[across]) < 1


def test_the_map_leads_from_donor_to_collage() -> None:
    """A pattern of the donor is found in the collage where `moved` says, down to waves of 13 pixels."""
    y, x = np.mgrid[:90, :100].astype(float)
    wave = np.stack([127 + 100 * np.sin(x / 2), 127 + 100 * np.cos(y / 3), 127 + 100 * np.sin((x + y) / 11)], -1)
    placement, subject = Placement(0.9, -33, flip=True), disc(48, 44, 35, (90, 100))
    drawn = draw("wave", np.rint(wave).astype(np.uint8), subject, placement, Place(disc(80, 60, 40)))
    image, mask = on_canvas(drawn)
    rows, columns = np.nonzero(mask)
    linear, move = drawn.moved[:, :2], drawn.moved[:, 2]
    u, v = np.linalg.inv(linear) @ (np.stack([columns, rows]) - move[:, None])
    wanted = np.stack([127 + 100 * np.sin(u / 2), 127 + 100 * np.cos(v / 3), 127 + 100 * np.sin((u + v) / 11)], -1)
    assert np.hypot(u - 48, v - 44).max() < 36
    within = np.hypot(u - 48, v - 44) < 28
    assert np.abs(image[rows, columns] - wanted)[within].max() < 2
    assert math.isclose(np.linalg.det(linear), -(0.9**2) * (40 / 35) ** 2, rel_tol=0.01)


def test_nothing_of_the_donors_background_comes_along(letter: Mask) -> None:
    image = np.where(letter[..., None], [10, 20, 200], [255, 255, 0]).astype(np.uint8)
    for scale in (0.4, 1.0, 2.5):
        drawn = draw("F", image, letter, Placement(scale, 17), Place(disc(80, 60, 20)))
        assert np.array_equal(np.unique(drawn.pixels[drawn.mask], axis=0), [[10, 20, 200]])


def test_shrinking_averages() -> None:
    rows, columns = np.mgrid[:120, :160]
    image = np.dstack([((rows + columns) % 2 * 255).astype(np.uint8)] * 3)  # a checkerboard of single pixels
    drawn = draw("board", image, disc(80, 60, 50), Placement(0.25, 10), Place(disc(80, 60, 50)))
    off = np.abs(drawn.pixels.astype(float) - 127.5)
    assert off[drawn.mask].max() < 16  # unaveraged, pixels are off by up to 127.5
    assert off[ndimage.binary_erosion(drawn.mask, iterations=3)].max() < 1


def test_a_subject_at_the_donors_border_keeps_its_outermost_pixels(picture: Pixels) -> None:
    whole = np.ones(picture.shape[:2], dtype=bool)
    place = np.zeros(SIZE, dtype=bool)
    place[15:105, 20:140] = True
    _, mask = on_canvas(draw("all", picture, whole, Placement(), Place(place)))  # 1.5 times as large
    assert np.array_equal(mask, place)
    place[:] = False
    place[30:90, 40:120] = True
    drawn = draw("all", picture, whole, Placement(), Place(place))
    image, mask = on_canvas(drawn)
    assert np.array_equal(mask, place)
    assert np.array_equal(image[30:90, 40:120], picture)


@pytest.mark.parametrize("angle", [0.0, 90.0, -40.0])
def test_a_subject_fits_its_box(picture: Pixels, letter: Mask, angle: float) -> None:
    box = (30, 20, 130, 90)
    place = box_place(box, SIZE)
    assert not place.erase
    assert extents(place.mask) == box
    _, mask = on_canvas(draw("F", picture, letter, Placement(angle=angle), place))
    left, top, right, bottom = extents(mask)
    assert left >= 29
    assert top >= 19
    assert right <= 131
    assert bottom <= 91
    assert bottom - top >= 66 or right - left >= 96  # as large as fits; tips are thinner than pixels
    assert abs(left + right - 160) <= 2
    assert abs(top + bottom - 110) <= 2


def test_a_box_outside_of_the_template() -> None:
    for box in ((200, 10, 300, 50), (50, 10, 20, 40), (-30, -30, -10, -10)):
        with pytest.raises(ArchspecError, match="AS775"):
            box_place(box, SIZE)


def test_all_wrong_values_are_told_at_once() -> None:
    with pytest.raises(ArchspecError) as caught:
        Placement(scale=0, angle=math.nan, align="centre", shift=(math.inf, 0))  # type: ignore[arg-type]
    assert [d.code for d in caught.value.diagnostics] == ["AS774"] * 4
    with pytest.raises(ArchspecError, match="not aligned by 'botom'") as caught:
        Placement(align="botom")  # type: ignore[arg-type]
    assert caught.value.diagnostics[0].hints == ("did you mean 'bottom'?",)


def test_much_too_large_and_much_too_small(picture: Pixels, letter: Mask) -> None:
    place = Place(disc(80, 60, 30))
    with pytest.raises(ArchspecError, match=r"AS774.*'F' would be of \d+ x \d+ pixels in a picture of 160 x 120"):
        draw("F", picture, letter, Placement(scale=20), place)
    with pytest.raises(ArchspecError, match=r"AS775.*smaller than a pixel"):
        draw("F", picture, letter, Placement(scale=1e-9), place)
