"""The leaderboard of a sweep: what is known of each member, and one row for members that differ in their seed alone.

`results(out, members, near)` reads the folder, whoever ran what; `board` makes rows of it, sorted by the first metric.
A row says where seeds are missing; those without any figure come last. What failed gives no figures: those of an
earlier run are of something else.
Figures of several seeds are mean ± half of the 95 % interval. What a member cost is what its plan costs alone:
tasks, and runs of the teacher, that it shares with others count for each.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean
from typing import Any

from archspec.compiler.place import Place, problem
from archspec.diagnostics import ArchspecError
from archspec.language.matrix import Member
from archspec.plan import digest
from archspec.quantity import quantity
from archspec.render.board import Board, Row
from archspec.runtime.execution.execute import read_plan
from archspec.runtime.execution.images import images_of
from archspec.runtime.measure.intervals import half_width
from archspec.runtime.store.lock import read_lock

SEED = "seed"
"""The axis over which figures are averaged."""
BETTER = frozenset({"agreement"})
"""Metrics of which more is better."""
NOTE = "note"
"""The column of what is missing, where something is."""
RATES = frozenset({"agreement", "paired"})
"""Metrics that are shown in per cent."""


@dataclass(frozen=True)
class Result:
    """`measured` is what `evaluate` gives, once the member is finished; `keys` are those of the member's tasks."""

    member: Member
    folder: Path
    state: str
    problems: tuple[str, ...] = ()
    costs: Any = None
    measured: Any = None
    images: int = 0
    cpu: float = 0.0
    keys: tuple[str, ...] = ()
    expect: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        found = {
            "member": self.member.id,
            "axes": dict(self.member.labels),
            "folder": self.folder.as_posix(),
            "state": self.state,
            "problems": list(self.problems),
        }
        if self.costs is None:
            return found
        costs = {side: {name: self.costs[side][name] for name in ("params", "flops")} for side in ("host", "result")}
        return found | {
            "costs": costs,
            "measured": self.measured,
            "images": self.images,
            "cpu_seconds": round(self.cpu, 3),
            "tasks": list(self.keys),
        }


def results(out: Path, members: Iterable[Member], near: Path) -> list[Result]:
    """Return what the folder knows of each member; `near` is the spec's. `state`: finished, waits or failed."""
    return [_result(Place(out, member, near)) for member in members]


def _result(place: Place) -> Result:
    folder, problems = place.folder.relative_to(place.out), tuple(place.known.get("problems", ()))
    if not place.is_compiled:
        return Result(place.member, folder, "failed" if problems else "waits", problems)
    try:
        return _compiled(place, folder, problems)
    except ArchspecError as error:
        return Result(place.member, folder, "failed", problems or tuple(map(problem, error.diagnostics)))


def _compiled(place: Place, folder: Path, problems: tuple[str, ...]) -> Result:
    plan, lock, workspace = read_plan(place.folder), read_lock(place.folder), place.workspace
    finished = all(workspace.finished(task.key) for task in plan.tasks)
    reports = {task.key: workspace.report(task.key) for task in plan.tasks if workspace.finished(task.key)}
    taught = [task for task in plan.tasks if task.kind != "evaluate"]
    return Result(
        place.member,
        folder,
        "failed" if problems else "finished" if finished else "waits",
        problems,
        lock.results["cost"],
        next((r["measured"] for r in reports.values() if "measured" in r and finished and not problems), None),
        images_of(taught, max((found.get("held_out", 0) for found in reports.values()), default=0)),
        sum(cpu_of(reports[task.key]) for task in taught if task.key in reports),
        tuple(task.key for task in plan.tasks),
        tuple(lock.spec["resolved"]["expect"]),
    )


def cpu_of(report: Mapping[str, Any]) -> float:
    """Return the CPU seconds of a task, with those of the teacher's run that another task had done for it."""
    return float(report.get("cpu_seconds", 0.0) + report.get("borrowed_cpu_seconds", 0.0))


def metrics_of(found: Sequence[Result]) -> list[str]:
    """Return what was measured, in the order in which the specs name it."""
    named = [metric for result in found if result.measured for metric in result.measured["settings"]["metrics"]]
    return list(dict.fromkeys(named))


