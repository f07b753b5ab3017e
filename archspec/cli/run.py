"""`archspec run OUT`: carry out the plan of a compiled checkpoint, from whatever was finished before."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from archspec.cli.device import device_option
from archspec.diagnostics import fail

if TYPE_CHECKING:
    from rich.console import Console

    from archspec.runtime.execution.execute import Done, RunReport

KINDS = ("fit", "regress", "finetune", "evaluate")


@click.command()
@click.argument("out", type=click.Path(file_okay=False, path_type=Path))
@click.option("--only", type=click.Choice(KINDS), multiple=True, help="Run tasks of this kind alone (may be repeated).")
@click.option("--shard", metavar="I/N", help="Run the I-th of N parts of the independent tasks, for job arrays.")
@device_option
@click.option("--base", type=click.Path(path_type=Path), help="Where the host is now, if not where it was at compile.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
def command(
    out: Path, only: tuple[str, ...], shard: str | None, device: str | None, base: Path | None, as_json: bool
) -> int:
    """Carry out the plan in the folder OUT.

    Finished tasks are skipped, and a run that was killed goes on where it was. Leaves with 1 if what was measured
    breaks an expectation of the spec. Logs: OUT/.archspec/log.jsonl, and
    `tensorboard --logdir OUT/.archspec/tensorboard`.
    """
    from rich.console import Console

    from archspec.cli.terminal import quiet_libraries
    from archspec.runtime.execution.execute import execute, read_plan
    from archspec.runtime.execution.journal import Journal
    from archspec.runtime.execution.workspace import Workspace

    read_plan(out)
    part = shard_of(shard)
    quiet_libraries()
    errors = Console(stderr=True)
    journal = Journal(Workspace(out).root, errors if errors.is_terminal else None)
    report = execute(out, base=base or _base(out), only=only, shard=part, device=device, journal=journal)  # type: ignore[arg-type]
    expectations = _expectations(report, out)
    if as_json:
        click.echo(json.dumps(_plain(report) | {"expectations": expectations}, indent=1))
    else:
        _show(report, Console(soft_wrap=True))
        click.echo("".join(f"{found['message']}\n" for found in expectations if not found["holds"]), nl=False)
    return int(any(not found["holds"] for found in expectations))


def _expectations(report: RunReport, out: Path) -> list[dict[str, Any]]:
    """Hold the spec's expectations against what was measured."""
    from archspec.cli.eval import held
    from archspec.runtime.store.lock import read_lock

    written = (read_lock(out).spec.get("resolved") or {}).get("expect") or []
    return [
        found for done in report.tasks if "measured" in done.report for found in held(written, done.report["measured"])
    ]


def shard_of(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    found = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text)
    if not found or not 1 <= int(found[1]) <= int(found[2]):
        raise fail("AS724", f"'{text}' is no shard", None, "write I/N with I from 1 to N, such as 2/8")
    return int(found[1]), int(found[2])


def _base(out: Path) -> Path | None:
    """Return the base where the lock's name for it leads, of a folder that does not remember where it was."""
    from archspec.host.locate import recorded
    from archspec.runtime.execution.workspace import Workspace
    from archspec.runtime.store.lock import read_lock

    origin = Workspace(out).origin()
    return None if "base" in origin else recorded(read_lock(out).host, origin.get("near", out), out)


def _plain(report: RunReport) -> dict[str, Any]:
    tasks = [
        {"id": d.task.id, "key": d.task.key, "state": d.state, "reason": d.reason, **dict(d.report)}
        for d in report.tasks
    ]
    return {"spec": report.plan.spec, "complete": report.complete, "published": report.published, "tasks": tasks}


def _show(report: RunReport, console: Console) -> None:
    """Print one line per site and task, then what was measured."""
    from rich.table import Table

    if not report.tasks:
        console.print("nothing to run: the plan has no tasks")
        return
    table = Table("task", "state", "error before", "after", "kept", "seconds", box=None, pad_edge=False)
    for done in report.tasks:
        for row in _rows(done):
            table.add_row(*row)
    console.print(table)
    for done in report.tasks:
        if measured := done.report.get("measured"):
            console.print(_measured(measured))
    waiting = [done for done in report.tasks if done.state == "waits"]
    if waiting:
        console.print(f"{len(waiting)} tasks wait: {waiting[0].task.id} {waiting[0].reason}")


def _rows(done: Done) -> list[tuple[str, ...]]:
    seconds = f"{done.report['seconds']:.1f}" if "seconds" in done.report else ""
    found: list[tuple[str, ...]] = [
        (
            done.task.id,
            done.state,
            f"{o['before']:.4f}",
            f"{o['after']:.4f}",
            ("learned" if o["kept"] else "start") + _divergence(o),
            seconds,
        )
        for o in done.report.get("outcomes", [])
    ]
    return found or [(done.task.id, done.state, *_losses(done.report), seconds)]


def _losses(report: Mapping[str, Any]) -> tuple[str, str, str]:
    """Return what a finetuning did: its last loss; where it kept the best, what held-out examples said, and when."""
    if "judged" in report:
        values = dict(map(tuple, report["judged"]))
        before, after = (f"held-out {values[step]:.4f}" for step in (0, report["kept"]))
        return before, after, f"step {report['kept']} of {report['steps']}" if report["kept"] else "start"
    return "", f"loss {report['loss']:.4f}" if "loss" in report else "", ""


def _divergence(outcome: Mapping[str, Any]) -> str:
    step = outcome.get("facts", {}).get("diverged")
    return "" if step is None else f", diverged at step {step}: use a smaller lr, or clip"


def _measured(found: dict[str, Any]) -> Any:
    from rich.table import Table

    table = Table("measured", "host", "result", box=None, pad_edge=False)
    names = dict.fromkeys([*found["host"], *found["result"]])
    for name in names:
        table.add_row(name, *(f"{found[side][name]:.4g}" if name in found[side] else "" for side in ("host", "result")))
    return table
