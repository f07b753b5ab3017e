"""A table of numbers whose cells are shaded by size: rows are roles, columns depth. Terminal and Markdown share it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

COLD, HOT = (70, 130, 200), (225, 110, 60)
"""Colours of the largest negative and the largest positive number."""


@dataclass(frozen=True)
class Heat:
    """`scale`: the number that has the full colour; None: the largest one of the table."""

    title: str
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    cells: Mapping[tuple[str, str], float]
    scale: float | None = None

    def text(self, row: str, column: str) -> str:
        value = self.cells.get((row, column))
        return "" if value is None else short(value)

    def color(self, row: str, column: str) -> tuple[int, int, int] | None:
        """Return the colour behind a cell, None where there is nothing to shade."""
        value = self.cells.get((row, column))
        whole = self.scale or max((abs(v) for v in self.cells.values() if abs(v) < float("inf")), default=0.0)
        if not value or not whole or value != value:
            return None
        part = min(1.0, abs(value) / whole)
        return tuple(round(255 + part * (c - 255)) for c in (HOT if value > 0 else COLD))  # type: ignore[return-value]


def short(value: float) -> str:
    """Write a number in at most six characters.

    >>> [short(x) for x in (0, 0.00001, 0.0123, 1.2, 45.67, 1234.5, 2e6, float("inf"), -0.25)]
    ['0', '1e-5', '0.012', '1.20', '45.7', '1234', '2e6', 'inf', '-0.250']
    """
    size = abs(value)
    if size == 0 or size == float("inf"):
        return f"{value:.0f}"
    if size < 1e-3 or size >= 1e5:
        return re.sub(r"e([+-])0*", lambda sign: "e" + sign[1].strip("+"), f"{value:.0e}")
    places = 3 if size < 1 else 2 if size < 10 else 1 if size < 100 else 0
    return f"{value:.{places}f}"


def markdown(heat: Heat) -> str:
    """Return a table of Markdown, without a newline at its end."""
    lines = [f"| {heat.title} | {' | '.join(heat.columns)} |", "|---|" + "--:|" * len(heat.columns)]
    lines += [f"| {row} | {' | '.join(heat.text(row, column) for column in heat.columns)} |" for row in heat.rows]
    return "\n".join(lines)
