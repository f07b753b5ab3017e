"""Numbers on the command line: finite ones in options, and how members are counted."""

from __future__ import annotations

import math
from typing import Any

import click


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
