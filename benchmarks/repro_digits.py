"""The digits results, with three seeds and intervals: `make repro-digits` rewrites docs/results/digits.md.

Each spec of `specs/digits/` is compiled, run and measured once per seed, its control from random weights beside it. A
seed sets every draw: random weights, calibration, training, and the noise that host and result are sampled from.
Finished runs are kept under `--out` and found again by the keys of their plans, so a stopped reproduction goes on.

Intervals are Student's t at 95 % over seeds. A ratio is that of result to host from the same noise, seed by seed.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

from archspec.runtime.measure.intervals import interval, spread
from benchmarks.plots import Line, dots

ROOT = Path(__file__).parents[1]
SPECS = ROOT / "specs" / "digits"
PAGE = ROOT / "docs" / "results" / "digits.md"
HOST_IMAGES = 2036 * 64
"""Images that the host was trained on (specs/hosts/train.py)."""
HELD_OUT = 143
"""Images that fits and regressions are judged on: a tenth of the training split."""


@dataclass(frozen=True)
class Claim:
    """A spec, its controls, and what is to be shown: `bound` on FD, absolute or as a multiple of the host's."""

    title: str
    spec: str
    control: str
    bound: float | None
    relative: bool = True
    regressed: str | None = None
    """A second control, whose random weights learn from the teacher's activations first."""

    @property
    def controls(self) -> dict[str, str]:
        """What is written of a control, and its spec."""
        found = {"control": self.control}
        return found | ({"control, regressed": self.regressed} if self.regressed else {})


CLAIMS = (
    Claim("MLP r = 3, all blocks, no gradient step", "mlp_r3", "mlp_r3_random", 1.10),
    Claim("parallel pairs, no gradient step", "parallel_pairs_fit", "parallel_pairs_fit_random", 8.0, relative=False),
    Claim("parallel pairs", "parallel_pairs", "parallel_pairs_random", 2.0),
    Claim("Hyena-X in every second block", "hyena_x", "hyena_x_unguided", 1.5, regressed="hyena_x_random"),
)


@dataclass(frozen=True)
class Run:
    """One spec with one seed, measured. `images`: examples that its plan showed to the model, repeats counted."""

    host: float
    fd: float
    agreement: float
    paired: float
    images: int
    seconds: float


def seeded(name: str, seed: int, folder: Path) -> Path:
    """Write the spec `name`, merged with what it extends, with every seed set; return its path."""
    from archspec.language.parse import load_tree
    from archspec.syntax.tree import plain

    spec: Any = plain(load_tree(SPECS / f"{name}.yaml"))
    spec.pop("extends", None)  # merged already
    spec["base"]["from"] = os.path.relpath(SPECS / spec["base"]["from"], folder)
    for edit in spec["edits"]:
        init = edit["init"]
        edit["init"] = {**(init if isinstance(init, dict) else {"kind": init}), "seed": seed}
    for stage in ("distill", "finetune", "eval"):
        if isinstance(spec.get(stage), dict):
            spec[stage]["seed"] = seed
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}-{seed}.yaml"
    path.write_text(json.dumps(spec | {"name": f"{spec['name']}-{seed}", "expect": []}, indent=1), "utf-8")
    return path


def measure(name: str, seed: int, folder: Path) -> Run:
    """Compile, run and measure; nothing that is finished is done again. Tasks, and what is drawn from the host with a
    seed, are shared by all results."""
    from archspec.compiler.driver import compile_spec
    from archspec.runtime.execution.execute import execute
    from archspec.runtime.execution.images import images_of
    from archspec.runtime.execution.workspace import Workspace

    path, out = seeded(name, seed, folder), folder / f"{name}-{seed}"
    if not (out / ".archspec" / "compiled").exists():
        compile_spec(path, out, overwrite=True)
    workspace = Workspace(out)
    workspace.share(folder / "artifacts")
    start = time.process_time()
    report = execute(out, device="cpu", only=("fit", "regress", "finetune"))
    ran = any(done.state == "ran" for done in report.tasks)
    seconds = _spent(out.with_name(f"{out.name}.cpu_seconds"), time.process_time() - start if ran else 0.0)
    measured = _measured(out, report.plan)
    result = measured["result"]
    values = (measured["host"]["fd"], result["fd"], result["agreement"], result["paired"])
    return Run(*values, images_of(report.plan.tasks, HELD_OUT), seconds)


