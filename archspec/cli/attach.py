"""`archspec attach CHECKPOINT PACK...`: packs added to the weights of their base, as a checkpoint of its own."""

from __future__ import annotations

import json
from pathlib import Path

import click

from archspec.cli.numbers import Finite
from archspec.packs.terms import LARGEST_SCALE


@click.command()
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.argument("packs", nargs=-1, required=True, type=click.Path(dir_okay=False, path_type=Path))
@click.option("-o", "--out", required=True, type=click.Path(file_okay=False, path_type=Path), help="Folder to write.")
@click.option("-s", "--scale", "scales", multiple=True, type=Finite(-LARGEST_SCALE, LARGEST_SCALE),
              help="Factor of the differences: one for all packs, or one per pack.  [default: 1]")  # fmt: skip
@click.option("--keep", is_flag=True, help="Copy the base's weights for `detach` where they cannot be linked.")
@click.option("--partial", is_flag=True, help="Leave out what a compiled checkpoint has no place for.")
@click.option("--plan", is_flag=True, help="Check the base and say what would change; write nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def command(
    checkpoint: Path,
    packs: tuple[Path, ...],
    out: Path,
    scales: tuple[float, ...],
    keep: bool,
    partial: bool,
    plan: bool,
    as_json: bool,
) -> None:
    """Add PACKs to CHECKPOINT, the base that they were made of or a graft of it, and write the result to OUT.

    Weights are added in float32 and rounded once. The base is not touched; `archspec detach OUT` gives it back bit by
    bit.
    """
    from archspec.cli.terminal import progress_bar
    from archspec.runtime.packs.attach import Use, attach
    from archspec.runtime.packs.reading import open_pack

    if len(scales) not in (0, 1, len(packs)):
        raise click.UsageError(f"{len(scales)} scales for {len(packs)} packs: give one, or one per pack")
    each = scales if len(scales) == len(packs) else (*scales, 1.0)[:1] * len(packs)
    uses = [Use(open_pack(path), scale) for path, scale in zip(packs, each, strict=True)]
    with progress_bar(as_json) as progress:
        bar = progress.add_task("checking the base", total=None)
        record = attach(
            checkpoint,
            uses,
            out,
            keep,
            lambda name: progress.update(bar, description=f"adding to {name}"),
            dry=plan,
            partial=partial,
        )
    if as_json:
        click.echo(json.dumps({"out": None if plan else str(out), **record.to_json()}, indent=2))
        return
    for use in uses:
        click.echo(f"{use.pack.header.name} x {use.scale:g}")
    click.echo(f"{'would change' if plan else 'changed'} {len(record.tensors)} tensors")
    if not plan:
        click.echo(f"wrote {out}")
