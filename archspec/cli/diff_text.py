"""What `archspec diff` prints on a terminal, 100 columns wide at most but for long names."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from archspec.diff import packs, weights
from archspec.diff.compare import Difference
from archspec.diff.packs import PackDifference
from archspec.diff.report import TITLES, most_changed, only_in_one, ratio, show, shown_change, verdict
from archspec.diff.weights import Weights
from archspec.render.heat import Heat

if TYPE_CHECKING:
    from rich.console import Console


def text(console: Console, difference: Difference, values: Weights | None) -> None:
    """Print a comparison of two models."""
    from rich.text import Text

    _sides(console, difference.before.label, difference.after.label)
    for kind, title in TITLES.items():
        rows = [shown_change(c) for c in difference.changes if c.kind == kind]
        if rows:
            console.print(Text(f"\n{title}", style="bold"))
            console.print(_changes(rows))
    console.print()
    console.print(_totals(difference))
    if values is not None and values.changed:
        _weights(console, values)
    console.print()
    for line in only_in_one(values) if values is not None else ():
        console.print(Text(line, style="dim"))
    console.print(Text(verdict(difference, values), style="bold"))


def packs_text(console: Console, found: PackDifference) -> None:
    """Print a comparison of two packs."""
    from rich.text import Text

    _sides(console, *(_pack(found, side) for side in (0, 1)))
    console.print(f"  {packs.bases(found)}\n")
    console.print(_table(*packs.totals(found)))
    console.print()
    console.print(_table(*packs.chains(found), words=3))
    for heat in packs.heats(found):
        console.print()
        console.print(_heat(heat))
    console.print()
    console.print(Text(packs.verdict(found), style="bold"))


def _pack(found: PackDifference, side: int) -> str:
    header = found.headers[side]
    told = f"{show(header.size, 'bytes')}, {len(header.tensors)} tensors, relative error {header.error:.4f}"
    return f"{found.labels[side]}  {told}"


def _sides(console: Console, before: str, after: str) -> None:
    from rich.text import Text

    console.print(Text.assemble("- ", before, style="red"))
    console.print(Text.assemble("+ ", after, style="green"))


def _changes(rows: Iterable[tuple[str, str, str, str]]) -> Any:
    from rich.table import Table
    from rich.text import Text

    grid = Table.grid(padding=(0, 2))
    for where, was, now, remark in rows:
        grid.add_row(
            Text("  " + where, style="cyan"),
            Text.assemble((was, "red"), " → ", (now, "green")),
            Text(remark, style="dim"),
        )
    return grid


def _totals(difference: Difference) -> Any:
    rows = []
    for m in difference.measures:
        r = ratio(m)
        rows.append((m.name, show(m.before, m.unit), show(m.after, m.unit), "" if r is None else f"{r:.3f}x"))
    return _table(("", "before", "after", ""), rows)


def _weights(console: Console, values: Weights) -> None:
    console.print()
    console.print(_heat(weights.heat(values)))
    console.print()
    console.print(_table(*weights.totals(values)))
    console.print()
    console.print(_table(*most_changed(values), words=2))


def _table(titles: Sequence[str], rows: Iterable[Sequence[str]], words: int = 1) -> Any:
    """Return a table whose first `words` columns are words, the others numbers."""
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, padding=(0, 1, 0, 1), header_style="dim")
    for number, title in enumerate(titles):
        if number < words:
            table.add_column(title)
        else:
            table.add_column(title.replace(" ", "\n", 1), justify="right", no_wrap=True)
    for row in rows:
        table.add_row(*map(Text, row))
    return table


def _heat(heat: Heat) -> Any:
    """Return a table of cells with their colours; where there are none, the numbers stay."""
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, padding=(0, 0), header_style="dim")
    table.add_column(f" {heat.title} ", no_wrap=True)
    for column in heat.columns:
        table.add_column(column.replace(" ", "\n"), justify="right", min_width=7)
    for row in heat.rows:
        cells = [Text(f"{heat.text(row, column):>6} ", style=_style(heat, row, column)) for column in heat.columns]
        table.add_row(Text(f" {row}"), *cells)
    return table


def _style(heat: Heat, row: str, column: str) -> str:
    color = heat.color(row, column)
    return "" if color is None else "#000000 on #{:02x}{:02x}{:02x}".format(*color)
