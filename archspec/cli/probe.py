"""`archspec probe HOST`: what a host does at each of its sites, as a file that selectors rank by.

HOST is a model or pipeline folder, or a spec, whose base and data are then meant.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from archspec.cli.device import device_option
from archspec.cli.numbers import with_error
from archspec.diagnostics import fail

if TYPE_CHECKING:
    from archspec.host.structure import Structure
    from archspec.runtime.store.home import Home


@click.command()
@click.argument("host", type=click.Path(path_type=Path))
@click.option(
    "-m", "--measure", "texts", multiple=True, metavar="MEASURE",
    help="locality(k=32), influence, gate_sensitivity, gate_sensitivity_squared, deviation, mean, largest (may be "
    "repeated).  [default: all but the squared one]",
)  # fmt: skip
@click.option("--data", help="Data to run on.  [default: the spec's]")
@click.option("-n", "--samples", type=click.IntRange(1), default=250, show_default=True, help="Examples.")
@click.option("--batch", type=click.IntRange(1), default=16, show_default=True, help="Examples at a time.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Seed of examples, noise and times.")
@device_option
@click.option("-o", "--out", type=click.Path(dir_okay=False, path_type=Path), help="File.  [default: NAME.probe.json]")
@click.option("--json", "as_json", is_flag=True, help="Print the file's content as JSON.")
def command(
    host: Path,
    texts: tuple[str, ...],
    data: str | None,
    out: Path | None,
    device: str | None,
    as_json: bool,
    **sizes: int,
) -> None:
    """Measure HOST at each of its sites, on noised examples of its own task.

    Other measures that the file holds of the same host, data, samples and seed stay in it.
    """
    from archspec.cli.terminal import progress_bar, quiet_libraries
    from archspec.runtime.data import open_data
    from archspec.runtime.data.needs import needs_of
    from archspec.runtime.learn.feed import Feed
    from archspec.runtime.objectives import make_objective
    from archspec.runtime.probing.measures import parse_measures
    from archspec.runtime.probing.probe import Settings, earlier, measure, passes, usual, write
    from archspec.runtime.store.opening import best_device, open_model

    quiet_libraries()
    asked = parse_measures(texts)
    place, structure, stanza, near = _opened(host, data)
    settings = Settings(stanza, sizes["samples"], sizes["seed"])
    device = device or best_device()
    examples = open_data(stanza, near, needs_of(place.top))
    feed = Feed(examples, make_objective(place), sizes["seed"], sizes["batch"], device)
    asked = asked or usual(feed.objective)
    path = out or Path(f"{(host.stem if host.is_file() else host.name)}.probe.json")
    kept = earlier(path, structure, settings, asked)
    with progress_bar(as_json) as progress:
        bar = progress.add_task("probing", total=passes(asked) * sizes["samples"])
        model = open_model(place, device)
        found = measure(model, structure, feed, asked, sizes["samples"], lambda n: progress.advance(bar, n))
    content = write(path, structure, settings, kept | found)
    if as_json:
        click.echo(json.dumps(content))
        return
    _print(structure, found)
    click.echo(f"wrote {path}{', which also holds ' if kept else ''}{', '.join(kept)}")


def _opened(host: Path, data: str | None) -> tuple[Home, Structure, Mapping[str, Any], Path]:
    """Return the host, its structure, the stanza of its data, and where paths of the latter start."""
    from archspec.compiler.driver import read_host
    from archspec.host.locate import base_at, find_base, folder_of, locate
    from archspec.language.parse import DSL, YAML, load
    from archspec.runtime.store.home import home
    from archspec.semantics.resolve import explicit

    stanza: Mapping[str, Any] | None = None
    near = Path.cwd()
    if host.suffix in (*YAML, *DSL):
        spec = load(host)
        located, near, stanza = find_base(spec, host.parent), host.parent, explicit(spec.data) if spec.data else None
    else:
        located = locate(base_at(str(host)), near)
    if data is not None:
        near, stanza = Path.cwd(), {"from": data}
    folder = folder_of(located)
    if stanza is None:
        raise fail(
            "AS728", "a probe runs the host on data, and none is named", None, "add --data, such as `--data digits`"
        )
    return home(folder), read_host(located, whole=True), stanza, near


def _print(structure: Structure, found: Mapping[str, Mapping[str, Mapping[str, float]]]) -> None:
    """Print a table with a row per site and a column per measure."""
    from rich.console import Console

    from archspec.cli.terminal import print_board
    from archspec.render.board import Board, Row

    sites = [site for site in structure.sites if any(site.path in values for values in found.values())]
    columns = [_column([values.get(site.path) for site in sites]) for values in found.values()]
    rows = tuple(Row(cells) for cells in zip([site.name for site in sites], *columns, strict=True))
    print_board(Board(("site", *found), rows, texts=1 + len(found)), Console(highlight=False, markup=False))


def _column(figures: Sequence[Mapping[str, float] | None]) -> list[str]:
    """Return the cells of a measure, twice the standard error behind each mean, the signs below one another."""
    parts = [with_error(f["mean"], 2 * f["error"]) if f else None for f in figures]
    wide = max((len(part[0]) for part in parts if part), default=0)
    return [f"{part[0]:>{wide}} ± {part[1]}" if part else "" for part in parts]
