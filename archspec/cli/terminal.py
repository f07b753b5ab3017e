"""What verbs share: the libraries' own bars and notices are kept off the terminal; leaderboards and notes
are printed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from archspec.render.board import Board

if TYPE_CHECKING:
    from rich.console import Console

    from archspec.language.spec import Spec

WIDEST = 400
"""Of a table, in characters."""


def quiet_libraries() -> None:
    """Silence progress bars and advice of diffusers and transformers; errors still come."""
    import diffusers
    import transformers

    diffusers.utils.logging.set_verbosity_error()
    diffusers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()


def print_board(board: Board, console: Console) -> None:
    """Print a leaderboard; on what is no terminal it is as wide as it needs to be."""
    from rich.measure import Measurement
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for number, column in enumerate(board.columns):
        table.add_column(column, justify="left" if number < board.texts else "right", no_wrap=True)
    for row in board.rows:
        style = {"host": "bold", "control": "dim"}.get(row.role, "")
        table.add_row(*map(Text, row.cells), style=style)
    wanted = Measurement.get(console, console.options.update(max_width=WIDEST), table).maximum
    console.width = max(console.width, wanted)
    console.print()
    console.print(table)


def note_search(spec: Spec, path: str) -> None:
    """Say what a spec is for that states what to search and edits nothing."""
    if spec.search and not spec.edits:
        note = f"note: nothing is edited; what its `search` chooses is found by `archspec search {path} -o FOUND.yaml`"
        click.echo(note, err=True)
