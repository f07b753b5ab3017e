"""`archspec packs ls|show|verify|export|route`: what packs hold, whether they are sound, as LoRA for other tools, and
what a router chooses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from archspec.diagnostics import ArchspecError
from archspec.quantity import quantity

if TYPE_CHECKING:
    from archspec.packs.header import Header
    from archspec.runtime.routing.router import Choice, Router


@click.group()
def command() -> None:
    """Look at SkillPacks."""


@command.command()
@click.argument("places", nargs=-1, type=click.Path(exists=True, path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
def ls(places: tuple[Path, ...], as_json: bool) -> None:
    """List the packs among PLACES (files, or folders; by default the current one)."""
    from archspec.packs.header import read_pack

    files = [file for place in places or (Path(),) for file in _files(place)]
    found: list[dict[str, Any]] = []
    for file in files:
        try:
            found.append(_summary(file, read_pack(file)[0]))
        except ArchspecError as error:
            if file in places:
                raise
            if error.diagnostics[0].code == "AS680" and "is no SkillPack" in error.diagnostics[0].message:
                continue  # another safetensors file in the folder
            found.append({"file": str(file), "damaged": error.diagnostics[0].message})
    if as_json:
        click.echo(json.dumps(found, indent=2))
        return
    for entry in found:
        if "damaged" in entry:
            click.echo(f"{entry['file']}  damaged: {entry['damaged']}")
        else:
            sizes = f"{quantity(entry['bytes'], 'bytes'):>10}  error {entry['error']:.4f}"
            click.echo(f"{entry['name']}  {sizes}  on {entry['base'].get('from', '?')}  {entry['file']}")


def _files(place: Path) -> list[Path]:
    return sorted(place.glob("*.safetensors")) if place.is_dir() else [place]


def _summary(file: Path, header: Header) -> dict[str, Any]:
    return {
        "file": str(file),
        "name": header.name,
        "base": dict(header.base),
        "bytes": file.stat().st_size,
        "tensors": len(header.tensors),
        "error": header.error,
        "output_error": header.output_error,
        "licence": header.licence,
    }


@command.command()
@click.argument("pack", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print the whole header as JSON.")
def show(pack: Path, as_json: bool) -> None:
    """Describe PACK: base, origin, and per tensor the terms, bytes and error."""
    from archspec.packs.header import read_pack

    header, _ = read_pack(pack)
    if as_json:
        click.echo(json.dumps({**_summary(pack, header), "header": json.loads(header.to_text())}, indent=2))
        return
    from rich.table import Table

    from archspec.cli.terminal import print_table

    summary = _summary(pack, header)
    click.echo(f"{header.name}: {quantity(summary['bytes'], 'bytes')}, relative error {header.error:.4f}")
    for key, value in {**header.base, "licence": header.licence or "not stated"}.items():
        click.echo(f"{key:13} {value}")
    source = header.made.get("source", {})
    click.echo(f"{'made of':13} {source.get('kind', '?')} {source.get('from', '')}")
    table = Table(box=None, pad_edge=False)
    table.add_column("tensor", overflow="fold")
    table.add_column("terms", overflow="fold")
    table.add_column("bytes", justify="right")
    table.add_column("error", justify="right")
    calibrated = header.output_error is not None
    if calibrated:
        table.add_column("of outputs", justify="right")
    for name, change in header.tensors.items():
        terms = " + ".join(term.told for term in change.terms) or "none"
        pairs = [(change.norm, change.error), *([change.outputs or (0, 0)] if calibrated else [])]
        errors = (f"{error / norm if norm else 0:.4f}" for norm, error in pairs)
        table.add_row(name, terms, str(change.size), *errors)
    print_table(table)


@command.command()
@click.argument("pack", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--base", type=click.Path(path_type=Path), help="Base that it should belong to.")
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
def verify(pack: Path, base: Path | None, as_json: bool) -> None:
    """Decode all of PACK, and hold its digests to the base where one is named."""
    from archspec.runtime.packs.verify import verify as decode_all

    found = decode_all(pack, base)
    if as_json:
        click.echo(json.dumps(found, indent=2))
        return
    where = f"; made of '{base}'" if base else ""
    click.echo(f"{pack}: {found['tensors']} tensors decode to finite values{where}")


@command.command()
@click.argument("pack", type=click.Path(dir_okay=False, path_type=Path))
@click.option(
    "-o", "--out", required=True, type=click.Path(file_okay=False, path_type=Path), help="Folder of the LoRA."
)
@click.option("--rank", type=click.IntRange(1), help="Approximate terms that are not of low rank, to this rank.")
@click.option("--partial", is_flag=True, help="Leave out what no LoRA can hold: norms, biases, embeddings.")
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
def export(pack: Path, out: Path, rank: int | None, partial: bool, as_json: bool) -> None:
    """Write PACK as a LoRA of peft."""
    from archspec.runtime.packs.export import export_lora
    from archspec.runtime.packs.reading import open_pack

    found = export_lora(open_pack(pack), out, rank, partial)
    if as_json:
        click.echo(json.dumps(found.to_json(), indent=2))
        return
    for name in found.left_out:
        click.echo(f"left out {name}", err=True)
    click.echo(f"{len(found.ranks)} matrices, relative error to the pack {found.error:.2g}; wrote {out}")


@command.command()
@click.argument("router", type=click.Path(dir_okay=False, path_type=Path))
@click.argument("prompts", nargs=-1)
@click.option("--base", type=click.Path(path_type=Path), help="The packs' base, which embeds the prompts.")
@click.option("--file", type=click.Path(dir_okay=False, exists=True, path_type=Path), help="Prompts, one a line.")
@click.option("--task", "tasks", multiple=True, help="Task of a request, in place of a prompt.")
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
def route(
    router: Path, prompts: tuple[str, ...], base: Path | None, file: Path | None, tasks: tuple[str, ...], as_json: bool
) -> None:
    """Say what ROUTER chooses for each of PROMPTS, or which packs are active for a task."""
    from archspec.runtime.routing.router import open_router
    from archspec.semantics.check.routing import examples_of

    asked = [*prompts, *(examples_of(file) if file else ())]
    if bool(asked) == bool(tasks):
        raise click.UsageError("give prompts (as arguments or by --file), or tasks by --task")
    if asked and base is None:
        raise click.UsageError("name the base, which embeds the prompts: --base FOLDER")
    opened = open_router(router)
    choices = _routed(opened, asked, base) if base is not None and asked else opened.given(tasks)
    rows = [_choice(opened, request, choice) for request, choice in zip(asked or tasks, choices, strict=True)]
    if as_json:
        click.echo(json.dumps(rows, indent=2))
        return
    for row in rows:
        shares = ", ".join(f"{t['task']} {t['weight']:.2f}" for t in row["tasks"]) or "the base"
        click.echo(f"{row['request']!r}: {shares}  (score {row['score']:.3f})")
        for task in row["tasks"]:
            click.echo(f"  {' + '.join(f'{file} x {scale:g}' for file, scale in task['packs']) or 'no pack'}")


def _choice(router: Router, request: str, choice: Choice) -> dict[str, Any]:
    tasks = [
        {"task": task, "weight": weight, "packs": [(p.file, p.scale) for p in router.active(task)]}
        for task, weight in choice.weights.items()
    ]
    return {"request": request, "score": choice.score, "tasks": tasks}


def _routed(router: Router, prompts: list[str], base: Path) -> list[Choice]:
    """Route prompts by a base on disk, which is held to the router's fingerprint: AS689."""
    from archspec.cli.terminal import quiet_libraries
    from archspec.diagnostics import Collector
    from archspec.host.locate import fingerprint
    from archspec.runtime.measure.sample import load_tokenizer
    from archspec.runtime.routing.embed import BaseEmbedding
    from archspec.runtime.routing.router import check_fingerprint
    from archspec.runtime.store.home import home
    from archspec.runtime.store.opening import open_model

    quiet_libraries()
    place, problems, embedding = home(base), Collector(), router.routing.embedding
    found = {"from": f"'{base}'", "fingerprint": fingerprint(place.model)}
    check_fingerprint(router.routing.base, "what is named as the base", found, problems)
    problems.raise_if_errors()
    by_base = embedding is not None and embedding.of == "base"
    embed = BaseEmbedding(open_model(place), embedding, load_tokenizer(place)) if embedding and by_base else None
    return router.route(prompts, embed)
