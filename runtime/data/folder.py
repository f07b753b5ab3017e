"""Folders of images: one folder per class (torchvision's and imagefolder's convention), or images without classes.

`split` names a folder inside, if there is one of that name. Classes are numbered in the order of their names.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from archspec.diagnostics import fail
from archspec.runtime.data.describe import IMAGES, Description, setting
from archspec.runtime.data.encoded import pixels_of, through_autoencoder
from archspec.runtime.data.examples import Example, Examples, Shape, fit_image
from archspec.runtime.data.needs import Needs


class Folder(Examples):
    """Images read one by one, as they are asked for."""

    def __init__(self, files: list[Path], root: Path, identity: str, shape: Shape | None) -> None:
        self.files, self.identity, self.shape = files, identity, shape
        parents = [file.relative_to(root).parts[0] if file.parent != root else "" for file in files]
        self.classes = tuple(sorted(set(parents) - {""}))
        if self.classes:
            loose = next((file for file, parent in zip(files, parents, strict=True) if not parent), None)
            if loose is not None:
                raise fail("AS702", f"'{loose}' stands beside the folders of the classes", None, "move it into one")
            number = {name: i for i, name in enumerate(self.classes)}
            self.labels = np.array([number[parent] for parent in parents], dtype=np.int64)

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Example:
        x = read_image(self.files[index])
        found: Example = {"x": x if self.shape is None else fit_image(x, self.shape)}
        return found if self.labels is None else found | {"label": torch.tensor(self.labels[index])}


def open_images(found: Description, data: Mapping[str, Any], needs: Needs) -> Examples:
    assert found.path is not None
    inner = found.path / str(setting(data, "split", "train"))
    root = inner if inner.is_dir() else found.path
    files = Description(found.kind, found.name, found.identity, root).files(IMAGES)
    folder = root if root.is_dir() else root.parent
    return through_autoencoder(Folder(files, folder, found.identity, pixels_of(needs)), needs)


def read_image(path: Path) -> Tensor:
    """Return an image as (1 or 3, height, width), float32 in [-1, 1]; transparency is laid on white."""
    try:
        with Image.open(path) as image:
            return image_tensor(image)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise fail("AS704", f"'{path}' is no readable image: {error}") from error


def image_tensor(image: Image.Image) -> Tensor:
    """As `read_image`, of an open PIL image."""
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
    if image.mode in ("I", "F"):
        raise ValueError(f"images of mode {image.mode} have no stated range")
    if image.mode.startswith("I;16"):
        return torch.from_numpy(np.asarray(image, dtype=np.float32)[None] / 32767.5 - 1.0)
    grey = image.mode in ("1", "L")
    pixels = np.asarray(image.convert("L" if grey else "RGB"), dtype=np.float32) / 127.5 - 1.0
    return torch.from_numpy(pixels[None] if grey else pixels.transpose(2, 0, 1).copy())
