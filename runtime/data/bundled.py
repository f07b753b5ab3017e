"""Data sets that need no network: they come with a package that is installed anyway, or with the system.

`digits` is the UCI handwritten digits as scikit-learn ships them: 1,797 images of 8x8 pixels in 16 greys; every fifth
of a class (drawn once, seed 0) is the test split. `fashion` is Fashion-MNIST: 60,000 + 10,000 images of 28x28, read
from the idx files that Debian's `dataset-fashion-mnist` installs, or that lie in the folder `fashion-mnist` of the
cache (`ARCHSPEC_CACHE`). `shapes` is drawn by rules (see `scenes`): 4,096 + 512 colour images of 48x48, whose class is
the shape of the subject, or of the left one of two.

Images are float32 in [-1, 1], (count, channels, height, width).
"""

from __future__ import annotations

import gzip
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from archspec.diagnostics import fail
from archspec.runtime.data.encoded import cache_folder

Images = NDArray[np.float32]
Labels = NDArray[np.int64]

FASHION_FOLDER = Path("/usr/share/datasets/fashion-mnist")
SPLITS = ("train", "test")
SHAPES_SEED = 1
"""The host of shapes was trained on seed 0."""


def load_bundled(name: str, split: str) -> tuple[Images, Labels]:
    """Return images and labels of one split of a bundled data set."""
    if split not in SPLITS:
        raise fail("AS703", f"'{name}' has no split '{split}'", None, "write split: train or split: test")
    return BUNDLED[name](split)


def _digits(split: str) -> tuple[Images, Labels]:
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    data = load_digits()
    images = (data.images[:, None] / 8.0 - 1.0).astype(np.float32)
    labels = data.target.astype(np.int64)
    train, test = train_test_split(np.arange(len(labels)), test_size=0.2, random_state=0, stratify=labels)
    chosen = np.sort(train if split == "train" else test)
    return images[chosen], labels[chosen]


def _fashion(split: str) -> tuple[Images, Labels]:
    prefix, folder = "train" if split == "train" else "t10k", fashion_folder()
    images = read_idx(folder / f"{prefix}-images-idx3-ubyte.gz")
    labels = read_idx(folder / f"{prefix}-labels-idx1-ubyte.gz")
    return (images[:, None] / 127.5 - 1.0).astype(np.float32), labels.astype(np.int64)


def fashion_folder() -> Path:
    """Return where the files of Fashion-MNIST are: where Debian's package puts them, else in the cache. AS701."""
    places = (FASHION_FOLDER, cache_folder() / "fashion-mnist")
    for folder in places:
        if folder.is_dir():
            return folder
    hints = ("apt-get install dataset-fashion-mnist", f"or put its four idx files into '{places[1]}'")
    raise fail("AS701", f"Fashion-MNIST is not installed: no folder '{places[0]}'", None, *hints)


def _shapes(split: str) -> tuple[Images, Labels]:
    from archspec.runtime.data.scenes import SHAPES
    from archspec.runtime.data.shapes import pictures

    drawn = pictures(range(4096) if split == "train" else range(4096, 4608), seed=SHAPES_SEED)
    return drawn.images, np.array([SHAPES.index(scene.subjects[0].shape) for scene in drawn.scenes])


def read_idx(path: Path) -> NDArray[np.uint8]:
    """Read a gzipped idx file of unsigned bytes: two zero bytes, type 8, rank, big-endian sizes, data."""
    try:
        with gzip.open(path) as file:
            raw = file.read()
    except FileNotFoundError:
        raise fail("AS701", f"no file '{path}'", None, "the package dataset-fashion-mnist has it") from None
    except (OSError, EOFError) as error:
        raise fail("AS704", f"cannot unpack '{path}': {error}") from error
    if len(raw) < 4 or raw[:3] != b"\0\0\x08" or len(raw) < 4 + 4 * raw[3]:
        raise fail("AS704", f"'{path}' is not an idx file of bytes")
    shape = np.frombuffer(raw, ">u4", raw[3], 4)
    data = np.frombuffer(raw, np.uint8, offset=4 + 4 * raw[3])
    if data.size != np.prod(shape, dtype=np.int64):
        raise fail("AS704", f"'{path}' holds {data.size} bytes where its header promises {tuple(map(int, shape))}")
    return data.reshape(shape)


BUNDLED: Mapping[str, Callable[[str], tuple[Images, Labels]]] = {
    "digits": _digits,
    "fashion": _fashion,
    "shapes": _shapes,
}
"""One line per data set; `archspec` offers these names."""

SIZES: Mapping[str, Mapping[str, tuple[int, int]]] = {
    "digits": {"train": (1437, 10), "test": (360, 10)},
    "fashion": {"train": (60_000, 10), "test": (10_000, 10)},
    "shapes": {"train": (4096, 6), "test": (512, 6)},
}
"""Examples and classes of each split."""
