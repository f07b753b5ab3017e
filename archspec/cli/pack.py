"""`archspec pack SPEC`: what tuning changed of a base, as one small file."""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import click

from archspec.cli.device import device_option

if TYPE_CHECKING:
    from archspec.compiler.packing.make import Made
    from archspec.compiler.packing.progress import Progress as Now


@click.command()
@click.argument("spec", type=click.Path(dir_okay=False, path_type=Path))
@click.option("-o", "--out", type=click.Path(dir_okay=False, path_type=Path),
              help="File to write.  [default: NAME OF THE SPEC.skillpack.safetensors]")  # fmt: skip
@click.option("--plan", is_flag=True, help="Show what rules fix of which tensors; read no weights.")
@device_option
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def command(spec: Path, out: Path | None, plan: bool, device: str | None, as_json: bool) -> None:
    """Make the SkillPack that SPEC's `pack` asks for.

    Differences are taken in float32, one tensor at a time, on the CPU; the model that `calibrate` runs is on
    --device. The file appears whole or not at all; the same spec gives the same bytes, a calibrated one on devices of
    one kind.
    """
    if plan:
        _plan(spec, as_json)
        return
    from archspec.cli.terminal import progress_bar
    from archspec.compiler.packing.pack import pack_spec
    from archspec.runtime.store.opening import best_device

    with progress_bar(as_json) as progress:
        bar = progress.add_task("reading the spec", total=None)
        made, path = pack_spec(
            spec,
            out,
            lambda now: progress.update(bar, description=_told_progress(now), completed=now.part, total=1.0),
            device or best_device(),
        )
    if as_json:
        click.echo(json.dumps(made.to_json(path), indent=2))
    else:
        _print(made, path)


def _told_progress(now: Now) -> str:
    """Say how far packing is, for example `measuring 3 of 71, 12 MB of 90 MB: model.norm.weight`."""
    from archspec.quantity import quantity

    bytes_ = f", {quantity(now.size, 'bytes')} of {quantity(now.whole, 'bytes')}" if now.whole else ""
    return f"{now.stage} {now.done} of {now.total}{bytes_}{now.name and f': {now.name}'}"


def _plan(spec: Path, as_json: bool) -> None:
    from archspec.semantics.packs import planned

    rows = planned(spec)
    if as_json:
        click.echo(json.dumps([{"tensor": name, "role": role, "store": store} for name, role, store in rows], indent=2))
        return
    from rich.table import Table

    from archspec.cli.terminal import print_table

    table = Table(box=None, pad_edge=False)
    for column in ("tensor", "role", "store"):
        table.add_column(column, overflow="fold")
    for name, role, store in rows:
        table.add_row(name, role, store)
    print_table(table)


def _print(made: Made, path: Path) -> None:
    from archspec.packs.terms import forms
    from archspec.quantity import quantity
    from archspec.render import colored, render

    kept = Counter(forms(change.terms) or "none" for change in made.header.tensors.values())
    for form, count in kept.most_common():
        click.echo(f"{count:5}  {form}")
    if made.warnings:
        click.echo(render(made.warnings, "text", color=colored(sys.stderr)), err=True)
    other = made.header.made["source"].get("settings")
    if other:
        click.echo(f"note: a pack holds weights alone, and the tuned model has another {', '.join(other)}", err=True)
    size, whole = quantity(made.size, "bytes"), quantity(made.whole, "bytes")
    outputs = made.header.output_error
    told = "" if outputs is None else f", of outputs {outputs:.4f}"
    click.echo(f"{size} of {whole} ({made.size / made.whole:.2%}); relative error {made.error:.4f}{told}")
    click.echo(f"wrote {path}")
