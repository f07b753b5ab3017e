"""Values of two checkpoints, tensor by tensor and in slices: what equal headers cannot tell.

Neither model is ever held: a slice of about `CHUNK` elements of each side is in memory at a time (a row, where that is
longer), in float64, which holds every number of the dtypes of weights exactly.
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

from archspec.runtime.store.spectrum import leading
from archspec.runtime.store.sums import Sums

CHUNK = 1 << 19


@dataclass(frozen=True)
class Values:
    """Two tensors compared."""

    name: str
    sums: Sums

    @property
    def equal(self) -> bool:
        """Number for number, after conversion to float64 (so that a cast without loss is equal)."""
        return self.sums.changed == 0

    @property
    def norms(self) -> tuple[float, float, float]:
        """Euclidean: before, after, of the difference."""
        return sqrt(self.sums.before), sqrt(self.sums.after), sqrt(self.sums.change)


@dataclass(frozen=True)
class Place:
    """A tensor in a file of safetensors."""

    file: Path
    name: str


@dataclass(frozen=True)
class Pair:
    """One tensor in two files; each call begins a pass over the slices of both, (rows, columns), float64."""

    views: tuple[Any, Any]

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.views[0].get_shape())

    def __call__(self) -> Iterator[tuple[Tensor, Tensor]]:
        columns = prod(self.shape[1:])
        rows = max(1, CHUNK // max(1, columns))
        for start in range(0, self.shape[0] if self.shape else 1, rows):
            where = slice(start, start + rows) if self.shape else ...
            a, b = (view[where].double().reshape(-1, columns) for view in self.views)
            yield a, b

    def changes(self) -> Iterator[Tensor]:
        return ((b - a).float() for a, b in self())


def compare_values(pairs: Iterable[tuple[str, Place, Place]], spectrum: int = 0) -> Iterator[Values]:
    """Yield one `Values` for each (label, before, after); shapes of the two must be equal.

    `spectrum`: how many of the largest singular values of a matrix's change count as its top; 0: none are sought."""
    with ExitStack() as stack:
        files: dict[Path, Any] = {}
        for label, before, after in pairs:
            for place in (before, after):
                if place.file not in files:
                    files[place.file] = stack.enter_context(safe_open(place.file, framework="pt"))
            yield Values(label, _compare(Pair((_view(files, before), _view(files, after))), spectrum))


def _view(files: Mapping[Path, Any], place: Place) -> Any:
    view = files[place.file].get_slice(place.name)
    return view if view.get_shape() else _Scalar(files[place.file].get_tensor(place.name))


@dataclass(frozen=True)
class _Scalar:
    """What safetensors cannot slice."""

    value: Tensor

    def get_shape(self) -> list[int]:
        return []

    def __getitem__(self, _: object) -> Tensor:
        return self.value


def _compare(pair: Pair, spectrum: int) -> Sums:
    found = sum((_sums(a.flatten(), b.flatten()) for a, b in pair()), Sums())
    if not spectrum or len(pair.shape) < 2 or not found.change:
        return found
    squares = leading(pair.changes, prod(pair.shape[1:]), spectrum)
    return found + Sums(matrices=found.change, first=float(squares[0]), top=float(squares.sum()))


def _sums(a: Tensor, b: Tensor) -> Sums:
    numbers = (a @ a, b @ b, a @ b, (b - a) @ (b - a))
    return Sums(a.numel(), int(torch.count_nonzero(a != b)), *map(float, numbers))
