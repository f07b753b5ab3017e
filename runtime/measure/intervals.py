"""Intervals over seeds: Student's t at 95 %."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from statistics import mean, stdev


def interval(values: Iterable[float], digits: int = 2) -> str:
    """Return "mean ± half width" of the 95 % interval.

    >>> interval([1.0, 2.0, 3.0])
    '2.00 ± 2.48'
    """
    found = list(values)
    return f"{mean(found):.{digits}f} ± {half_width(found):.{digits}f}"


def spread(found: Sequence[float]) -> tuple[float, float]:
    """Return the ends of the 95 % interval of the mean."""
    half = half_width(found)
    return mean(found) - half, mean(found) + half


def half_width(found: Sequence[float]) -> float:
    """Return half of the width of the 95 % interval of the mean of at least two values."""
    from scipy.stats import t

    half: float = float(t.ppf(0.975, len(found) - 1)) * stdev(found) / len(found) ** 0.5
    return half
