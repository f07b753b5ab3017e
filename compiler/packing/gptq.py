"""GPTQ (arXiv 2210.17323): values rounded column by column, the columns to come making up for each one's error.

With the damped second moment H of the inputs and U the upper Cholesky factor of its inverse, U^T U = H^{-1}: when
column j has been rounded, what was lost, divided by U_jj, times row j of U is taken off the columns after it (Algorithm
1; updates are gathered over blocks of columns, as there). Levels are given, so rows are independent of one another, and
of every row the better is kept, by its true output error: GPTQ's, or the nearest levels. GPTQ alone promises nothing:
damping and greed can lose on a row.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from archspec.compiler.packing.metric import PLAIN, Metric

BLOCK = 64
Nearest = Callable[[Tensor, Tensor], Tensor]
"""(numbers of columns (some,), their values (some, rows)) -> the nearest values that can be kept, float64."""


def gptq(values: Tensor, nearest: Nearest, metric: Metric, act_order: bool = False) -> Tensor:
    """Return the kept values (rows, columns), float64, of least output error that GPTQ finds.

    `act_order`: columns of most input energy first."""
    wide = values.double().T.contiguous()  # a column's values lie together: they are rounded together
    columns = torch.arange(len(wide))
    plain = nearest(columns, wide)
    order = metric.damped(metric.damp).diagonal().argsort(descending=True, stable=True) if act_order else columns
    factor = metric.of(order).factor if act_order else metric.factor
    found = torch.empty_like(wide)
    found[order] = _swept(wide[order], order, nearest, factor)
    better = metric.rows((found - wide).T) < metric.rows((plain - wide).T)
    return torch.where(better, found, plain).T


def _swept(rest: Tensor, order: Tensor, nearest: Nearest, factor: Tensor) -> Tensor:
    """Round columns (columns, rows) from the first; `rest` is changed."""
    found = torch.empty_like(rest)
    for start in range(0, len(rest), BLOCK):
        end = min(start + BLOCK, len(rest))
        errors = torch.empty_like(rest[start:end])
        for j, error in zip(range(start, end), errors, strict=True):
            found[j] = nearest(order[j : j + 1], rest[j : j + 1])[0]
            torch.sub(rest[j], found[j], out=error).div_(factor[j, j])
            rest[j + 1 : end].addr_(factor[j, j + 1 : end], error, alpha=-1)
        rest[end:].addmm_(factor[start:end, end:].T, errors, alpha=-1)
    return found


@dataclass(frozen=True)
class Rounding:
    """How values become codes: each its nearest level, or (`gptq`) by GPTQ under a metric that knows of inputs."""

    metric: Metric = PLAIN
    gptq: bool = False
    act_order: bool = False

    @property
    def makes_up(self) -> bool:
        """Whether errors of one column are made up for in others."""
        return self.gptq and self.metric.moment is not None

    def codes(self, values: Tensor, steps: Tensor, bits: int) -> Tensor:
        """Return the codes (rows, columns), uint8, of values whose levels lie `steps` apart."""
        wide, middle = steps.double().T.contiguous(), (2**bits - 1) / 2

        def nearest(columns: Tensor, x: Tensor) -> Tensor:
            step = wide[columns]
            return codes_of(x, step, middle).sub_(middle).mul_(step)

        found = gptq(values, nearest, self.metric, self.act_order)
        return codes_of(found, wide.T, middle).to(torch.uint8)


def codes_of(x: Tensor, steps: Tensor, middle: float | Tensor) -> Tensor:
    """Return the codes of the levels nearest to x, of 0 to 2 `middle`."""
    places = (x / steps.clamp(min=torch.finfo(torch.float32).tiny)).add_(middle).round_()
    return torch.minimum(places.clamp_(min=0), torch.as_tensor(2 * middle, dtype=places.dtype))


NEAREST = Rounding()
