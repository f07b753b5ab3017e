"""`archspec convert FILE`: published DiT files and grafts to checkpoints of ours, published configs to specs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from archspec.source import Source

CONFIGS = (".yaml", ".yml")


@click.command()
@click.argument("file", type=click.Path(dir_okay=False))
@click.option("-o", "--out", type=click.Path(), help="Folder to write (of a config: spec, .yaml or .arch).")
@click.option("--config", type=click.Path(dir_okay=False), help="Published config of FILE: what it says is compared.")
@click.option("--heads", type=click.IntRange(1), help="Attention heads, of a width that was never published.")
@click.option("--window", type=click.IntRange(1), help="Tokens to either side that local attention sees.")
@click.option("--base", help="Base that the spec or lock names [default: facebook/DiT-XL-2-256].")
@click.option("--force", is_flag=True, help="Replace a result that has been trained since it was written.")
def command(
    file: str, out: str | None, config: str | None, heads: int | None, window: int | None, base: str | None, force: bool
) -> int:
    """Convert FILE, as others published it.

    A .pt file in the layout of DiT (arXiv 2212.09748) becomes a diffusers folder; one whose attention or MLP was
    grafted (arXiv 2506.05340) becomes a compiled checkpoint. Nothing in a pickle but tensors is read. A .yaml config of
    the published grafts becomes a spec.
    """
    from archspec.compiler.convert.convert import BASE

    if Path(file).suffix.lower() in CONFIGS:
        return _spec(Path(file), out, base or BASE)
    if out is None:
        raise click.UsageError("name the folder to write: -o FOLDER")
    return _weights(Path(file), Path(out), config, heads, window, base or BASE, force)


def _spec(file: Path, out: str | None, base: str) -> int:
    """Print or write the spec that a published config asks for."""
    from archspec.cli.fmt import print_as
    from archspec.compiler.convert.convert import config_edits, spec_of
    from archspec.compiler.convert.published import read_config
    from archspec.runtime.store.files import replace_text

    data = spec_of(file.stem, base, config_edits(read_config(file)))
    text = print_as(Source("spec.yaml", json.dumps(data)), "yaml", "arch" if str(out).endswith(".arch") else "yaml")
    if out is None:
        click.echo(text, nl=False)
    else:
        replace_text(Path(out), text)
    return 0


def _weights(
    file: Path, out: Path, config: str | None, heads: int | None, window: int | None, base: str, force: bool
) -> int:
    from archspec.compiler.convert.convert import convert
    from archspec.compiler.convert.published import read_config
    from archspec.compiler.convert.reading import Known

    known = Known(heads, window, read_config(Path(config)) if config else None)
    edits = convert(file, out, known, base, force)
    for edit in edits:
        click.echo(f"{edit['replace']}: {_call(edit['with'])}")
    click.echo(f"wrote {out}: {'a compiled checkpoint' if edits else 'a diffusers model'}")
    return 0


def _call(call: dict[str, Any]) -> str:
    inside = ", ".join(f"{name}={value:g}" for name, value in call.items() if name != "op")
    return f"{call['op']}({inside})" if inside else str(call["op"])
