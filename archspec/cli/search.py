"""`archspec search SPEC -o OUT.yaml`: choose an operator for each site under a budget; the choice is a spec."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from archspec.cli.device import device_option

if TYPE_CHECKING:
    from archspec.compiler.search.found import Found


@click.command()
@click.argument("spec", type=click.Path(dir_okay=False, path_type=Path))
@click.option(
    "-o", "--out", required=True, type=click.Path(dir_okay=False, path_type=Path), help="Spec to write, YAML."
)
@device_option
@click.option("--json", "as_json", is_flag=True, help="Print scores and choice as JSON.")
def command(spec: Path, out: Path, device: str | None, as_json: bool) -> None:
    """Choose what SPEC's `search` asks for, and write it to OUT.

    Each candidate is proved and priced, fitted in closed form at each site, and judged by how far the host's answer
    moves when that site alone changes. Scores are kept beside OUT: a stopped search goes on, another budget is quick.
    """
    from archspec.cli.terminal import progress_bar, quiet_libraries
    from archspec.compiler.search.search import Watch, search

    quiet_libraries()
    with progress_bar(as_json) as progress:
        bar = progress.add_task("reading the spec", total=None)
        watch = Watch(
            lambda text: progress.update(bar, description=text),
            lambda count: progress.update(bar, total=count),
            lambda count: progress.advance(bar, count),
        )
        found = search(spec, out, device, watch)
    if as_json:
        click.echo(json.dumps(found.to_json(), indent=2))
    else:
        _print(found, out)


def _print(found: Found, out: Path) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False, markup=False)
    for number, name in found.legend:
        console.print(f"{number}  {name}")
    table = Table(box=None, pad_edge=False)
    table.add_column("site")
    for number, _ in found.legend:
        table.add_column(number, justify="right")
    table.add_column("chosen", justify="right")
    for site in found.choices.sites:
        table.add_row(*found.row(site))
    console.print(table)
    console.print(f"sum of scores {found.choice.score:.4g} (-: as it is); wrote {out}")
