"""`archspec sweep SPEC -o OUT`: every member of a spec's matrix compiled, run and measured; one leaderboard.

The leaderboard is printed and written as `leaderboard.json`, `leaderboard.md` and `index.html`. With `--shard I/N` a
part of the members is worked on and nothing is assembled; the same command without it finds what is finished and does
that.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from archspec.cli.device import device_option
from archspec.cli.numbers import members as counted
from archspec.diagnostics import Collector, fail
from archspec.language.choice import chosen
from archspec.language.matrix import Member
from archspec.language.parse import load_members

if TYPE_CHECKING:
    from archspec.compiler.leaderboard import Result
    from archspec.compiler.sweep import Tally, Watch
    from archspec.render.board import Board

UNASKED = 64
"""Most members of a sweep that nobody has to confirm."""


@click.command()
@click.argument("spec", type=click.Path(dir_okay=False, path_type=Path))
@click.option("-o", "--out", required=True, type=click.Path(file_okay=False, path_type=Path), help="Folder to write.")
@click.option(
    "--member", "wanted", metavar="AXIS=VALUE,...", multiple=True, help="Only these members (may be repeated)."
)
@click.option("--shard", metavar="I/N", help="Work on the I-th of N parts of the members, for job arrays.")
@click.option(
    "--store",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder of artifacts that sweeps share.  [default: the one used before, or OUT/artifacts]",
)
@device_option
@click.option("--yes", is_flag=True, help=f"Do it, even with more than {UNASKED} members.")
@click.option("--json", "as_json", is_flag=True, help="Print the leaderboard as JSON.")
def command(
    spec: Path,
    out: Path,
    wanted: tuple[str, ...],
    shard: str | None,
    store: Path | None,
    device: str | None,
    yes: bool,
    as_json: bool,
) -> int:
    """Compile, run and measure every member of the spec's matrix into OUT, and rank them.

    What members have in common is done once; with --store, what sweeps have. A sweep that was killed goes on where it
    was; where the spec, its base or its data changed, what depends on them is done again. Leaves with 1 if a member
    failed, or breaks an expectation with what was measured of it.
    """
    from archspec.cli.run import shard_of

    part, everyone = shard_of(shard), _members(spec)
    members = _chosen(everyone, wanted)
    if len(members) > UNASKED and not yes:
        hint = "add --yes, or choose some: `--member op=hyena_x`"
        raise fail("AS815", f"the sweep has {len(members)} members", None, hint)
    from archspec.cli.terminal import quiet_libraries
    from archspec.compiler.leaderboard import board, results
    from archspec.compiler.sweep import sweep

    quiet_libraries()
    with _watched(len(members)) as watch:
        tally = sweep(spec, out, members, shard=part, store=store, device=device, watch=watch)
    asked = {member.id for member in members}
    found = results(out, members if part else everyone, spec.parent)
    found = [result for result in found if result.state != "waits" or result.member.id in asked]
    table = board(found, everyone)
    report = _report(spec, found, table, tally)
    if part is None:
        _write(out, spec, found, table, report)
    if as_json:
        click.echo(json.dumps(report, indent=1))
    else:
        _print(out, found, table, report, part is not None)
    return int(bool(tally.failed) or any(one["member"] in asked for one in report["broken"]))


def _members(spec: Path) -> tuple[Member, ...]:
    problems = Collector()
    members = load_members(spec, problems)
    problems.raise_if_errors()
    return members


def _chosen(members: Sequence[Member], wanted: Sequence[str]) -> list[Member]:
    if not wanted:
        return list(members)
    slugs = {member.slug for text in wanted for member in chosen(members, text)}
    return [member for member in members if member.slug in slugs]


@contextmanager
def _watched(count: int) -> Iterator[Watch]:
    """Tell on stderr what is under way, how much of the work is done, and the time left; failures at once."""
    from rich.progress import BarColumn, TaskProgressColumn, TextColumn, TimeRemainingColumn

    from archspec.cli.terminal import progress_bar
    from archspec.compiler.sweep import Watch

    columns = (TextColumn("{task.description}", markup=False), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with progress_bar(False, *columns) as bars:
        bar = bars.add_task(counted(count), total=None)
        yield Watch(
            doing=lambda text: bars.update(bar, description=text),
            ahead=lambda flops: bars.update(bar, total=max(flops, 1)),
            done=lambda flops: bars.advance(bar, flops),
            failed=lambda member, error: click.echo(f"failed: {member.id or 'the spec'}: {error}", err=True),
        )


def _report(spec: Path, found: Sequence[Result], table: Board, tally: Tally) -> dict[str, Any]:
    keys = [key for result in found for key in result.keys]
    rows = [dict(zip(_unique(table.columns), row.cells, strict=True)) | {"role": row.role} for row in table.rows]
    return {
        "spec": spec.name,
        "members": [result.to_json() for result in found],
        "rows": rows,
        "tasks": {"of_members": len(keys), "distinct": len(set(keys)), "ran": len(tally.ran)},
        "broken": _broken(found),
    }


def _unique(columns: Sequence[str]) -> list[str]:
    """Return titles as keys: `x host` behind the metric that it is of.

    >>> _unique(("fd", "x host"))
    ['fd', 'fd x host']
    """
    return [f"{columns[k - 1]} {title}" if title == "x host" else title for k, title in enumerate(columns)]


def _broken(found: Sequence[Result]) -> list[dict[str, str]]:
    """Return the expectations that do not hold, with their members."""
    from archspec.cli.eval import held

    return [
        {"member": result.member.id, "message": outcome["message"]}
        for result in found
        if result.measured
        for outcome in held(list(result.expect), result.measured)
        if not outcome["holds"]
    ]


def _write(out: Path, spec: Path, found: Sequence[Result], table: Board, report: dict[str, Any]) -> None:
    from archspec.cli.sweep_page import page_of
    from archspec.render.board import markdown
    from archspec.runtime.store.files import replace_text

    replace_text(out / "leaderboard.json", json.dumps(report, indent=1, ensure_ascii=False) + "\n")
    replace_text(out / "leaderboard.md", markdown(table) + "\n")
    replace_text(out / "index.html", page_of(spec, table, found, report))


def _print(out: Path, found: Sequence[Result], table: Board, report: dict[str, Any], sharded: bool) -> None:
    from rich.console import Console

    from archspec.cli.terminal import print_board

    if not sharded:
        print_board(table, Console(highlight=False, soft_wrap=True))
    states = [result.state for result in found]
    counts = ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states))
    tasks = report["tasks"]
    click.echo(f"\n{counted(len(found))}: {counts}; {tasks['of_members']} tasks, {tasks['distinct']} distinct, "
               f"{tasks['ran']} run now")  # fmt: skip
    for result in found:
        for problem in result.problems:
            click.echo(f"failed: {result.member.id}: {problem}")
    for one in report["broken"]:
        click.echo(f"broken: {one['member']}: {one['message']}")
    click.echo(f"next: the same command without --shard assembles {out}" if sharded else f"wrote {out}/index.html")
