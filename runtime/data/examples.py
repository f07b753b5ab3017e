"""Examples: what every kind of data is in the end, a map-style data set of dicts of tensors.

`Arrays` holds tensors (or memory-mapped arrays) as they are, `Part` some of another's examples. Images of any size and
number of channels are made to fit the host by `fit_image`: grey or colour, centre square, antialiased bilinear.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import Dataset

from archspec.diagnostics import fail
from archspec.plan import digest

Example = dict[str, Any]
Shape = tuple[int, int, int]


class Examples(Dataset[Example]):
    """Base of all kinds. `labels` is None where the data has no classes; `identity` names the content."""

    identity: str = ""
    labels: NDArray[np.int64] | None = None
    classes: tuple[str, ...] = ()

    def __len__(self) -> int:
        raise NotImplementedError

    def __getitem__(self, index: int) -> Example:
        raise NotImplementedError

    def batch(self, indices: Sequence[int]) -> Example:
        """Return examples stacked: each entry (batch, ...)."""
        from torch.utils.data import default_collate

        found: Example = default_collate([self[int(i)] for i in indices])
        return found


class Arrays(Examples):
    """Columns of equal length, by the names of an example's entries; `x` is made to fit `shape` if one is given."""

    def __init__(self, columns: Mapping[str, Any], identity: str, shape: Shape | None = None) -> None:
        self.columns, self.identity, self.shape = columns, identity, shape
        self.labels = np.asarray(columns["label"], dtype=np.int64) if "label" in columns else None

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))

    def __getitem__(self, index: int) -> Example:
        found = {name: as_tensor(column[index]) for name, column in self.columns.items()}
        if self.shape is not None and "x" in found:
            found["x"] = fit_image(found["x"], self.shape)
        return found


class Part(Examples):
    """The examples of `whole` at `indices`."""

    def __init__(self, whole: Examples, indices: NDArray[np.int64]) -> None:
        self.whole, self.indices = whole, indices
        self.identity = digest([whole.identity, [int(i) for i in indices]])
        self.labels = None if whole.labels is None else whole.labels[indices]
        self.classes = whole.classes

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> Example:
        return self.whole[int(self.indices[index])]


def as_tensor(value: Any) -> Tensor:
    """A tensor of its own memory: an array that is mapped from a file is copied."""
    return value if isinstance(value, Tensor) else torch.from_numpy(np.array(value))


def fit_image(x: Tensor, shape: Shape) -> Tensor:
    """(any channels, any height, any width) in [-1, 1] to `shape`, likewise."""
    channels, height, width = shape
    x = _recolour(x, channels)
    if x.shape[1:] == (height, width):
        return x
    side = min(x.shape[1] / height, x.shape[2] / width)
    rows, columns = round(side * height), round(side * width)
    top, left = (x.shape[1] - rows) // 2, (x.shape[2] - columns) // 2
    square = x[None, :, top : top + rows, left : left + columns]
    return F.interpolate(square, size=(height, width), mode="bilinear", antialias=True, align_corners=False)[0]


def _recolour(x: Tensor, channels: int) -> Tensor:
    if x.shape[0] == channels:
        return x
    if channels == 1:
        weights = torch.tensor([0.299, 0.587, 0.114], dtype=x.dtype)  # ITU-R BT.601
        return (x[:3] * weights[: min(3, len(x)), None, None]).sum(0, keepdim=True)
    if x.shape[0] == 1:
        return x.expand(channels, -1, -1)
    raise fail("AS707", f"images have {x.shape[0]} channels, the host takes {channels}")


def check_labels(examples: Examples, classes: int | None, name: str) -> None:
    """Refuse labels that the host has no embedding for."""
    if examples.labels is None or classes is None or not len(examples.labels):
        return
    least, most = int(examples.labels.min()), int(examples.labels.max())
    if least < 0 or most >= classes:
        wrong = least if least < 0 else most
        raise fail("AS705", f"'{name}' has the class {wrong}, the host knows 0 to {classes - 1}")
