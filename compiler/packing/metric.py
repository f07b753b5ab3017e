"""What an error of a matrix costs: by its squares, or by what it does to the outputs of the linear map it belongs to.

With inputs x of the map, an error E of its weights moves outputs by E x, on average over inputs |E x|^2 = tr(E M E^T),
M = mean of x x^T. So a second moment is all that an output error needs of the inputs, however many there were. Without
inputs M is the unit matrix and the error is the squared Frobenius norm.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from archspec.diagnostics import InternalError

MOST_DAMPED = 8
DAMP = 0.01
"""Part of the mean energy of an input (diagonal of M) that is added in every direction, as in GPTQ."""


@dataclass(frozen=True)
class Metric:
    """`moment` M (columns, columns), float64; None: the unit matrix. `damp`: see `damped`."""

    moment: Tensor | None = None
    damp: float = DAMP

    def rows(self, x: Tensor) -> Tensor:
        """Return (rows,), what each row of errors (rows, columns) costs, float64."""
        wide = x.double()
        return (self.weighted(wide) * wide).sum(1).clamp(min=0)

    def squared(self, x: Tensor) -> float:
        """Return what errors cost together."""
        return float(self.rows(x).sum())

    def inner(self, a: Tensor, b: Tensor) -> Tensor:
        """Return a M b^T, float64: the products of all rows of a with all rows of b."""
        return self.weighted(a.double()) @ b.double().T

    def weighted(self, x: Tensor) -> Tensor:
        """Return x M, x float64."""
        return x if self.moment is None else x @ self.moment

    def along(self, x: Tensor, y: Tensor) -> Tensor:
        """Return (rows,), the products of rows of x with the same rows of y, float64."""
        found: Tensor = (self.weighted(x.double()) * y.double()).sum(1)
        return found

    def damped(self, damp: float) -> Tensor:
        """Return M with `damp` times its mean diagonal on the diagonal."""
        assert self.moment is not None
        added = damp * self.moment.diagonal().abs().mean()
        return self.moment + added * torch.eye(len(self.moment), dtype=self.moment.dtype)

    @cached_property
    def root(self) -> Tensor:
        """L, lower triangular, with L L^T the damped moment. A moment that rounding has left with a negative direction
        (inputs that lie in a plane) is damped tenfold until it has none."""
        for more in range(MOST_DAMPED):
            root: Tensor
            root, failed = torch.linalg.cholesky_ex(self.damped(self.damp * 10**more))
            if not failed:
                return root
        raise InternalError(f"a moment of {len(self.moment or ())} inputs has no root")

    @cached_property
    def factor(self) -> Tensor:
        """U, upper triangular, with U^T U the inverse of the damped moment: what GPTQ goes by."""
        found: Tensor = torch.linalg.cholesky(torch.cholesky_inverse(self.root), upper=True)
        return found

    def of(self, columns: Tensor) -> Metric:
        """Return the metric of these columns, in this order: what they cost while the others have no error."""
        return self if self.moment is None else Metric(self.moment[columns][:, columns], self.damp)


PLAIN = Metric()
"""Squares."""
