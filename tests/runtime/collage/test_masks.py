"""Pictures and masks from files of every kind; what is wrong with them is told."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from archspec.diagnostics import ArchspecError
from archspec.runtime.collage import read_mask, read_picture
from archspec.runtime.collage.masks import Mask, Pixels, dilated, extents, overlap

ORIENTATION = 0x0112


def saved(path: Path, values: np.ndarray, mode: str | None = None) -> Path:
    image = Image.fromarray(values)
    (image.convert(mode) if mode else image).save(path)
    return path


@pytest.mark.parametrize("mode", ["L", "1", "RGB", "P", "RGBA"])
def test_bright_pixels_are_inside(tmp_path: Path, letter: Mask, mode: str) -> None:
    path = saved(tmp_path / "mask.png", letter.astype(np.uint8) * 255, mode)
    assert np.array_equal(read_mask(path, letter.shape), letter)


def test_sixteen_bits(tmp_path: Path, letter: Mask) -> None:
    path = saved(tmp_path / "mask.png", np.where(letter, 40000, 30000).astype(np.uint16))
    assert np.array_equal(read_mask(path), letter)


def test_opacity_counts_before_brightness(tmp_path: Path, letter: Mask, picture: Pixels) -> None:
    opacity = np.where(letter, 128, 127).astype(np.uint8)
    path = saved(tmp_path / "cut-out.png", np.dstack([picture, opacity]))
    assert np.array_equal(read_mask(path), letter)


def test_grey_of_16_bits_is_read_to_its_full_range(tmp_path: Path) -> None:
    Image.fromarray(np.array([[0, 32896, 65535]], np.uint16)).save(tmp_path / "grey.png")
    assert read_picture(tmp_path / "grey.png")[0, :, 0].tolist() == [0, 128, 255]


def test_pictures_are_read_bit_by_bit(tmp_path: Path, picture: Pixels) -> None:
    assert np.array_equal(read_picture(saved(tmp_path / "colour.png", picture)), picture)
    grey = np.arange(256, dtype=np.uint8).reshape(16, 16)
    assert np.array_equal(read_picture(saved(tmp_path / "grey.png", grey)), np.dstack([grey] * 3))


def test_what_a_camera_turned_is_turned_back(tmp_path: Path, picture: Pixels, letter: Mask) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = 6  # stored lying on its left side
    Image.fromarray(np.rot90(picture)).save(tmp_path / "photo.png", exif=exif)
    Image.fromarray(np.rot90(letter)).save(tmp_path / "mask.png", exif=exif)
    assert np.array_equal(read_picture(tmp_path / "photo.png"), picture)
    assert np.array_equal(read_mask(tmp_path / "mask.png", (60, 80)), letter)


def test_labels_are_no_mask(tmp_path: Path, letter: Mask) -> None:
    with pytest.raises(ArchspecError) as caught:
        read_mask(saved(tmp_path / "labels.png", letter.astype(np.uint8)))
    assert [d.code for d in caught.value.diagnostics] == ["AS770"]
    assert "brightest pixel is 1 of 255" in caught.value.diagnostics[0].hints[0]


def test_a_mask_of_another_size(tmp_path: Path, letter: Mask) -> None:
    with pytest.raises(ArchspecError, match=r"AS771.* is of 80 x 60 pixels, its picture of 100 x 60"):
        read_mask(saved(tmp_path / "mask.png", letter), (60, 100))


def test_no_picture(tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("no picture")
    saved(tmp_path / "floats.tiff", np.ones((4, 4), dtype=np.float32))
    for read in (read_mask, read_picture):
        for name in ("text.png", "none.png", "floats.tiff"):
            with pytest.raises(ArchspecError, match="AS704"):
                read(tmp_path / name)


def test_a_disc_is_grown_by_its_own_size() -> None:
    y, x = np.mgrid[:200, :200]
    distance = np.hypot(x - 100, y - 100)
    radius = 0.1 * np.sqrt(np.count_nonzero(distance <= 40))  # 7.1
    grown = dilated(distance <= 40)
    assert grown[distance <= 39 + radius].all()
    assert not grown[distance > 41 + radius].any()


def test_overlap_and_extents(letter: Mask) -> None:
    assert overlap(letter, letter) == 1
    assert overlap(letter, ~letter) == overlap(letter & False, letter & False) == 0
    half = letter.copy()
    half[26:] = False
    assert overlap(letter, half) == half.sum() / letter.sum()
    assert extents(letter) == (20, 10, 50, 50)
