"""docs/results/grafting.md: what is finished of the sweeps, as tables and pictures, and the goals held against it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean
from typing import Any

from archspec.runtime.measure.intervals import interval
from benchmarks.plots import Line, dots

HOST_IMAGES = 2036 * 64
"""Images that the host was trained on (specs/hosts/train.py)."""
ARMS = ("paper", "ours")
Key = tuple[str, ...]


@dataclass(frozen=True)
class Table:
    """A sweep. `axes` tell rows apart, `arms` stand side by side (none: they are told apart by rows as well).
    `printed`: row -> what the paper prints."""

    title: str
    spec: str
    axes: tuple[str, ...]
    printed: Mapping[Key, str] = field(default_factory=dict)
    arms: tuple[str, ...] = ARMS


@dataclass(frozen=True)
class Run:
    """A finished member: FD of host and result, images and CPU seconds of its plan; of its first stage the mean
    relative error at the sites on held-out images (None where it has no such stage), and the CPU seconds."""

    labels: Mapping[str, str]
    host: float
    fd: float
    images: int
    cpu: float
    error: float | None
    first: float

    @property
    def ratio(self) -> float:
        return self.fd / self.host


@dataclass(frozen=True)
class Goal:
    """What was to be reached: the FD ratio of an arm in these rows of a table."""

    text: str
    spec: str
    bound: float
    rows: tuple[Key, ...]
    arm: str = "ours"


def finished(table: Table, specs: Path, out: Path) -> list[Run]:
    """Read the finished members of a sweep."""
    from archspec.compiler.leaderboard import results
    from archspec.diagnostics import Collector
    from archspec.language.parse import load_members

    members = load_members(specs / f"{table.spec}.yaml", Collector())
    return [_run(result, out / table.spec) for result in results(out / table.spec, members, specs) if result.measured]


def _run(result: Any, out: Path) -> Run:
    from archspec.compiler.leaderboard import cpu_of
    from archspec.runtime.execution.execute import read_plan
    from archspec.runtime.execution.workspace import Workspace

    workspace = Workspace(out / result.folder)
    tasks = [task for task in read_plan(workspace.folder).tasks if task.kind in ("fit", "regress")]
    reports = [workspace.report(task.key) for task in tasks]
    outcomes = [outcome for report in reports for outcome in report["outcomes"]]
    errors = [outcome["after" if outcome["kept"] else "before"] for outcome in outcomes]
    first = sum(map(cpu_of, reports))
    host, fd = (float(result.measured[side]["fd"]) for side in ("host", "result"))
    return Run(dict(result.member.labels), host, fd, result.images, result.cpu, mean(errors) if errors else None, first)


def rows(table: Table, runs: Sequence[Run]) -> dict[Key, dict[str, list[Run]]]:
    """Return row -> arm -> its runs, in the order of the sweep. Without arms side by side, the arm is ''."""
    found: dict[Key, dict[str, list[Run]]] = {}
    for run in runs:
        row = found.setdefault(tuple(run.labels[axis] for axis in table.axes), {arm: [] for arm in table.arms or ("",)})
        row[run.labels["arm"] if table.arms else ""].append(run)
    return found


def section(table: Table, runs: Sequence[Run], picture: str | None = None) -> str:
    """Return a table of Markdown: a line per row, the arms beside what the paper prints."""
    head = [*table.axes, *(["paper, FID ratio"] if table.printed else [])]
    for arm in table.arms or ("",):
        head += [f"{arm}: FD ratio" if arm else "FD ratio", "error of stage 1", "CPU s of stage 1 (all)", "images"]
    lines = ["| " + " | ".join([*head, "n"]) + " |", "|---" * (len(head) + 1) + "|"]
    for key, arms in rows(table, runs).items():
        cells = [*key, *([table.printed.get(key, "")] if table.printed else [])]
        cells += [cell for found in arms.values() for cell in _cells(found)]
        counts = dict.fromkeys(str(len(found)) for found in arms.values())
        lines.append("| " + " | ".join([*cells, "/".join(counts)]) + " |")
    shown = f"\n![{table.title}: FD over the host's]({picture})\n" if picture else ""
    return f"## {table.title}\n\n" + "\n".join(lines) + "\n" + shown


def _cells(runs: Sequence[Run]) -> list[str]:
    if not runs:
        return ["", "", "", ""]
    images, errors = runs[0].images, [run.error for run in runs if run.error is not None]
    return [
        interval([run.ratio for run in runs]) if len(runs) > 1 else f"{runs[0].ratio:.2f}",
        f"{mean(errors):.3f}" if errors else "",
        f"{mean(run.first for run in runs):.0f} ({mean(run.cpu for run in runs):.0f})",
        f"{images:,} ({100 * images / HOST_IMAGES:.1f} %)",
    ]


def picture(table: Table, runs: Sequence[Run], path: Path) -> None:
    """Draw the ratios of a table, a dot per seed."""
    found = rows(table, runs).items()
    dots(path, [Line(", ".join(key), _ratios(arms)) for key, arms in found], "FD of the result over the host's")


def _ratios(arms: Mapping[str, Sequence[Run]]) -> dict[str, list[float]]:
    return {arm: [run.ratio for run in found] for arm, found in arms.items()}


def verdicts(goals: Sequence[Goal], tables: Mapping[str, Table], found: Mapping[str, Sequence[Run]]) -> Iterator[str]:
    """Yield a line per goal: the mean of each row, and whether all keep to the bound."""
    for goal in goals:
        table = tables[goal.spec]
        means = {
            ", ".join(key): mean(run.ratio for run in arms[goal.arm])
            for key, arms in rows(table, found[goal.spec]).items()
            if key in goal.rows and arms[goal.arm]
        }
        if means:
            held = "held" if max(means.values()) <= goal.bound else "missed"
            told = "; ".join(f"{name} {value:.2f}" for name, value in means.items())
            yield f"- {goal.text}, at most {goal.bound:.2f}: **{held}** ({told})."


def locality(probe: Path) -> str:
    """Return the table of what `archspec probe` measured of the host, a line per block."""
    measures = json.loads(probe.read_text("utf-8"))["measures"]
    lines = ["| block | " + " | ".join(measures) + " |", "|---" * (len(measures) + 1) + "|"]
    for block, figures in enumerate(zip(*(sites.values() for sites in measures.values()), strict=True)):
        cells = (f"{figure['mean']:.3f} ± {2 * figure['error']:.3f}" for figure in figures)
        lines.append(f"| {block} | " + " | ".join(cells) + " |")
    return "## Locality of attention (Fig. 2), and influence of blocks\n\n" + LOCALITY + "\n".join(lines) + "\n"


LOCALITY = """\
Share of attention within k places in raster order, over heads, 250 noised digits and their times, and 1 - cosine of
what goes into a block and what comes out; ± two standard errors. As in the paper the first block is the least local.

"""