def _spent(path: Path, seconds: float) -> float:
    """Add to the CPU seconds on record, which a stopped run left there, and return their sum."""
    before = float(path.read_text("utf-8")) if path.exists() else 0.0
    path.write_text(f"{before + seconds:.3f}", "utf-8")
    return before + seconds


def _measured(out: Path, plan: Any) -> Any:
    """Measure host and result from the same noise, or read what was measured of the same weights before."""
    from archspec.runtime.execution.workspace import Workspace
    from archspec.runtime.measure.evaluate import evaluate
    from archspec.runtime.measure.kept import Kept
    from archspec.runtime.store.home import home
    from archspec.runtime.store.lock import read_lock

    (task,) = [one for one in plan.tasks if one.kind == "evaluate"]
    known = out.with_name(f"{out.name}.{task.key}.json")  # beside it: compiling anew replaces the folder
    if not known.exists():
        workspace = Workspace(out)
        origin, kept = workspace.origin(), Kept(workspace.artifacts, str(read_lock(out).base["fingerprint"]))
        found = evaluate(out, home(origin["base"]).top, task.settings, origin["near"], kept=kept)
        known.write_text(json.dumps({side: found[side] for side in ("host", "result")}), "utf-8")
    return json.loads(known.read_text("utf-8"))


def row(title: str, runs: list[Run]) -> str:
    """Return one line of the table."""
    cells = (
        title,
        interval((r.host for r in runs), 3),
        interval((r.fd for r in runs), 3),
        interval(r.fd / r.host for r in runs),
        interval((r.paired for r in runs), 3),
        interval((r.agreement for r in runs), 3),
        f"{runs[0].images:,} ({100 * runs[0].images / HOST_IMAGES:.1f} %)",
        f"{mean(r.seconds for r in runs):.0f}",
    )
    return "| " + " | ".join(cells) + " |"


def values_of(claim: Claim, runs: list[Run]) -> list[float]:
    """Return, by seed, what is held against the claim's bound."""
    return [r.fd / r.host if claim.relative else r.fd for r in runs]


def holds(claim: Claim, runs: list[Run]) -> bool:
    """Whether every seed holds the bound."""
    return claim.bound is None or max(values_of(claim, runs)) <= claim.bound


def verdict(claim: Claim, results: Mapping[str, list[Run]]) -> str:
    """Return a line of the list of verdicts: the bound, every seed's value, the controls beside it seed by seed."""
    runs = results[claim.spec]
    unit = "x" if claim.relative else ""
    seen = ", ".join(f"{value:.2f}{unit}" for value in values_of(claim, runs))
    times = {title: [c.fd / r.fd for c, r in zip(results[n], runs, strict=True)] for title, n in claim.controls.items()}
    against = "; ".join(f"the FD of the {title} is {interval(found)} times as large" for title, found in times.items())
    if claim.bound is None:
        return f"- {claim.title}: no bound ({seen}); {against}."
    word = "held by every seed" if holds(claim, runs) else "**not held by every seed**"
    low, high = spread(values_of(claim, runs))
    return (
        f"- {claim.title}: FD at most {claim.bound:g}{unit} is {word} ({seen}; 95 % interval of the mean "
        f"{low:.2f} to {high:.2f}); {against}."
    )


