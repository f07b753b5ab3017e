"""The experiments of the grafting paper (arXiv 2506.05340) on the host of 64 tokens: docs/results/grafting.md.

Every table is a sweep of specs/repro, run into `--out` by `archspec sweep`: what is finished is found again, what
members share is done once. Here leaderboards only become a page. Seeds that are not finished are left out, and every
row says how many are in it, so the page may be made at any time (`--page-only`).
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

from archspec.runtime.measure.intervals import interval

ROOT = Path(__file__).parents[1]
SPECS, PAGE = ROOT / "specs" / "repro", ROOT / "docs" / "results" / "grafting.md"
HOST_IMAGES = 2036 * 64
"""Images that the host was trained on (specs/hosts/train.py)."""
HOST_FID = 2.27
"""FID of DiT-XL/2 in the paper, by which its figures are divided."""


@dataclass(frozen=True)
class Table:
    """A sweep. `axes` tell rows apart; `printed`: row -> the paper's FID, None where it prints a failure."""

    title: str
    spec: str
    axes: tuple[str, ...]
    printed: Mapping[tuple[str, ...], float | None]


def _tab4(op: str, *fids: float | None) -> dict[tuple[str, ...], float | None]:
    return dict(zip(((op, "half"), (op, "most"), (op, "all")), fids, strict=True))


TABLES = (
    Table("Self-grafts of attention (Tab. 2)", "self_graft", ("blocks",), {("all",): 2.49}),
    Table(
        "Attention replaced (Tab. 4)",
        "tab4_attention",
        ("op", "blocks"),
        {
            **_tab4("hyena_se", 2.73, 3.62, None),
            **_tab4("hyena_x", 2.74, 3.69, None),
            **_tab4("hyena_y", 2.72, 3.66, None),
            **_tab4("swa", 2.67, 3.09, None),
            **_tab4("mamba2", 2.65, 3.02, None),
        },
    ),
    Table(
        "MLPs replaced (Tab. 4)",
        "tab4_mlp",
        ("op", "blocks"),
        {
            **_tab4("r3", 2.53, 2.61, 2.66),
            **_tab4("r6", 2.38, 2.37, 2.42),
            **_tab4("hyena_mlp", 2.64, 3.26, None),
        },
    ),
    Table(
        "Which attentions: Hyena-X in three (Fig. 4b)",
        "fig4_layers",
        ("layers",),
        {("interleaved",): 2.74, ("local",): 3.02, ("nonlocal",): 3.18},
    ),
)
PROBE = SPECS / "digits-64.probe.json"
ARMS = ("paper", "ours")


@dataclass(frozen=True)
class Run:
    """A finished member: FD of host and result, images and CPU seconds of its plan; of its first stage the mean
    relative error at the sites on held-out images, and the CPU seconds."""

    labels: Mapping[str, str]
    host: float
    fd: float
    images: int
    cpu: float
    error: float
    first: float

    @property
    def ratio(self) -> float:
        return self.fd / self.host


def finished(table: Table, out: Path) -> list[Run]:
    """Read the finished members of a sweep."""
    from archspec.compiler.leaderboard import results
    from archspec.diagnostics import Collector
    from archspec.language.parse import load_members

    members = load_members(SPECS / f"{table.spec}.yaml", Collector())
    return [_run(result, out / table.spec) for result in results(out / table.spec, members) if result.measured]


def _run(result: Any, out: Path) -> Run:
    from archspec.runtime.execution.execute import read_plan
    from archspec.runtime.execution.workspace import Workspace

    workspace = Workspace(out / result.folder)
    tasks = [task for task in read_plan(workspace.folder).tasks if task.kind in ("fit", "regress")]
    reports = [workspace.report(task.key) for task in tasks]
    outcomes = [outcome for report in reports for outcome in report["outcomes"]]
    errors = [outcome["after" if outcome["kept"] else "before"] for outcome in outcomes]
    first = sum(report["cpu_seconds"] for report in reports)
    host, fd = (float(result.measured[side]["fd"]) for side in ("host", "result"))
    error = mean(errors) if errors else 0.0
    return Run(dict(result.member.labels), host, fd, result.images, result.cpu, error, first)


def section(table: Table, runs: Sequence[Run]) -> str:
    """Return a table of Markdown: a line per row, both recipes beside what the paper prints."""
    head = [*table.axes, "paper, FID ratio"]
    for arm in ARMS:
        head += [f"{arm}: FD ratio", "error of stage 1", "CPU s of stage 1 (all)", "images"]
    lines = ["| " + " | ".join([*head, "n"]) + " |", "|---" * (len(head) + 1) + "|"]
    for key in dict.fromkeys(tuple(run.labels[axis] for axis in table.axes) for run in runs):
        own = [run for run in runs if tuple(run.labels[axis] for axis in table.axes) == key]
        fid = table.printed.get(key, 0.0)
        cells = [*key, "fails" if fid is None else f"{fid / HOST_FID:.2f}" if fid else ""]
        counts = []
        for arm in ARMS:
            found = [run for run in own if run.labels["arm"] == arm]
            cells += _cells(found)
            counts.append(str(len(found)))
        lines.append("| " + " | ".join([*cells, "/".join(dict.fromkeys(counts))]) + " |")
    return f"## {table.title}\n\n" + "\n".join(lines) + "\n"


