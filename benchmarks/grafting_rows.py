"""What was measured of sweeps, row by row: docs/results/data/grafting-*.json, from which the page is written.

Outputs of a sweep weigh gigabytes and go; rows stay in the repository. Seeds that are measured later join a row; those
that were measured again take the place of the ones before.

    [{"labels": {"op": "swa", "arm": "ours"}, "ratios": {"0": 1.04, "1": 1.2}, "images": 2606, "drawn": 0,
      "cpu": 40.0, "first": 30.0, "error": 0.25, "kept": null}]
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import mean
from typing import Any, Literal

from archspec.runtime.measure.intervals import half_width
from archspec.runtime.store.files import writing

SEED = "seed"
Name = frozenset[tuple[str, str]]
"""Labels without the seed."""


@dataclass(frozen=True)
class Run:
    """A finished member: FD of host and result, images of its plan (of the data's, and `drawn` by the host) and CPU
    seconds; of its first stage the mean relative error at the sites on held-out images (None where it has no such
    stage), and the CPU seconds. `kept`: the step whose weights stayed, of a finetuning that keeps the best."""

    labels: Mapping[str, str]
    host: float
    fd: float
    images: int
    cpu: float
    error: float | None
    first: float
    drawn: int = 0
    kept: int | None = None


@dataclass(frozen=True)
class Row:
    """Members that differ in their seed alone: FD over the host's by seed, and means of the rest."""

    labels: Mapping[str, str]
    ratios: Mapping[str, float]
    images: int
    cpu: float
    first: float
    error: float | None = None
    drawn: int = 0
    kept: Mapping[str, int] | None = None
    hosts: Mapping[str, float] | None = None
    """FD of the host by seed."""

    @property
    def seeds(self) -> int:
        return len(self.ratios)

    @property
    def ratio(self) -> float:
        return mean(self.ratios.values())

    @property
    def told(self) -> str:
        """The mean, with half of its 95 % interval where there are several seeds."""
        return self._told(2)

    @property
    def told_exactly(self) -> str:
        """The same with a third digit of the mean, for what lies just beside a bound."""
        return self._told(3)

    def _told(self, digits: int) -> str:
        found = list(self.ratios.values())
        return f"{mean(found):.{digits}f}" + (f" ± {half_width(found):.2f}" if len(found) > 1 else "")


def rows_of(runs: Iterable[Run]) -> list[Row]:
    """Return a row per group of runs that differ in their seed alone, in order."""
    groups: dict[Name, list[Run]] = {}
    for run in runs:
        groups.setdefault(_name(run.labels), []).append(run)
    return [_row(found) for found in groups.values()]


def _row(runs: Sequence[Run]) -> Row:
    by_seed = {run.labels[SEED]: run for run in runs}
    errors = [run.error for run in runs if run.error is not None]
    kept = {seed: run.kept for seed, run in by_seed.items() if run.kept is not None}
    return Row(
        {axis: value for axis, value in runs[0].labels.items() if axis != SEED},
        {seed: round(run.fd / run.host, 5) for seed, run in by_seed.items()},
        runs[0].images,
        round(mean(run.cpu for run in runs), 1),
        round(mean(run.first for run in runs), 1),
        round(mean(errors), 5) if errors else None,
        runs[0].drawn,
        kept or None,
        {seed: round(run.host, 5) for seed, run in by_seed.items()},
    )


def _name(labels: Mapping[str, str]) -> Name:
    return frozenset((axis, value) for axis, value in labels.items() if axis != SEED)


def merged(known: Sequence[Row], found: Iterable[Row]) -> list[Row]:
    """Return the known rows, each joined with what was found of its labels, and then what is new."""
    by_name = {_name(row.labels): row for row in known}
    for row in found:
        before = by_name.get(_name(row.labels))
        by_name[_name(row.labels)] = row if before is None else _joined(before, row)
    return list(by_name.values())


def _joined(known: Row, found: Row) -> Row:
    """Return the seeds of both where the two are of the same plan, as far as its images tell; else, or where all seeds
    were measured again, the new row, unless it has fewer seeds. What is found again changes nothing."""
    if found.ratios.items() <= known.ratios.items():
        return known
    if known.ratios.keys() <= found.ratios.keys():
        return found
    if (known.images, known.drawn) != (found.images, found.drawn):
        return found if found.seeds >= known.seeds else known
    kept = {seed: ratio for seed, ratio in known.ratios.items() if seed not in found.ratios}

    def both(name: Literal["cpu", "first", "error"]) -> float:
        weighted = len(kept) * getattr(known, name) + found.seeds * getattr(found, name)
        return float(weighted / (len(kept) + found.seeds))

    def union(name: str) -> dict[str, Any] | None:
        return (getattr(known, name) or {}) | (getattr(found, name) or {}) or None

    error = None if known.error is None or found.error is None else round(both("error"), 5)
    return replace(
        found,
        ratios=dict(sorted({**kept, **found.ratios}.items())),
        cpu=round(both("cpu"), 1),
        first=round(both("first"), 1),
        error=error,
        kept=union("kept"),
        hosts=union("hosts"),
    )


def in_order(spec: Path, rows: Iterable[Row]) -> list[Row]:
    """Return the rows in the order of the spec's members; rows that are none of its members are left out."""
    places = {_name(member.labels): place for place, member in enumerate(_members(spec))}
    return sorted((row for row in rows if _name(row.labels) in places), key=lambda row: places[_name(row.labels)])


def read_rows(path: Path) -> list[Row]:
    """Return the rows of a file; none where there is no file."""
    found: list[dict[str, Any]] = json.loads(path.read_text("utf-8")) if path.is_file() else []
    return [Row(**row) for row in found]


def write_rows(path: Path, rows: Sequence[Row]) -> None:
    lines = [json.dumps({k: v for k, v in asdict(row).items() if v is not None}) for row in rows]
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("[\n" + ",\n".join(lines) + "\n]\n", "utf-8")


def finished(spec: Path, out: Path) -> list[Run]:
    """Read the finished members of a sweep."""
    from archspec.compiler.leaderboard import results

    return [_run(result, out) for result in results(out, _members(spec), spec.parent) if result.measured]


def _members(spec: Path) -> Sequence[Any]:
    from archspec.diagnostics import Collector
    from archspec.language.parse import load_members

    return load_members(spec, Collector())


def _run(result: Any, out: Path) -> Run:
    from archspec.compiler.leaderboard import cpu_of
    from archspec.runtime.execution.execute import read_plan
    from archspec.runtime.execution.workspace import Workspace

    workspace = Workspace(out / result.folder)
    plan = read_plan(workspace.folder)
    reports = {task.id: workspace.report(task.key) for task in plan.tasks}
    first = [reports[task.id] for task in plan.tasks if task.kind in ("fit", "regress")]
    outcomes = [outcome for report in first for outcome in report["outcomes"]]
    errors = [outcome["after" if outcome["kept"] else "before"] for outcome in outcomes]
    host, fd = (float(result.measured[side]["fd"]) for side in ("host", "result"))
    real, drawn = _images(plan, reports)
    seconds = sum(map(cpu_of, first))
    kept = reports["finetune"].get("kept") if "finetune" in reports else None
    error = mean(errors) if errors else None
    return Run(dict(result.member.labels), host, fd, real, result.cpu, error, seconds, drawn, kept)


def _images(plan: Any, reports: Mapping[str, Mapping[str, Any]]) -> tuple[int, int]:
    """Return how many images a plan runs a model on: of the data's, and of those that the host draws itself."""
    from archspec.runtime.execution.images import images_of

    tasks = [task for task in plan.tasks if task.kind != "evaluate"]
    held_out = max((report.get("held_out", 0) for report in reports.values()), default=0)
    own = {task.id: (task.settings.get("data") or plan.data)["kind"] == "generated" for task in tasks}
    real, drawn = ([task for task in tasks if own[task.id] == side] for side in (False, True))
    return images_of(real, held_out), images_of(drawn, held_out)
