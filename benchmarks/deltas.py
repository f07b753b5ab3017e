"""Ways to compress the differences of a tuned model, each a recipe that is the same for every matrix.

All use archspec's own encoders, with clip search and refitted singular values. A `Method` has a setting in (0, 1] that
`fitted` makes as large as a number of bytes allows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import sqrt
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from archspec.compiler.packing.encode import encode_quantized, encode_sparse
from archspec.compiler.packing.low_rank import Bands, Triplets, encode_low_rank
from archspec.compiler.packing.recipe import GROUP
from archspec.host.headers import read_folder
from archspec.packs.terms import LowRank, matrix_shape, size_of

TRIES, CLOSE = 16, 0.003
"""How often a setting is tried, and how near to the budget is near enough, from below."""
DELTA_COME = ((2, 8), (32, 3), (968, 2))
"""Columns and bits of its default for attention; only the proportions are used. Its GPTQ is left out."""
Delta = Mapping[str, Tensor]
"""Tensor -> difference, in its shape, float32."""


def differences(base: Path, tuned: Path) -> dict[str, Tensor]:
    from safetensors.torch import load_file

    before, after = (load_file(Path(next(iter(read_folder(folder).values())).file)) for folder in (base, tuned))
    found = {n: after[n].float() - v.float() for n, v in before.items() if v.is_floating_point() and n in after}
    return {name: delta for name, delta in found.items() if delta.any()}


def norm_of(delta: Delta) -> float:
    return sqrt(sum(float(d.double().square().sum()) for d in delta.values()))


class Subject:
    """The differences as matrices, with what several methods need of them: made once."""

    def __init__(self, delta: Delta) -> None:
        self.delta = delta
        self.matrices = {n: d.reshape(matrix_shape(tuple(d.shape))) for n, d in delta.items() if d.dim() > 1}
        self.rest = {n: d for n, d in delta.items() if d.dim() < 2}
        self.norm = norm_of(delta)

    @cached_property
    def triplets(self) -> dict[str, Triplets]:
        return {n: Triplets.of(matrix, GROUP) for n, matrix in self.matrices.items()}

    def error(self, found: Delta) -> float:
        """Return the relative error of what stands for the differences; what is not there is lost."""
        lost = sum(float((d - found.get(n, torch.zeros(()))).double().square().sum()) for n, d in self.delta.items())
        return sqrt(lost) / self.norm


@dataclass(frozen=True)
class Method:
    """`size(subject, x)` bytes and `decode(subject, x)` at a setting x in (0, 1], larger with it."""

    name: str
    title: str
    size: Callable[[Subject, float], int]
    decode: Callable[[Subject, float], dict[str, Tensor]]


def vectors(subject: Subject) -> dict[str, Tensor]:
    """Norms and biases, which every other method keeps in float16."""
    return {name: d.to(torch.float16).float() for name, d in subject.rest.items()}


def ranked(name: str, title: str, bands: Callable[[int], Sequence[tuple[int, int]]]) -> Method:
    """Return a method that keeps the same part of all triplets of every matrix, `bands` dividing a rank."""

    def cut(name: str, subject: Subject, x: float) -> list[tuple[int, int]]:
        rank = max(1, int(x * len(subject.triplets[name].s)))
        return [(count, bits) for count, bits in bands(rank) if count]

    def size(subject: Subject, x: float) -> int:
        terms = (
            size_of(LowRank(tuple(cut(name, subject, x)), GROUP, ()), tuple(matrix.shape))
            for name, matrix in subject.matrices.items()
        )
        return sum(terms) + whole(subject)

    def decode(subject: Subject, x: float) -> dict[str, Tensor]:
        found = vectors(subject)
        for name, triplets in subject.triplets.items():
            value = encode_low_rank(triplets, placed(cut(name, subject, x))).value()
            found[name] = value.reshape(subject.delta[name].shape)
        return found

    return Method(name, title, size, decode)


def placed(cut: Sequence[tuple[int, int]]) -> Bands:
    """Give the first triplets to the first band, and so on."""
    ends = [sum(count for count, _ in cut[: place + 1]) for place in range(len(cut))]
    return [(range(end - count, end), bits) for end, (count, bits) in zip(ends, cut, strict=True)]


def whole(subject: Subject) -> int:
    return sum(2 * d.numel() for d in subject.rest.values())


def delta_come(rank: int) -> list[tuple[int, int]]:
    total = sum(count for count, _ in DELTA_COME)
    first, second = (max(1, round(rank * count / total)) for count, _ in DELTA_COME[:2])
    first, second = min(first, rank), min(second, max(0, rank - first))
    return [(first, 8), (second, 3), (rank - first - second, 2)]


def coded(name: str, title: str, encode: Callable[[Tensor, float], Any]) -> Method:
    """Return a method that encodes each matrix by itself, without triplets."""

    def encoded(subject: Subject, x: float) -> Iterator[tuple[str, Any]]:
        return ((name, encode(matrix, x)) for name, matrix in subject.matrices.items())

    def size(subject: Subject, x: float) -> int:
        data: int = sum(e.size for _, e in encoded(subject, x))
        return data + whole(subject)

    def decode(subject: Subject, x: float) -> dict[str, Tensor]:
        found = {name: e.value().reshape(subject.delta[name].shape) for name, e in encoded(subject, x)}
        return vectors(subject) | found

    return Method(name, title, size, decode)


METHODS = (
    ranked("rank-f16", "low rank, float16", lambda rank: [(rank, 16)]),
    ranked("rank-4", "low rank, 4 bits throughout", lambda rank: [(rank, 4)]),
    ranked("rank-2", "low rank, 2 bits throughout", lambda rank: [(rank, 2)]),
    ranked("delta-come", "Delta-CoMe's bands of 8, 3 and 2 bits", delta_come),
    coded("pruning", "pruning by size", encode_sparse),
)
FIXED = (
    coded("bitdelta", "BitDelta: a sign, one size per matrix", lambda m, x: encode_quantized(m, 1, 0, axis="tensor")),
    coded("bits-2", "2 bits per entry, groups of 128", lambda m, x: encode_quantized(m, 2, GROUP)),
    coded("bits-4", "4 bits per entry, groups of 128", lambda m, x: encode_quantized(m, 4, GROUP)),
)
"""Methods with nothing to set: their size is what it is."""


def fitted(method: Method, subject: Subject, budget: int) -> float | None:
    """Return the largest setting that keeps to the bytes, or nearly; None where none does.

    Sizes are near lines in pieces: the next try is where a line meets the budget, by turns with the middle."""
    low, high = 1e-9, 1.0
    least, most = method.size(subject, low), method.size(subject, high)
    if least > budget or most <= budget:
        return None if least > budget else high
    for count in range(TRIES):
        part = (budget - least) / (most - least) if count % 3 < 2 else 0.5
        middle = low + (high - low) * part
        size = method.size(subject, middle)
        if size <= budget:
            low, least = middle, size
        else:
            high, most = middle, size
        if budget - least <= CLOSE * budget:
            break
    return low
