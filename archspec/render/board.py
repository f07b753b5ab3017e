"""A leaderboard as text that the terminal, Markdown and the page share: titles of columns, and one row per model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Literal

Role = Literal["host", "graft", "control"]


@dataclass(frozen=True)
class Row:
    """`value` is what rows are compared by; None where it is not known."""

    cells: tuple[str, ...]
    role: Role = "graft"
    value: float | None = None


@dataclass(frozen=True)
class Board:
    """`texts`: how many of the first columns hold words, the others numbers. `bar`: the column whose cells have a bar
    on the page, as long as `value` is beside the largest of those that are no control."""

    columns: tuple[str, ...]
    rows: tuple[Row, ...]
    texts: int = 1
    bar: int | None = None


def markdown(board: Board) -> str:
    """Return a table of Markdown, without a newline at its end."""
    rule = ["---"] * board.texts + ["--:"] * (len(board.columns) - board.texts)
    lines: list[Sequence[str]] = [board.columns, rule, *(row.cells for row in board.rows)]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def html(board: Board) -> str:
    """Return a table for `page`."""
    head = "".join(f"<th{_text(number, board)}>{escape(column)}</th>" for number, column in enumerate(board.columns))
    values = [row.value for row in board.rows if row.value is not None and row.role != "control"]
    worst = max(values, default=0.0)
    body = "\n".join(_row(row, board, worst) for row in board.rows)
    return f"<table class=board><thead><tr>{head}</tr></thead><tbody>\n{body}\n</tbody></table>"


def _row(row: Row, board: Board, worst: float) -> str:
    found = [f"<td{_text(number, board)}>{escape(cell)}</td>" for number, cell in enumerate(row.cells)]
    if board.bar is not None and row.value is not None and worst > 0:
        share, over = min(1.0, row.value / worst), " over" if row.value > worst else ""
        fill = f'<span class="fill{over}" style="width:{100 * share:.0f}%"></span>'
        found[board.bar] = f"<td class=bar>{fill}<b>{escape(row.cells[board.bar])}</b></td>"
    return f'<tr class="{row.role}">{"".join(found)}</tr>'


def _text(number: int, board: Board) -> str:
    return " class=text" if number < board.texts else ""
