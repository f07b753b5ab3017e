"""How two lots of numbers differ, as sums: those of tensors add up to those of a block, a role, a model. No torch."""

from __future__ import annotations

from dataclasses import astuple, dataclass
from math import inf, sqrt


@dataclass(frozen=True)
class Sums:
    """Squares and products of numbers a before and b after, d = b - a.

    `matrices` is the part of Σ d² that stands in matrices, `first` the squares of their largest singular values, `top`
    of their k largest ones; 0 where nobody asked."""

    count: int = 0
    changed: int = 0
    before: float = 0.0
    after: float = 0.0
    dot: float = 0.0
    change: float = 0.0
    matrices: float = 0.0
    first: float = 0.0
    top: float = 0.0

    def __add__(self, other: Sums) -> Sums:
        return Sums(*(a + b for a, b in zip(astuple(self), astuple(other), strict=True)))

    @property
    def relative(self) -> float:
        """||d|| / ||a||; infinite where something grew from zero."""
        if self.before == 0:
            return 0.0 if self.change == 0 else inf
        return sqrt(self.change / self.before)

    @property
    def cosine(self) -> float:
        """Between a and b; of two zeros 1, of one 0."""
        if self.before and self.after:
            return self.dot / sqrt(self.before * self.after)
        return float(self.before == self.after)

    @property
    def fraction(self) -> float:
        """Share of the numbers that are others than before."""
        return self.changed / self.count if self.count else 0.0

    @property
    def energy(self) -> float | None:
        """Share of the squares of all d that the largest k singular values of each matrix hold; None: not known."""
        return self.top / self.matrices if self.top else None

    @property
    def stable_rank(self) -> float | None:
        """||d||² over the square of the largest singular value, summed over matrices; None: not known."""
        return self.matrices / self.first if self.first else None
