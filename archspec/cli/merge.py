"""`archspec merge CONFIG -o OUT`: whole checkpoints of one architecture merged, a block of numbers at a time."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click


@click.command()
@click.argument("config", type=click.Path(dir_okay=False, path_type=Path))
@click.option("-o", "--out", type=click.Path(path_type=Path), help="Folder to write.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of what DARE draws.")
@click.option("--plan", "plan_only", is_flag=True, help="Say what would be read, written and done; write nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print what is done as JSON.")
def command(config: Path, out: Path | None, seed: int, plan_only: bool, as_json: bool) -> None:
    """Merge the models that CONFIG names, in mergekit's YAML.

    Methods: linear, task_arithmetic, ties, dare_linear, dare_ties, slerp, sce, passthrough. What is not supported is
    refused by name. Paths in CONFIG start at its folder.
    """
    from archspec.cli.terminal import progress_bar
    from archspec.compiler.merging.layout import lay_out
    from archspec.compiler.merging.write import check_output, plan_of, write_merge
    from archspec.language.merging import load_merge

    if out is None and not plan_only:
        raise click.UsageError("name the folder to write: -o FOLDER")
    layout = lay_out(load_merge(config), config.parent)
    if out is not None:
        check_output(out)
    plan = plan_of(layout)
    if not as_json:
        _print(plan)
    if out is not None and not plan_only:
        with progress_bar(as_json) as progress:
            bar = progress.add_task("merging", total=plan["parameters"])
            write_merge(layout, out, seed, lambda count: progress.advance(bar, count))
        if not as_json:
            click.echo(f"wrote {out}")
    if as_json:
        click.echo(json.dumps(plan, indent=2))


def _print(plan: dict[str, Any]) -> None:
    from archspec.quantity import quantity

    click.echo(f"{plan['method']} of {', '.join(plan['models'])}")
    sizes = f"read {quantity(plan['read'], 'bytes')}, write {quantity(plan['write'], 'bytes')}"
    count = quantity(plan["parameters"], "count")
    click.echo(f"{plan['tensors']} tensors, {count} parameters: {sizes}, at most {plan['passes']} passes")
    for rule in plan["rules"]:
        names = rule["tensors"]
        more = f" and {len(names) - 1} more" if len(names) > 1 else ""
        click.echo(f"  {rule['rule']}: {names[0]}{more}")
