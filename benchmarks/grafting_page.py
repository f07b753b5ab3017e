"""docs/results/grafting.md: what was measured of the sweeps, as tables and pictures, and the goals held against it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.grafting_rows import Row
from benchmarks.plots import Line, dots

HOST_FID = 2.27
"""FID of DiT-XL/2 in the paper, by which its figures are divided."""
SEEDS = 3
"""Of every row, when it is whole."""
ARMS = ("paper", "ours")
Key = tuple[str, ...]
SPECS = Path(__file__).parents[1] / "specs" / "repro"


@dataclass(frozen=True)
class Host:
    """`images`: how many it was trained on (specs/hosts/class_hosts.py). `probe`: the figures of what it attends to."""

    name: str
    images: int
    probe: Path


DIGITS = Host("digits-64", 2036 * 64, SPECS / "digits-64.probe.json")
FASHION = Host("fashion-64", 2400 * 64, SPECS / "fashion-64.probe.json")


@dataclass(frozen=True)
class Table:
    """A sweep on a host. `axes` tell rows apart, `arms` stand side by side (none: they are told apart by rows as well).
    `printed`: row -> what the paper prints."""

    title: str
    spec: str
    axes: tuple[str, ...]
    printed: Mapping[Key, str] = field(default_factory=dict)
    arms: tuple[str, ...] = ARMS
    host: Host = DIGITS


@dataclass(frozen=True)
class Goal:
    """What was to be reached: the FD ratio of an arm in these rows of a table."""

    text: str
    spec: str
    bound: float
    rows: tuple[Key, ...]
    arm: str = "ours"


def fid(value: float | None) -> str:
    """Return an FID of the paper over that of its host; None: it fails."""
    return "fails" if value is None else f"{value / HOST_FID:.2f}"


def found_in(table: Table, rows: Sequence[Row]) -> dict[Key, dict[str, Row]]:
    """Return line -> arm -> its row, in the order of the rows. Without arms side by side, the arm is ''."""
    found: dict[Key, dict[str, Row]] = {}
    for row in rows:
        line = found.setdefault(tuple(row.labels[axis] for axis in table.axes), {})
        line[row.labels["arm"] if table.arms else ""] = row
    return found


def section(table: Table, rows: Sequence[Row], picture: str | None = None) -> str:
    """Return a table of Markdown: a line per row, the arms beside what the paper prints."""
    head = [*table.axes, *(["paper, FID ratio"] if table.printed else [])]
    for arm in table.arms or ("",):
        head += [f"{arm}: FD ratio" if arm else "FD ratio", "error of stage 1", "CPU s of stage 1 (all)", "images"]
    kept = any(row.kept for row in rows)
    head += ["kept", "n"] if kept else ["n"]
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for key, arms in found_in(table, rows).items():
        cells = [*key, *([table.printed.get(key, "")] if table.printed else [])]
        cells += [cell for arm in table.arms or ("",) for cell in _cells(arms.get(arm), table.host)]
        cells += [", ".join(str(step) for row in arms.values() for step in (row.kept or {}).values())] if kept else []
        counts = dict.fromkeys(str(row.seeds) for row in arms.values())
        lines.append("| " + " | ".join([*cells, "/".join(counts)]) + " |")
    shown = f"\n![{table.title}: FD over the host's]({picture})\n" if picture else ""
    return f"## {table.title}\n\n" + "\n".join(lines) + "\n" + shown


def _cells(row: Row | None, host: Host) -> list[str]:
    if row is None:
        return ["", "", "", ""]
    images = f"{row.images:,} ({100 * row.images / host.images:.1f} %)"
    return [
        row.told,
        f"{row.error:.3f}" if row.error is not None else "",
        f"{row.first:.0f} ({row.cpu:.0f})",
        f"{images}, {row.drawn:,} drawn" if row.drawn else images,
    ]


def picture(table: Table, rows: Sequence[Row], path: Path) -> None:
    """Draw the ratios of a table, a dot per seed."""
    lines = [
        Line(", ".join(key), {arm: _dots(arms.get(arm)) for arm in table.arms or ("",)})
        for key, arms in found_in(table, rows).items()
    ]
    dots(path, lines, "FD of the result over the host's")


def _dots(row: Row | None) -> list[float]:
    return [] if row is None else list(row.ratios.values())


def verdicts(goals: Sequence[Goal], tables: Mapping[str, Table], found: Mapping[str, Sequence[Row]]) -> Iterator[str]:
    """Yield a line per goal that anything is known of: the mean of each row with its number of seeds, and whether all
    keep to the bound."""
    for goal in goals:
        lines = found_in(tables[goal.spec], found[goal.spec])
        known = {key: lines[key][goal.arm] for key in goal.rows if goal.arm in lines.get(key, {})}
        if known:
            missing = [", ".join(key) for key in goal.rows if key not in known]
            told = "; ".join(f"{', '.join(key)} {row.told_exactly}, n = {row.seeds}" for key, row in known.items())
            rest = f"; nothing is known of {' and '.join(missing)}" if missing else ""
            yield f"- {goal.text}, at most {goal.bound:.2f}: **{_verdict(goal, known)}** ({told}{rest})."


def _verdict(goal: Goal, known: Mapping[Key, Row]) -> str:
    """Return held, missed or open: few seeds and missing rows decide nothing, unless another row has."""
    beyond = [row for row in known.values() if row.ratio > goal.bound]
    if any(row.seeds >= SEEDS for row in beyond):
        return "missed"
    if len(known) == len(goal.rows) and all(row.seeds >= SEEDS for row in known.values()):
        return "held"
    return "open, so far missed" if beyond else "open, so far held"


def locality(title: str, text: str, host: Host) -> str:
    """Return the table of what `archspec probe` measured of a host, a line per block."""
    measures = json.loads(host.probe.read_text("utf-8"))["measures"]
    lines = ["| block | " + " | ".join(measures) + " |", "|---" * (len(measures) + 1) + "|"]
    for block, figures in enumerate(zip(*(sites.values() for sites in measures.values()), strict=True)):
        cells = (f"{figure['mean']:.3f} ± {2 * figure['error']:.3f}" for figure in figures)
        lines.append(f"| {block} | " + " | ".join(cells) + " |")
    return f"## {title}\n\n{text}\n" + "\n".join(lines) + "\n"
