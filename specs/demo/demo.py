"""The demo: three grafts of the embedded host and two controls, compiled, run, measured and shown.

    python specs/demo/demo.py [--out out/demo] [--jobs 2]

Every step is the command that a user would type (`archspec compile`, `run`, `eval`, `sample`, `diff`), in a process of
its own (`commands`). The controls are the plans of two of
them with the new parts from random weights. What is printed is also written to index.html, which needs no other file.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from board import Entry, board_of
from commands import Commands, Failed, commands

from archspec.cli.terminal import print_board

ROOT = Path(__file__).resolve().parents[2]
HOST = ROOT / "specs" / "hosts" / "digits"
SPECS = ROOT / "specs" / "digits"
MODELS = ("hyena_x", "parallel_pairs", "parallel_pairs_random", "mlp_r3", "mlp_r3_random")
"""Those that take longest first, so that all cores are busy to the end."""
SAMPLES, STEPS, SHOWN, COLUMNS = 1000, 12, 40, 10
MEASURING = ["-n", str(SAMPLES), "--steps", str(STEPS), "--metrics", "fd,agreement,paired,latency", "--data", "digits"]


def graft(archspec: Commands, entry: Entry, spec: Path, out: Path, say: Callable[[str], None]) -> Entry:
    """Compile a spec, run its plan, measure and sample the result."""
    folder = out / "models" / entry.name
    say(f"{entry.name}: compiling")
    compiled = archspec("compile", spec, "-o", folder)
    say(f"{entry.name}: learning")
    learned = archspec("run", folder, "--only", "fit", "--only", "regress", "--only", "finetune", "--device", "cpu")
    entry.cpu = compiled.cpu + learned.cpu
    entry.spec = spec.read_text(encoding="utf-8")
    lock = json.loads((folder / "archspec.lock.json").read_text(encoding="utf-8"))
    entry.costs = lock["results"]["cost"]
    entry.diff = json.loads(archspec("diff", HOST / "transformer", folder, "--json").output)
    return measured(archspec, entry, folder, out, say)


def measured(archspec: Commands, entry: Entry, folder: Path, out: Path, say: Callable[[str], None]) -> Entry:
    """Measure a model beside the host and draw its samples; a broken expectation (exit code 1) still gives figures."""
    say(f"{entry.name}: measuring")
    store = ["--store", out / "models" / "kept"]
    found = archspec("eval", folder, "--against", HOST, *store, *MEASURING, "--device", "cpu", "--json", fine=(0, 1))
    if not found.output:
        raise Failed(f"archspec eval {folder} measured nothing")
    entry.report = json.loads(found.output)
    entry.picture = out / f"{entry.name}.png"
    archspec("sample", folder, "-n", str(SHOWN), "--columns", str(COLUMNS), "--steps", str(STEPS), "--device", "cpu",
             "-o", entry.picture)  # fmt: skip
    say(f"{entry.name}: done")
    return entry


def run_demo(specs: Path, out: Path, jobs: int, say: Callable[[str], None]) -> list[Entry]:
    """Return the host's entry, then those of the grafts and of the controls."""
    work = {name: specs / f"{name}.yaml" for name in MODELS}
    archspec = commands()
    with ThreadPoolExecutor(jobs) as pool:
        grafts = [pool.submit(graft, archspec, Entry(name), spec, out, say) for name, spec in work.items()]
        host = pool.submit(measured, archspec, Entry("host"), HOST, out, say)
        try:
            found = [g.result() for g in grafts]
            first = host.result()
        except BaseException:
            archspec.stopped.set()
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    first.costs = {"result": found[0].costs["host"]}
    return [first, *found]


def fresh(out: Path) -> None:
    """Clear what an earlier demo left, and only that."""
    shutil.rmtree(out / "models", ignore_errors=True)
    out.mkdir(parents=True, exist_ok=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "out" / "demo")
    parser.add_argument("--specs", type=Path, default=SPECS, help=f"folder of {', '.join(MODELS)} (.yaml)")
    parser.add_argument("--jobs", type=int, default=2, help="commands at a time; each uses one thread")
    arguments = parser.parse_args()
    from page import write_page
    from rich.console import Console

    out: Path = arguments.out.resolve()
    console, start = Console(highlight=False, soft_wrap=True), time.perf_counter()
    fresh(out)

    def say(what: str) -> None:
        console.print(f"[dim]{time.perf_counter() - start:5.0f} s[/]  {what}")

    try:
        entries = run_demo(arguments.specs.resolve(), out, arguments.jobs, say)
    except Failed as error:
        console.print(f"[red]failed[/]  {error}", markup=True)
        return 1
    except KeyboardInterrupt:
        console.print("stopped")
        return 130
    seconds = time.perf_counter() - start
    print_board(board_of(entries), console)
    page = write_page(entries, out, seconds)
    console.print(f"\n{seconds:.0f} s; the samples side by side: [bold]{page}[/]")
    return 0


if __name__ == "__main__":
    sys.exit(main())
