"""Learning rates in closed form: a function of the step alone, so that nothing of it has to be saved."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

Schedule = Literal["constant", "cosine", "linear"]


def rate(
    step: int, total: int, *, warmup: int = 0, schedule: Schedule = "constant", milestones: Sequence[int] = ()
) -> float:
    """Return the factor of the peak rate at `step` (from 0) of `total`.

    Linear warm-up reaches 1 at step `warmup`; cosine and linear then fall to 0 at `total`; each milestone halves.

    >>> [rate(s, 10, warmup=2, schedule="linear") for s in (0, 1, 2, 6, 9)]
    [0.5, 1.0, 1.0, 0.5, 0.125]
    """
    if step < warmup:
        return (step + 1) / warmup
    done = (step - warmup) / max(1, total - warmup)
    shape = {"constant": 1.0, "cosine": 0.5 * (1 + math.cos(math.pi * done)), "linear": 1 - done}[schedule]
    return shape * 0.5 ** sum(1 for m in milestones if step >= m)
