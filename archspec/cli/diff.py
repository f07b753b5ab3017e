"""`archspec diff A B`: what changed between two architectures.

A and B are specs, compiled checkpoints, host folders, hub ids or `revision:path` of git, in any mix.
"""

from __future__ import annotations

import io
import json
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from archspec.cli.failures import USAGE, report
from archspec.diagnostics import ArchspecError
from archspec.diff.compare import Difference, compare
from archspec.diff.outline import Outline
from archspec.diff.report import TITLES, ratio, show, shown_change, to_json, to_markdown, verdict
from archspec.diff.sides import read_side, value_pairs


@click.command()
@click.argument("before")
@click.argument("after")
@click.option("--values", is_flag=True, help="Compare the values of tensors as well (streamed; imports torch).")
@click.option("--cost", is_flag=True, help="Price specs as well: FLOPs and memory (captures the host; imports torch).")
@click.option("--json", "form", flag_value="json", help="Print JSON.")
@click.option("--markdown", "form", flag_value="markdown", help="Print Markdown, for a pull request.")
@click.option(
    "--svg", type=click.Path(dir_okay=False, path_type=Path), help="Write what the terminal shows as a picture."
)
@click.option("--exit-code", is_flag=True, help="Leave with 1 if there are differences, as git diff does.")
def command(
    before: str, after: str, values: bool, cost: bool, form: str | None, svg: Path | None, exit_code: bool
) -> int:
    """Compare BEFORE and AFTER: specs, checkpoints, folders, hub ids or `revision:path`, in any mix.

    Structure is read from configs and headers, so equal structure says nothing of equal values: --values does.
    """
    try:
        with tempfile.TemporaryDirectory(prefix="archspec-diff-") as scratch:
            sides = [read_side(word, Path(scratch) / str(n)) for n, word in enumerate((before, after))]
            difference = compare(*(_priced(side) if cost else side for side in sides))
            rows = _values(difference) if values else None
    except ArchspecError as error:
        report(error)
        return USAGE
    _print(difference, rows, form, svg)
    return int(exit_code and (bool(difference) or any(not v.equal for v in rows or [])))


def _priced(side: Outline) -> Outline:
    """Return a spec's outline with its price and that of its base; a checkpoint has them on record."""
    if side.kind != "spec" or side.path is None:
        return side
    from archspec.compiler.driver import prepare
    from archspec.diff.sides import PRICE

    found = prepare(side.path).cost
    result, host = ({name: float(getattr(c, name)) for name in PRICE} for c in (found.result, found.host))
    return replace(side, recorded=result, of_base=host)


def _values(difference: Difference) -> list[Any]:
    from archspec.runtime.store.values import Place, compare_values

    pairs = value_pairs(difference.before, difference.after)
    return list(compare_values((n, Place(*a), Place(*b)) for n, a, b in pairs))


def _print(difference: Difference, values: list[Any] | None, form: str | None, svg: Path | None) -> None:
    if svg is not None:
        _picture(difference, values, svg)
    if form == "json":
        click.echo(json.dumps(to_json(difference, values), indent=2))
    elif form == "markdown":
        click.echo(to_markdown(difference, values), nl=False)
    elif svg is None:
        from rich.console import Console

        _terminal(difference, values, Console(highlight=False))


def _picture(difference: Difference, values: list[Any] | None, path: Path) -> None:
    from rich.console import Console

    console = Console(highlight=False, record=True, width=100, file=io.StringIO(), force_terminal=True)
    _terminal(difference, values, console)
    title = f"archspec diff {difference.before.label} {difference.after.label}"
    path.write_text(console.export_svg(title=title, unique_id="archspec-diff"), "utf-8")


def _terminal(difference: Difference, values: list[Any] | None, console: Any) -> None:
    from rich.text import Text

    before, after = difference.before, difference.after
    console.print(Text.assemble("- ", before.label, style="red"))
    console.print(Text.assemble("+ ", after.label, style="green"))
    for kind, title in TITLES.items():
        rows = [shown_change(c) for c in difference.changes if c.kind == kind]
        if rows:
            console.print(Text(f"\n{title}", style="bold"))
            console.print(_changes(rows))
    console.print()
    console.print(_totals(difference))
    changed = sorted((v for v in values or [] if not v.equal), key=lambda v: -v.relative)
    if changed:
        console.print(_value_table(changed))
    console.print(Text(verdict(difference, values), style="bold"))


def _grid() -> Any:
    from rich.table import Table

    return Table.grid(padding=(0, 2))


def _changes(rows: list[tuple[str, str, str, str]]) -> Any:
    from rich.text import Text

    grid = _grid()
    for where, was, now, remark in rows:
        grid.add_row(
            Text("  " + where, style="cyan"),
            Text.assemble((was, "red"), " → ", (now, "green")),
            Text(remark, style="dim"),
        )
    return grid


def _totals(difference: Difference) -> Any:
    from rich.table import Table

    table = Table(box=None, padding=(0, 2), header_style="dim")
    for column in ("", "before", "after", ""):
        table.add_column(column, justify="left" if not column and not table.columns else "right")
    for m in difference.measures:
        r = ratio(m)
        table.add_row(m.name, show(m.before, m.unit), show(m.after, m.unit), "" if r is None else f"{r:.3f}x")
    return table


def _value_table(changed: list[Any]) -> Any:
    from rich.table import Table

    table = Table(box=None, padding=(0, 2), header_style="dim")
    table.add_column("tensor")
    for column in ("norm before", "norm after", "relative change", "cosine"):
        table.add_column(column, justify="right")
    for v in changed[:20]:
        numbers = (f"{v.norm_before:.4g}", f"{v.norm_after:.4g}", f"{v.relative:.3g}", f"{v.cosine:.5f}")
        table.add_row(v.name, *numbers)
    if len(changed) > 20:
        table.add_row(f"and {len(changed) - 20} more")
    return table
