"""What a task achieved at a site: relative errors on held-out examples, before and after."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import sqrt
from typing import Any

import torch
from torch import Tensor

from archspec.runtime.learn.taps import Record


@dataclass(frozen=True)
class Outcome:
    """`before` and `after` are relative errors |y - y*| / |y*| over held-out examples.

    `kept`: the learned weights stayed; else those it started from did, being better on held-out examples.
    """

    site: str
    before: float
    after: float
    kept: bool
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def final(self) -> float:
        return self.after if self.kept else self.before


class RelativeError:
    """Accumulates |prediction - target| over |target - baseline|, in float64, of tokens that are no padding."""

    def __init__(self) -> None:
        self._sums = torch.zeros(2, dtype=torch.float64)

    def update(self, prediction: Tensor, seen: Record, baseline: Tensor | float = 0.0) -> None:
        target = seen.output.double()
        wrong = seen.real(prediction.double() - target).square().sum()
        whole = seen.real(target - baseline).square().sum()
        self._sums += torch.stack([wrong, whole]).cpu()

    @property
    def value(self) -> float:
        wrong, whole = self._sums.tolist()
        return sqrt(wrong / whole) if whole else float("inf") if wrong else 0.0
