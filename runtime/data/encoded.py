"""Images for a host that draws latents: encoded by the pipeline's autoencoder once, and kept on disk.

The latents are the mode of the encoder's distribution, shifted and scaled as diffusers does it. They are written to
a memory-mapped array in the cache folder (`ARCHSPEC_CACHE`, else ~/.cache/archspec) as they are first asked for; a
second array marks the finished rows, after the row itself, so a killed run loses at most the row it was writing.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from archspec.plan import digest
from archspec.runtime.data.describe import fingerprint
from archspec.runtime.data.examples import Example, Examples, Shape
from archspec.runtime.data.needs import Needs
from archspec.runtime.store.files import reserve, writing
from archspec.runtime.store.home import read_json


def cache_folder() -> Path:
    return Path(os.environ.get("ARCHSPEC_CACHE", "~/.cache/archspec")).expanduser()


def pixels_of(needs: Needs) -> Shape | None:
    """Return the shape of the images that become what the host takes: larger where an autoencoder stands before it."""
    if needs.shape is None:
        return None
    if needs.autoencoder is None:
        channels, rows, columns = needs.shape
        return (channels // needs.folded**2, rows * needs.folded, columns * needs.folded)
    config = read_json(needs.autoencoder / "config.json")
    factor = 2 ** (len(config.get("block_out_channels", [0])) - 1)
    return (int(config.get("in_channels", 3)), needs.shape[1] * factor, needs.shape[2] * factor)


def through_autoencoder(examples: Examples, needs: Needs) -> Examples:
    """Return the examples as the host takes them: the same, or their latents."""
    if needs.folded > 1:
        return Folded(examples, needs.folded)
    if needs.autoencoder is None or needs.shape is None:
        return examples
    return Encoded(examples, needs.autoencoder, needs.shape)


class Folded(Examples):
    """Images whose every `side` x `side` pixels stand in one place, in its channels."""

    def __init__(self, images: Examples, side: int) -> None:
        self.images, self.side = images, side
        self.identity = digest(["folded", images.identity, side])
        self.labels, self.classes = images.labels, images.classes

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Example:
        example = self.images[index]
        return example | {"x": F.pixel_unshuffle(example["x"], self.side)}


class Encoded(Examples):
    """Latents of images, encoded when first asked for."""

    def __init__(self, images: Examples, autoencoder: Path, shape: Shape) -> None:
        self.images, self.folder, self.shape = images, autoencoder, shape
        self.identity = digest(["encoded", images.identity, fingerprint(autoencoder)])
        self.labels, self.classes = images.labels, images.classes
        self._coder: Any = None
        place = cache_folder() / "latents" / self.identity
        self._rows = _array(place / "rows.npy", (len(images), *shape), np.float16)
        self._done = _array(place / "done.npy", (len(images),), np.uint8)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Example:
        example = dict(self.images[index]) if not self._done[index] else self._label(index)
        if not self._done[index]:
            self._rows[index] = self._encode(example["x"])
            self._done[index] = 1
        return example | {"x": torch.from_numpy(self._rows[index].astype(np.float32))}

    def _label(self, index: int) -> Example:
        return {} if self.labels is None else {"label": torch.tensor(self.labels[index])}

    def _encode(self, x: Tensor) -> Any:
        coder = self._load()
        with torch.no_grad():
            latent = coder.encode(x[None]).latent_dist.mode()[0]
        return ((latent - (getattr(coder.config, "shift_factor", None) or 0.0)) * coder.config.scaling_factor).numpy()

    def _load(self) -> Any:
        if self._coder is None:
            from archspec.runtime.model.hosts import host_class

            name = read_json(self.folder / "config.json").get("_class_name", "AutoencoderKL")
            cls: Any = host_class("diffusers", name)
            self._coder = cls.from_pretrained(self.folder, torch_dtype=torch.float32).eval()
        return self._coder


def _array(path: Path, shape: tuple[int, ...], dtype: Any) -> Any:
    """Open a mapped array for writing; make it, full of zeros, if it is not there in this form. AS631."""
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        found = _opened(path)
        if found is None or found.shape != shape or found.dtype != dtype:
            found = np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=shape)
        with path.open("r+b") as file:
            reserve(file.fileno(), path.stat().st_size)
    return found


def _opened(path: Path) -> Any:
    try:
        return np.lib.format.open_memmap(path, mode="r+") if path.exists() else None
    except (ValueError, OSError):
        return None
