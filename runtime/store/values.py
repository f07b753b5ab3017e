"""Values of two checkpoints, tensor by tensor and in slices: what equal headers cannot tell.

Neither model is ever held: a slice of at most `CHUNK` elements of each side is in memory at a time, sums are float64.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from math import prod, sqrt
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

CHUNK = 1 << 24


@dataclass(frozen=True)
class Values:
    """Two tensors compared. Norms are Euclidean; `change` is that of the difference, `cosine` between both."""

    name: str
    count: int
    norm_before: float
    norm_after: float
    change: float
    cosine: float
    equal: bool
    """Bit for bit, after conversion to float64 (so that a cast without loss is equal)."""

    @property
    def relative(self) -> float:
        """Norm of the difference over the norm before; infinite where something grew from zero."""
        if self.norm_before == 0:
            return 0.0 if self.change == 0 else float("inf")
        return self.change / self.norm_before


@dataclass(frozen=True)
class Place:
    """A tensor in a file of safetensors."""

    file: Path
    name: str


def compare_values(pairs: Iterable[tuple[str, Place, Place]]) -> Iterator[Values]:
    """Yield one `Values` for each (label, before, after); shapes of the two must be equal."""
    with ExitStack() as stack:
        files: dict[Path, Any] = {}
        for label, before, after in pairs:
            for place in (before, after):
                if place.file not in files:
                    files[place.file] = stack.enter_context(safe_open(place.file, framework="pt"))
            yield _compare(label, _slices(files, before), _slices(files, after))


def _slices(files: Mapping[Path, Any], place: Place) -> Iterator[Tensor]:
    view = files[place.file].get_slice(place.name)
    shape = view.get_shape()
    if not shape:
        yield files[place.file].get_tensor(place.name).double().flatten()
        return
    rows = max(1, CHUNK // max(1, prod(shape[1:])))
    for start in range(0, shape[0], rows):
        yield view[start : start + rows].double().flatten()


def _compare(label: str, before: Iterator[Tensor], after: Iterator[Tensor]) -> Values:
    sums = torch.zeros(4, dtype=torch.float64)
    count, equal = 0, True
    for a, b in zip(before, after, strict=True):
        sums += torch.stack([a @ a, b @ b, a @ b, (a - b) @ (a - b)])
        count += a.numel()
        equal = equal and torch.equal(a, b)
    aa, bb, ab, dd = sums.tolist()
    cosine = ab / sqrt(aa * bb) if aa and bb else float(aa == bb)
    return Values(label, count, sqrt(aa), sqrt(bb), sqrt(dd), cosine, equal)