INTRO = """\
# Grafts of the digits host

Written by `make repro-digits` (`benchmarks/repro_digits.py`) from {seeds} seeds: mean ± half width of the 95 % interval
(Student's t). A seed sets random weights, calibration, training, and the noise that host and result are both sampled
from. The plan of Hyena-X was chosen with seed 10, its number of steps raised
after a look at these seeds; the other plans were chosen with seed 0, which is one of these (`docs/log.md`).

- **FD**: Frechet distance of 1,000 samples (25 Euler steps, no guidance) to the training images in the features of the
  bundled classifier. It can be compared within this page alone, and is not FID.
- **ratio**: FD of result over FD of host, seed by seed.
- **paired**: relative error to the host's own samples from the same noise. **agreement**: samples that the classifier
  sees as the class that was asked for.
- **images**: noised images that the plan runs a model on, every pass and the judging on held-out ones counted (a
  regression sees a cached image once), and their part of the {images:,} that the host was trained on.
- **CPU s**: of the plan, process time of one thread, on the machine that made this page.
- **control**: new parts from random weights, and the same finetuning. A plan's first stage (closed form, regression to
  the teacher's activations) is the initialization that is tested, as in 2506.05340, so a control has none of it. A
  *regressed* one has the same regression from random weights: beside it, the closed form alone is tested.

"""


def page(results: Mapping[str, list[Run]], seeds: int) -> str:
    """Return docs/results/digits.md."""
    head = ("graft", "FD of host", "FD of result", "ratio", "paired", "agreement", "images", "CPU s")
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for claim in CLAIMS:
        lines.append(row(claim.title, results[claim.spec]))
        lines += [row(f"· {title}", results[name]) for title, name in claim.controls.items()]
    lines += ["", "![FD of each graft over its host's](digits.svg)", "", "## What was to be shown", ""]
    lines += [verdict(claim, results) for claim in CLAIMS]
    total = sum(run.seconds for runs in results.values() for run in runs)
    lines += ["", "## To reproduce", "", "```", "make repro-digits", "```", ""]
    lines += [
        f"The plans of this page took {total / 60:.0f} CPU minutes; compiling them and sampling come on top. A "
        "reproduction that was",
        "stopped goes on where it was. Seeds repeat on one machine; other processors round otherwise.",
    ]
    return INTRO.format(seeds=seeds, images=HOST_IMAGES) + "\n".join(lines) + "\n"


def picture(results: Mapping[str, list[Run]], path: Path) -> None:
    """Draw the ratios to the host, a dot per seed; controls hollow."""
    lines = []
    for claim in CLAIMS:
        for name in (claim.spec, *claim.controls.values()):
            label = "from random weights" + (", regressed" if name == claim.regressed else "")
            ratios = {"": [run.fd / run.host for run in results[name]]}
            if name == claim.spec:
                lines.append(Line(claim.title, ratios, claim.bound if claim.relative else None))
            else:
                lines.append(Line(label, ratios, muted=True))
    dots(path, lines, "FD of the result over the host's")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, default=ROOT / "out" / "repro-digits")
    parser.add_argument("--seeds", type=int, default=3, choices=range(2, 21))
    options = parser.parse_args()
    results: dict[str, list[Run]] = {}
    for claim in CLAIMS:
        for name in (claim.spec, *claim.controls.values()):
            for seed in range(options.seeds):
                start = time.perf_counter()
                run = measure(name, seed, options.out)
                results.setdefault(name, []).append(run)
                print(
                    f"{name} seed {seed}: FD {run.fd:.3f}, host {run.host:.3f} ({time.perf_counter() - start:.0f} s)",
                    flush=True,
                )
    PAGE.parent.mkdir(parents=True, exist_ok=True)
    PAGE.write_text(page(results, options.seeds), "utf-8")
    picture(results, PAGE.with_suffix(".svg"))
    print(PAGE.read_text("utf-8"))
    return 0 if all(holds(claim, results[claim.spec]) for claim in CLAIMS) else 1


if __name__ == "__main__":
    sys.exit(main())
