"""`archspec plan` of a spec with a matrix: a line per member, and what all of them cost together.

Every member is prepared as `plan` prepares one, so the figures are those of the compiler. A task that several members
need has one key and counts once in the total, as in a sweep.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from archspec.cli.numbers import members
from archspec.diagnostics import ArchspecError, Collector
from archspec.language.matrix import Member
from archspec.language.parse import load_members
from archspec.plan import Task
from archspec.quantity import duration, quantity

if TYPE_CHECKING:
    from archspec.compiler.derive import Derivations


@dataclass(frozen=True)
class Line:
    """What is known of a member; `error` where it cannot be compiled."""

    member: Member
    params: int = 0
    flops: int = 0
    tasks: tuple[Task, ...] = ()
    error: ArchspecError | None = None


def members_of(spec: str) -> tuple[Member, ...]:
    """Return the members of a spec file. Raises ArchspecError."""
    problems = Collector()
    members = load_members(spec, problems)
    problems.raise_if_errors()
    return members


def show_members(spec: str, members: Sequence[Member], as_json: bool) -> int:
    """Print the members and their totals; 1 if one of them cannot be compiled."""
    lines = _prepared(spec, members)
    if as_json:
        click.echo(json.dumps(_plain(lines), indent=2))
    else:
        _print(lines)
    return int(any(line.error for line in lines))


def _prepared(spec: str, members: Sequence[Member]) -> list[Line]:
    from archspec.cli.terminal import progress_console
    from archspec.compiler.derive import Derivations

    found, known = [], Derivations()
    with progress_console().status("preparing") as status:
        for number, member in enumerate(members, 1):
            status.update(f"preparing {number} of {len(members)}: {member.id}")
            found.append(_line(spec, member, known))
    return found


def _line(spec: str, member: Member, known: Derivations) -> Line:
    from archspec.compiler.driver import prepare

    try:
        ready = prepare(spec, member=member.id, known=known)
    except ArchspecError as error:
        return Line(member, error=error)
    return Line(member, ready.cost.result.params, ready.cost.result.flops, ready.plan.tasks)


def _distinct(lines: Iterable[Line]) -> list[Task]:
    return list({task.key: task for line in lines for task in line.tasks}.values())


def _plain(lines: Sequence[Line]) -> dict[str, Any]:
    tasks = _distinct(lines)
    members = [
        {"member": line.member.id, "axes": dict(line.member.labels)}
        | ({"problems": [str(d) for d in line.error.diagnostics]} if line.error else
           {"params": line.params, "flops": line.flops, "tasks": [task.key for task in line.tasks]})
        for line in lines
    ]  # fmt: skip
    of_members = sum(len(line.tasks) for line in lines)
    totals = {"tasks": of_members, "distinct": len(tasks), "flops": sum(task.cost.flops for task in tasks)}
    return {"members": members, "totals": totals}


def _print(lines: Sequence[Line]) -> None:
    from rich.console import Console

    from archspec.cli.terminal import print_board
    from archspec.compiler.pricing.timing import estimate, measure_rate
    from archspec.render.board import Board, Row

    axes = tuple(lines[0].member.labels)
    rows = tuple(Row((*line.member.labels.values(), *_cells(line))) for line in lines)
    print_board(Board((*axes, "params", "FLOPs", "tasks", "of the tasks"), rows, len(axes)), Console(highlight=False))
    tasks = _distinct(lines)
    flops = sum(task.cost.flops for task in tasks)
    fewest, most = map(duration, estimate(flops, measure_rate() if tasks else 1.0))
    click.echo(f"\n{members(len(lines))}, {sum(len(line.tasks) for line in lines)} tasks, {len(tasks)} distinct: "
               f"{quantity(flops, 'count')} FLOPs, {fewest} to {most} here")  # fmt: skip
    for line in (line for line in lines if line.error):
        click.echo(f"{line.member.id}: {line.error}")
    click.echo(f"one of them: archspec plan SPEC --member {lines[0].member.id}")


def _cells(line: Line) -> tuple[str, ...]:
    if line.error:
        return ("", "", "", "cannot be compiled")
    flops = sum(task.cost.flops for task in line.tasks)
    return (
        quantity(line.params, "count"),
        quantity(line.flops, "count"),
        str(len(line.tasks)),
        f"{quantity(flops, 'count')} FLOPs",
    )
