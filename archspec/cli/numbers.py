"""Numbers on the command line: finite ones in options; how members are counted and figures with errors told."""

from __future__ import annotations

import math
from typing import Any

import click

SMALLEST, LARGEST = -4, 6
"""Powers of ten: figures from the one up to the other are written without a power."""


class Finite(click.FloatRange):
    """A range of numbers that NaN and infinity are not in; click's own lets NaN through."""

    name = "number"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        found = super().convert(value, param, ctx)
        if not math.isfinite(found):
            self.fail(f"{value!r} is no finite number", param, ctx)
        return found


def members(count: int) -> str:
    """Tell a number of members.

    >>> members(1), members(2)
    ('1 member', '2 members')
    """
    return f"{count} member{'' if count == 1 else 's'}"


def with_error(value: float, error: float) -> tuple[str, str]:
    """Return a figure and its error to the first digit of the error; to three digits of its own where that is none.

    >>> with_error(43.2, 10.4), with_error(1.0, 1e-3), with_error(2.34567, 0.0)
    (('40', '10'), ('1.000', '0.001'), ('2.35', '0'))
    >>> with_error(1.234e-9, 2e-11), with_error(5e7, 2e6)
    (('1.23e-09', '0.02e-09'), ('5.0e+07', '0.2e+07'))
    """
    if not error or not math.isfinite(error):
        return f"{value:.3g}", f"{error:.0f}"
    last = _power(float(f"{error:.0e}"))
    first = max(_power(value), last)
    if SMALLEST <= first < LARGEST:
        digits, scale, power = -last, 1.0, ""
    else:
        digits, scale, power = first - last, 10.0**first, f"e{first:+03d}"
    told = (f"{round(x / scale, digits) + 0.0:.{max(0, digits)}f}{power}" for x in (value, error))
    return next(told), next(told)


def _power(value: float) -> int:
    return math.floor(math.log10(abs(value))) if value else -400
