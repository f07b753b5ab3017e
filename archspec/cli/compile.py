"""`archspec compile SPEC`: prove, price and write a checkpoint that loads at once; what must be learned is its plan."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from archspec.render import colored, render

if TYPE_CHECKING:
    from rich.table import Table

    from archspec.compiler.driver import CompileResult

DOING = {
    "load": "reading the spec",
    "attach": "attaching packs to the base",
    "draw": "drawing weights for the base",
    "locate": "finding the base",
    "structure": "reading the base's headers",
    "resolve": "selecting sites",
    "check": "checking",
    "capture": "capturing the host's graph",
    "passes": "rewriting the graph",
    "lower": "lowering to instructions",
    "prove": "proving the program",
    "price": "pricing base and result",
    "expect": "holding expectations",
    "identify": "hashing the base",
    "plan": "planning what is learned",
    "emit": "writing the checkpoint",
}
"""Stage of the driver -> what a person is told."""


@click.command()
@click.argument("spec", type=click.Path(exists=False, dir_okay=False))
@click.option("-o", "--out", type=click.Path(file_okay=False), help="Folder to write [default: out/NAME OF THE SPEC].")
@click.option("--member", metavar="AXIS=VALUE,...", help="Which member of the spec's matrix to compile.")
@click.option("--link", is_flag=True, help="Hard-link files of the base where possible; writes only what is new.")
@click.option("--run", is_flag=True, help="Execute the plan afterwards, as `archspec run` does.")
@click.option("--force", is_flag=True, help="Replace a result that has been trained since it was compiled.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def command(spec: str, out: str | None, member: str | None, link: bool, run: bool, force: bool, as_json: bool) -> int:
    """Compile SPEC to a checkpoint folder.

    The edit is proved on the host's captured graph, priced, and written in one rename: a failure or Ctrl-C leaves
    nothing under the folder's name. The result loads in plain diffusers or transformers after `import archspec`.
    """
    from archspec.cli.terminal import note_search
    from archspec.compiler.driver import compile_spec

    with _progress() as tell:
        result = compile_spec(spec, out, member=member, link=link, overwrite=force, progress=tell)
    note_search(result.prepared.spec, spec)
    if as_json:
        click.echo(json.dumps(result.to_json(), indent=2))
    else:
        _print(result)
    return _run(result.out) if run else 0


def _run(out: Path) -> int:
    from archspec.cli.run import command as run_command

    found = run_command.main([str(out)], standalone_mode=False)
    return found if isinstance(found, int) else 0


@contextmanager
def _progress() -> Iterator[Any]:
    """Tell the stage under way, on the terminal of stderr; nothing is printed elsewhere."""
    from archspec.cli.terminal import progress_console

    with progress_console().status("starting") as status:
        yield lambda stage: status.update(DOING[stage])


def _print(result: CompileResult) -> None:
    from rich.console import Console
    from rich.text import Text

    console = Console(highlight=False)
    warnings = result.prepared.warnings
    if warnings:
        click.echo(render(warnings, "text", color=colored(sys.stderr)), err=True)
    console.print(_costs(result))
    console.print(Text(_tensors(result)))
    console.print(Text(_proof(result)))
    console.print(Text.assemble(("wrote ", "bold"), str(result.out), f" in {sum(result.seconds.values()):.1f} s"))
    if result.prepared.plan.tasks:
        count = len(result.prepared.plan.tasks)
        tasks = f"{count} task{'s' if count > 1 else ''}"
        console.print(Text(f"next: archspec run {result.out}   ({tasks}: {', '.join(_kinds(result))})"))


def _costs(result: CompileResult) -> Table:
    from rich.table import Table

    from archspec.compiler.driver import cost_rows

    table = Table(box=None, pad_edge=False)
    table.add_column(result.prepared.spec.name)
    for title in ("base", "result", "ratio"):
        table.add_column(title, justify="right")
    for row in cost_rows(result.prepared.cost):
        table.add_row(row.what, row.host, row.result, row.ratio)
    return table


def _tensors(result: CompileResult) -> str:
    counts: dict[str, int] = {}
    for entry in result.lock.tensors.values():
        counts[entry.kind] = counts.get(entry.kind, 0) + 1
    told = ", ".join(f"{counts[kind]} {kind}" for kind in ("copied", "derived", "new") if kind in counts)
    return f"{len(result.lock.instructions)} instructions; tensors: {told}"


def _proof(result: CompileResult) -> str:
    proof = result.prepared.proof
    numbers = proof.numbers
    found = numbers.size if numbers.difference is None else f"{numbers.difference:.1e} ({numbers.size})"
    return f"proved: {proof.nodes} nodes of {proof.graphs} graphs matched; largest difference {found}"


def _kinds(result: CompileResult) -> Iterator[str]:
    kinds = [task.kind for task in result.prepared.plan.tasks]
    for kind in dict.fromkeys(kinds):
        yield f"{kinds.count(kind)} {kind}" if kinds.count(kind) > 1 else kind
