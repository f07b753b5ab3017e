"""Where the differences of two packs meet: do they pull the same weights the same way? One tensor of each at a time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import astuple, dataclass
from math import sqrt

import torch
from torch import Tensor

from archspec.runtime.packs.reading import Pack

CHUNK = 1 << 19
"""Numbers that are summed at once, in float64."""


@dataclass(frozen=True)
class Meeting:
    """Sums over numbers that two packs change by a and by b. `both`: neither is 0; `agree`: and signs are equal."""

    first: float = 0.0
    second: float = 0.0
    dot: float = 0.0
    both: int = 0
    agree: int = 0

    def __add__(self, other: Meeting) -> Meeting:
        return Meeting(*(a + b for a, b in zip(astuple(self), astuple(other), strict=True)))

    @property
    def cosine(self) -> float:
        """Between the differences: 1 pulls the same way, -1 undoes; 0 where one of them is nothing."""
        whole = sqrt(self.first * self.second)
        return self.dot / whole if whole else 0.0

    @property
    def same_sign(self) -> float | None:
        """Share of the numbers that both change which they change in one direction; None: there are none."""
        return self.agree / self.both if self.both else None


def meet(a: Pack, b: Pack) -> Iterator[tuple[str, Meeting]]:
    """Yield the meeting of every tensor that a pack holds; what the other one leaves alone is 0 there.

    AS680 where a pack decodes to what is no number. Shapes of tensors in both must be equal."""
    for name in dict.fromkeys([*a.header.tensors, *b.header.tensors]):
        held = [pack.delta(name).flatten() if name in pack.header.tensors else None for pack in (a, b)]
        size = max(len(delta) for delta in held if delta is not None)
        first, second = (torch.zeros(1).expand(size) if delta is None else delta for delta in held)
        parts = zip(torch.split(first, CHUNK), torch.split(second, CHUNK), strict=True)
        yield name, sum((_met(x.double(), y.double()) for x, y in parts), Meeting())


def _met(a: Tensor, b: Tensor) -> Meeting:
    signs = a.sign() * b.sign()
    counts = int(signs.count_nonzero()), int((signs > 0).sum())
    return Meeting(float(a @ a), float(b @ b), float(a @ b), *counts)
