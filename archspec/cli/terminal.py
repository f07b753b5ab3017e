"""What verbs share: the libraries' own bars and notices are kept off the terminal; leaderboards and notes
are printed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from archspec.render.board import Board

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, ProgressColumn
    from rich.table import Table

    from archspec.language.spec import Spec

WIDEST = 4000
"""Of a table, in characters."""


def quiet_libraries() -> None:
    """Silence progress bars and advice of diffusers and transformers; errors still come."""
    import diffusers
    import transformers

    diffusers.utils.logging.set_verbosity_error()
    diffusers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()


def progress_console(silent: bool = False) -> Console:
    """Return the console on stderr for bars and states: silent where that is no terminal (rich would end an empty
    line there)."""
    from rich.console import Console

    console = Console(stderr=True)
    console.quiet = silent or not console.is_terminal
    return console


def progress_bar(silent: bool = False, *columns: ProgressColumn) -> Progress:
    """Return bars on that console, gone when they end."""
    from rich.progress import Progress

    console = progress_console(silent)
    return Progress(*columns, transient=True, disable=console.quiet, console=console)


def print_table(table: Table) -> None:
    """Print a table; on what is no terminal it is as wide as it needs to be, so that no cell is cut into lines."""
    from rich.console import Console

    console = Console(highlight=False, markup=False)
    if not console.is_terminal:
        _widen(console, table)
    console.print(table)


def _widen(console: Console, table: Table) -> None:
    from rich.measure import Measurement

    wanted = Measurement.get(console, console.options.update(max_width=WIDEST), table).maximum
    console.width = max(console.width, wanted)


def print_board(board: Board, console: Console) -> None:
    """Print a leaderboard, as wide as it needs to be."""
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for number, column in enumerate(board.columns):
        table.add_column(column, justify="left" if number < board.texts else "right", no_wrap=True)
    for row in board.rows:
        style = {"host": "bold", "control": "dim"}.get(row.role, "")
        table.add_row(*map(Text, row.cells), style=style)
    _widen(console, table)
    console.print()
    console.print(table)


def note_search(spec: Spec, path: str) -> None:
    """Say what a spec is for that states what to search and edits nothing."""
    if spec.search and not spec.edits:
        note = f"note: nothing is edited; what its `search` chooses is found by `archspec search {path} -o FOUND.yaml`"
        click.echo(note, err=True)
