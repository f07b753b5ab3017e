"""`archspec route SPEC`: a router, which says for each request which packs are active."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from archspec.cli.device import device_option

if TYPE_CHECKING:
    from archspec.packs.router import Routing


@click.command()
@click.argument("spec", type=click.Path(dir_okay=False, path_type=Path))
@click.option("-o", "--out", type=click.Path(dir_okay=False, path_type=Path),
              help="File to write.  [default: NAME OF THE SPEC.router.safetensors]")  # fmt: skip
@device_option
@click.option("--json", "as_json", is_flag=True, help="Print the router's header as JSON.")
def command(spec: Path, out: Path | None, device: str | None, as_json: bool) -> None:
    """Make the router that SPEC's `route` asks for.

    The base embeds the examples of each task; prototypes or a classifier are made of them, and a threshold below which
    the base answers. `archspec packs route` says what a router chooses.
    """
    from archspec.cli.terminal import progress_bar, quiet_libraries
    from archspec.compiler.routing.make import route_spec

    quiet_libraries()
    with progress_bar(as_json) as progress:
        bar = progress.add_task("reading the spec", total=None)
        routing, path = route_spec(spec, out, device or "cpu", lambda stage: progress.update(bar, description=stage))
    if as_json:
        click.echo(json.dumps({"out": str(path), **json.loads(routing.to_text())}, indent=2))
    else:
        _print(routing, path)


def _print(routing: Routing, path: Path) -> None:
    counts = routing.made.get("examples", {})
    for task in routing.tasks:
        packs = " + ".join(f"{pack.file} x {pack.scale:g}" for pack in task.packs) or "the base"
        told = f"  ({counts[task.name]} examples)" if task.name in counts else ""
        click.echo(f"{task.name}: {packs}{told}")
    if routing.by != "map":
        right, below = (f"{routing.made[key]:.1%}" for key in ("accuracy", "rejected"))
        click.echo(f"by {routing.by}: of held-out examples {right} go to their task, {below} score below the threshold")
        click.echo(f"below {routing.threshold:.3f} the base answers")
    click.echo(f"wrote {path}")
