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
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

ROOT = Path(__file__).parents[1]
SPECS = ROOT / "specs" / "digits"
PAGE = ROOT / "docs" / "results" / "digits.md"
HOST_IMAGES = 2036 * 64
"""Images that the host was trained on (specs/hosts/train_digits.py)."""
T95: Mapping[int, float] = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776}
"""Student's t, two-sided 95 %, by the number of seeds."""


@dataclass(frozen=True)
class Claim:
    """A spec, its control, and what is to be shown: `bound` on FD, absolute or as a multiple of the host's."""

    title: str
    spec: str
    control: str
    bound: float
    relative: bool = True


CLAIMS = (
    Claim("MLP r = 3, all blocks, no gradient step", "mlp_r3", "mlp_r3_random", 1.10),
    Claim("parallel pairs, no gradient step", "parallel_pairs_fit", "parallel_pairs_fit_random", 8.0, relative=False),
    Claim("parallel pairs", "parallel_pairs", "parallel_pairs_random", 2.0),
    Claim("Hyena-X in every second block", "hyena_x", "hyena_x_random", 1.5),
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
    spec["base"]["from"] = os.path.relpath(SPECS / spec["base"]["from"], folder)
    for edit in spec["edits"]:
        init = edit["init"]
        edit["init"] = {**(init if isinstance(init, dict) else {"kind": init}), "seed": seed}
    for stage in ("distill", "finetune", "eval"):
        if spec.get(stage):
            spec[stage]["seed"] = seed
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}-{seed}.yaml"
    path.write_text(json.dumps(spec | {"name": f"{spec['name']}-{seed}", "expect": []}, indent=1), "utf-8")
    return path


def measure(name: str, seed: int, folder: Path) -> Run:
    """Compile, run and measure; nothing that is finished is done again."""
    from archspec.compiler.driver import compile_spec
    from archspec.runtime.execution.execute import execute

    path, out = seeded(name, seed, folder), folder / f"{name}-{seed}"
    if not (out / ".archspec" / "compiled").exists():
        compile_spec(path, out, overwrite=True)
    report = execute(out, device="cpu")
    tasks = [(done.task, done.report) for done in report.tasks]
    measured: Any = next(r["measured"] for t, r in tasks if t.kind == "evaluate")
    result = measured["result"]
    learned = [(t, r) for t, r in tasks if t.kind != "evaluate"]
    shown = {(t.kind, t.wave): t.cost.examples for t, _ in learned if t.kind != "fit"}
    calibration = max((t.cost.examples for t, _ in learned if t.kind == "fit"), default=0)
    seconds = sum(float(r["seconds"]) for _, r in learned)
    images = calibration + sum(shown.values())
    return Run(measured["host"]["fd"], result["fd"], result["agreement"], result["paired"], images, seconds)


def interval(values: Iterable[float], digits: int = 2) -> str:
    """Return "mean ± half width" of the 95 % interval.

    >>> interval([1.0, 2.0, 3.0])
    '2.00 ± 2.48'
    """
    found = list(values)
    half = T95[len(found)] * stdev(found) / len(found) ** 0.5 if len(found) > 1 else 0.0
    return f"{mean(found):.{digits}f} ± {half:.{digits}f}"


def row(title: str, runs: list[Run], verdict: str) -> str:
    """Return one line of the table."""
    cells = (
        title,
        interval((r.fd for r in runs), 3),
        interval(r.fd / r.host for r in runs),
        interval((r.agreement for r in runs), 3),
        interval((r.paired for r in runs), 3),
        f"{100 * runs[0].images / HOST_IMAGES:.1f} %",
        f"{mean(r.seconds for r in runs):.0f}",
        verdict,
    )
    return "| " + " | ".join(cells) + " |"


def verdict_of(claim: Claim, runs: list[Run], control: list[Run]) -> str:
    """Say whether every seed holds the bound, and by how much the control is worse."""
    values = [r.fd / r.host if claim.relative else r.fd for r in runs]
    bound = f"{claim.bound:g}{' x' if claim.relative else ''}"
    held = "holds" if max(values) <= claim.bound else "broken"
    times = mean(c.fd for c in control) / mean(r.fd for r in runs)
    return f"<= {bound} {held}; control {times:.1f} x worse"


def page(results: Mapping[str, list[Run]], seeds: int) -> str:
    """Return docs/results/digits.md."""
    hosts = [run.host for run in results[CLAIMS[0].spec]]
    lines = [
        "# Grafts of the digits host",
        "",
        f"Made by `make repro-digits`: {seeds} seeds, mean ± 95 % interval (Student's t). FD: Frechet distance of",
        "1,000 samples (25 Euler steps, no guidance) to the training images in the features of the bundled",
        "classifier; it can be compared within this page alone. Ratio: to the host from the same noise. Paired:",
        "relative error to the host's samples from the same noise. Images: those that the plan shows to the model,",
        f"repeats counted, as part of the {HOST_IMAGES:,} that the host was trained on. Seconds: wall time of the",
        "plan on the machine that made this page.",
        "",
        f"Host: FD {interval(hosts, 3)}.",
        "",
        "| graft | FD | ratio | agreement | paired | images | s | to be shown |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for claim in CLAIMS:
        lines.append(
            row(claim.title, results[claim.spec], verdict_of(claim, results[claim.spec], results[claim.control]))
        )
        lines.append(row(f"{claim.title}, from random weights", results[claim.control], "control"))
    return "\n".join(lines) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, default=ROOT / "out" / "repro-digits")
    parser.add_argument("--seeds", type=int, default=3, choices=sorted(T95))
    options = parser.parse_args()
    results: dict[str, list[Run]] = {}
    for claim in CLAIMS:
        for name in (claim.spec, claim.control):
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
    print(PAGE.read_text("utf-8"))
    broken = [c.title for c in CLAIMS if "broken" in verdict_of(c, results[c.spec], results[c.control])]
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
