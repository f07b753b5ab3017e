"""Numbers as people write them."""

from __future__ import annotations

import math

Number = int | float | bool


def quantity(value: Number, unit: str) -> str:
    """Return a value as a person reads it.

    >>> quantity(712_043_520, "count"), quantity(3 * 2**30, "bytes"), quantity(math.inf, "tokens")
    ('712.04M', '3GiB', 'all')
    """
    if isinstance(value, bool):
        return str(value).lower()
    if value == math.inf:
        return "all"
    if unit == "bytes":
        return _scaled(value, 1024, ("B", "KiB", "MiB", "GiB", "TiB"))
    if unit == "count":
        return _scaled(value, 1000, ("", "k", "M", "G", "T", "P"))
    if unit == "fraction":
        return f"{100 * value:.4g}%"
    return f"{1000 * value:.4g}ms" if unit == "seconds" else f"{value:.6g}"


def _scaled(value: float, step: int, suffixes: tuple[str, ...]) -> str:
    for suffix in suffixes[:-1]:
        if abs(value) < step:
            return f"{value:.2f}{suffix}" if isinstance(value, float) and value % 1 else f"{value:.0f}{suffix}"
        value /= step
    return f"{value:.2f}{suffixes[-1]}"


def duration(value: float) -> str:
    """Return a time as a person says it.

    >>> duration(0.4), duration(90), duration(7200)
    ('1 s', '1.5 min', '2.0 h')
    """
    if value < 60:
        return f"{max(1, round(value))} s"
    return f"{value / 60:.1f} min" if value < 3600 else f"{value / 3600:.1f} h"