def _cells(runs: Sequence[Run]) -> list[str]:
    if not runs:
        return ["", "", "", ""]
    images = runs[0].images
    return [
        interval([run.ratio for run in runs]) if len(runs) > 1 else f"{runs[0].ratio:.2f}",
        f"{mean(run.error for run in runs):.3f}",
        f"{mean(run.first for run in runs):.0f} ({mean(run.cpu for run in runs):.0f})",
        f"{images:,} ({100 * images / HOST_IMAGES:.1f} %)",
    ]


INTRO = """\
# The grafting paper at the scale of one machine

Written by `make repro` (`benchmarks/repro_grafting.py`) from the sweeps of `specs/repro`. The host is
`specs/hosts/digits-64`: six blocks, 64 tokens, trained by this project on 130,304 noised digits; its FD to the training
images is {host} (500 samples, 20 steps).

Two recipes finetune for as many steps. **paper**: random weights, regression to the teacher's activations (512
images, 60 epochs), then finetuning on the data. **ours**: inherited weights, read-outs in closed form one after the
other on the edited model's activations (128 images each), then steps to data and teacher.

- **FD ratio**: Frechet distance of the result over the host's, from the same noise, seed by seed; mean ± 95 % interval
  where there are several seeds (n). *paper, FID ratio* is what arXiv 2506.05340 prints for DiT-XL/2, over its host's
  2.27: another host, other data and longer training, so only the order of rows can be compared.
- **error of stage 1**: |y - y*| / |y*| at the edited sites, y* the teacher's output, on held-out images, before
  finetuning. **CPU s**: process time of one thread; the machine had other work, which it does not count.
- **images**: noised images that a plan runs a model on, those that fits are judged on among them, and their part of
  what the host was trained on. Fits one after the other run the host again for each site, so ours counts {low:.1f} to
  {high:.1f} times as many: the comparison is of CPU seconds and steps, not at equal images.

"""


def locality() -> str:
    """Return the table of what `archspec probe` measured of the host, a line per block."""
    measures = json.loads(PROBE.read_text("utf-8"))["measures"]
    lines = ["| block | " + " | ".join(measures) + " |", "|---" * (len(measures) + 1) + "|"]
    for block, figures in enumerate(zip(*(sites.values() for sites in measures.values()), strict=True)):
        cells = (f"{figure['mean']:.3f} ± {2 * figure['error']:.3f}" for figure in figures)
        lines.append(f"| {block} | " + " | ".join(cells) + " |")
    return "## Locality of attention (Fig. 2), and influence of blocks\n\n" + LOCALITY + "\n".join(lines) + "\n"


LOCALITY = """\
Share of attention within k places in raster order, over heads, 250 noised digits and their times, and 1 - cosine of
what goes into a block and what comes out; ± two standard errors. As in the paper the first block is the least local.

"""


def page(found: Mapping[str, Sequence[Run]]) -> str:
    """Return docs/results/grafting.md."""
    hosts = list(dict.fromkeys(run.host for runs in found.values() for run in runs))
    told = interval(hosts) if len(hosts) > 1 else f"{hosts[0]:.2f}"
    sections = [locality(), *(section(table, found[table.spec]) for table in TABLES if found[table.spec])]
    images = {arm: [run.images for runs in found.values() for run in runs if run.labels["arm"] == arm] for arm in ARMS}
    most = max(images["paper"], default=1)
    low, high = (choose(images["ours"], default=most) / most for choose in (min, max))
    return INTRO.format(host=told, low=low, high=high) + "\n".join([*sections, READING])


READING = """\
## To reproduce

```
make repro
```

A reproduction that was stopped goes on where it was.
"""


def main(arguments: Iterable[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, default=ROOT / "out" / "repro")
    parser.add_argument("--page-only", action="store_true", help="make the page of what is finished")
    options = parser.parse_args(None if arguments is None else list(arguments))
    if not options.page_only:
        from archspec.cli.sweep import command

        for table in TABLES:
            command.main(
                [str(SPECS / f"{table.spec}.yaml"), "-o", str(options.out / table.spec), "--yes"],
                standalone_mode=False,
            )
    found = {table.spec: finished(table, options.out) for table in TABLES}
    if not any(found.values()):
        print("nothing is finished yet", file=sys.stderr)
        return 1
    PAGE.parent.mkdir(parents=True, exist_ok=True)
    PAGE.write_text(page(found), "utf-8")
    print(PAGE.read_text("utf-8"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