def board(found: Sequence[Result], members: Iterable[Member] = ()) -> Board:
    """Return the leaderboard: the host of each way of measuring, then groups of members, the best first. `members`: all
    that there could be, where `found` are some of them."""
    axes = [axis for axis in (found[0].member.labels if found else {}) if axis != SEED]
    metrics, wanted = metrics_of(found), Counter(_group(m, axes) for m in members or (r.member for r in found))
    columns = (*axes, "params", "FLOPs", *(c for m in metrics for c in _titles(m)), "images", "CPU s")
    groups: dict[tuple[str, ...], list[Result]] = {}
    for result in found:
        groups.setdefault(_group(result.member, axes), []).append(result)
    rows = [_row(labels, group, metrics, wanted[labels]) for labels, group in groups.items()]
    sign = -1 if metrics and metrics[0] in BETTER else 1
    rows.sort(key=lambda row: (row.value is None, row.role == "control", sign * (row.value or 0.0)))
    bar = columns.index(metrics[0]) if metrics else None
    return _noted(Board((*columns, NOTE), (*_hosts(found, len(axes), metrics), *rows), max(1, len(axes)), bar))


def _group(member: Member, axes: Iterable[str]) -> tuple[str, ...]:
    return tuple(member.labels[axis] for axis in axes)


def _noted(board: Board) -> Board:
    """Return the board without its last column, of notes, where it is empty."""
    if any(row.cells[-1] for row in board.rows):
        return board
    rows = tuple(replace(row, cells=row.cells[:-1]) for row in board.rows)
    return replace(board, columns=board.columns[:-1], rows=rows)


def _titles(metric: str) -> tuple[str, ...]:
    return (metric,) if metric == "paired" else (metric, "x host")


def _row(labels: tuple[str, ...], group: Sequence[Result], metrics: Sequence[str], wanted: int) -> Row:
    done = [result for result in group if result.state == "finished"]
    known = next((result for result in (*done, *group) if result.costs is not None), None)
    cells = [*labels, *(_costs(known.costs["result"]) if known else ("", ""))]
    for metric in metrics:
        cells.append(_shown(metric, _values(group, "result", metric)))
        if metric != "paired":
            cells.append(_figures(_ratios(group, metric), 2, "x"))
    cells += [f"{known.images:,}" if known else "", _seconds([result.cpu for result in done])]
    first = _values(group, "result", metrics[0]) if metrics else []
    cells.append(_note(group, len(done), wanted))
    return Row(tuple(cells), "graft" if done else "control", mean(first) if first else None)


def _note(group: Sequence[Result], done: int, wanted: int) -> str:
    """Say of a row what it lacks."""
    if not done:
        return "failed" if any(result.state == "failed" for result in group) else "waits"
    return "" if done == wanted else f"{done} of {wanted} seeds"


def _costs(costs: Mapping[str, float]) -> tuple[str, str]:
    return quantity(costs["params"], "count"), quantity(costs["flops"], "count")


def _seconds(found: Sequence[float]) -> str:
    if not found:
        return ""
    return f"{mean(found):.0f}" if mean(found) >= 10 else f"{mean(found):.1f}"


def _hosts(found: Sequence[Result], axes: int, metrics: Sequence[str]) -> list[Row]:
    """Return a row for each way in which the host was measured, whatever the seed."""
    ways: dict[str, list[Result]] = {}
    for result in found:
        if result.measured:
            settings = {k: v for k, v in result.measured["settings"].items() if k != SEED}
            ways.setdefault(digest(settings), []).append(result)
    return [_host(group, axes, metrics) for group in ways.values()]


def _host(group: Sequence[Result], axes: int, metrics: Sequence[str]) -> Row:
    seeds = {result.measured["settings"][SEED]: result for result in group}  # the host is the same for all of a seed
    costs, once = group[0].costs["host"], list(seeds.values())
    cells = ["host", *[""] * (axes - 1)][: max(1, axes)] if axes else []
    cells += _costs(costs)
    for metric in metrics:
        cells += [_shown(metric, _values(once, "host", metric)), *[""] * (len(_titles(metric)) - 1)]
    first = _values(once, "host", metrics[0])
    return Row((*cells, "", "", ""), "host", mean(first) if first else None)


def _values(group: Iterable[Result], side: str, metric: str) -> list[float]:
    return [r.measured[side][metric] for r in group if r.measured and metric in r.measured[side]]


def _ratios(group: Iterable[Result], metric: str) -> list[float]:
    """Return result over host, seed by seed."""
    sides = [(r.measured["host"].get(metric), r.measured["result"].get(metric)) for r in group if r.measured]
    return [result / host for host, result in sides if host and result is not None]


def _shown(metric: str, values: Sequence[float]) -> str:
    if metric in RATES:
        return _figures([100 * value for value in values], 1, "%")
    return _figures([1000 * value for value in values], 2, " ms") if metric == "latency" else _figures(values, 3)


def _figures(values: Sequence[float], digits: int, unit: str = "") -> str:
    """Return the mean, with half of the 95 % interval where there are several values."""
    if not values:
        return ""
    half = f" ± {half_width(values):.{digits}f}" if len(values) > 1 else ""
    return f"{mean(values):.{digits}f}{half}{unit}"
