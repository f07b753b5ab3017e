"""`archspec detach CHECKPOINT`: the base of a checkpoint that packs are attached to, bit by bit."""

from __future__ import annotations

import json
from pathlib import Path

import click


@click.command()
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.option("-o", "--out", type=click.Path(file_okay=False, path_type=Path), help="Folder.  [default: in its place]")
@click.option("--base", type=click.Path(path_type=Path), help="Where the base is now, if it was moved.")
@click.option("--json", "as_json", is_flag=True, help="Print the record of what was attached as JSON.")
def command(checkpoint: Path, out: Path | None, base: Path | None, as_json: bool) -> None:
    """Take all packs off CHECKPOINT.

    Nothing is subtracted: the base's own bytes come from the links that `attach` left, or from the base, and are held
    to their hashes.
    """
    from archspec.runtime.packs.attach import detach

    record = detach(checkpoint, out, base)
    if as_json:
        click.echo(json.dumps({"out": str(out or checkpoint), **record.to_json()}, indent=2))
        return
    click.echo(f"took off {', '.join(str(pack['name']) for pack in record.packs)}; wrote {out or checkpoint}")
