"""Cold start of `archspec validate` on a spec of 56 edits, beside check-jsonschema and yamllint on the same file.

    python benchmarks/bench_validate.py [--runs 9] [--out FILE.md]

All run in turn, in one process each, round by round, so that a busy machine is busy for all. What counts is CPU seconds
(user + system) of the child; the peers are installed into an environment of their own, once. They do less: one
checks the form of the file against the JSON Schema, the other its layout; archspec also selects the sites in the host,
completes and checks every operator, lowers the spec and holds the expectations.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import venv
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]
PEERS = ("check-jsonschema==0.39.0", "yamllint==1.38.0")
BLOCKS = 28
AIM = 0.35


def spec_text() -> str:
    """Return the spec: another operator in the attention and another MLP in every block of a DiT-XL/2."""
    lines = ["archspec: 1", "name: bench-56", "base: ./host", "edits:"]
    for block in range(BLOCKS):
        lines += [f"  - replace: blocks[{block}].attn", "    with: {op: hyena_x, kernel: 4}", "    init: random"]
        lines += [f"  - replace: blocks[{block}].mlp", "    with:", "      op: mlp", "      ratio: 3"]
    return "\n".join([*lines, "expect:", f"  - depth == {BLOCKS}", "  - params <= 1.0x", ""])


def write_files(folder: Path) -> Path:
    """Write the spec and its host (a config: headers are not needed) and return the spec's path."""
    host = folder / "host"
    host.mkdir()
    config = {"_class_name": "DiTTransformer2DModel", "num_layers": BLOCKS, "in_channels": 4, "out_channels": 8}
    (host / "config.json").write_text(json.dumps(config))
    spec = folder / "bench.yaml"
    spec.write_text(spec_text())
    return spec


def install_peers(home: Path) -> Path:
    """Return the folder of the peers' commands; installs them when they are missing."""
    commands = home / "bin"
    if not (commands / "yamllint").exists():
        venv.create(home, with_pip=True)
        subprocess.run([commands / "python", "-m", "pip", "install", "--quiet", *PEERS], check=True)
    return commands


def environment(folder: Path) -> dict[str, str]:
    """Return the environment of the children: compiled modules are kept, as they are once anything is installed."""
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return {**kept, "PYTHONPYCACHEPREFIX": str(folder / "bytecode"), "PYTHONPATH": str(ROOT)}


def cpu_seconds(command: Sequence[str | Path], env: dict[str, str]) -> float:
    """Return user plus system time of a child that must succeed."""
    before = os.times()
    done = subprocess.run(command, capture_output=True, text=True, env=env)
    after = os.times()
    if done.returncode:
        raise SystemExit(f"{' '.join(map(str, command))} failed:\n{done.stdout}{done.stderr}")
    return after.children_user + after.children_system - before.children_user - before.children_system


def measure(commands: dict[str, Sequence[str | Path]], runs: int, env: dict[str, str]) -> dict[str, list[float]]:
    """Return the CPU seconds of every command, one round after another; the first only warms disk and bytecode."""
    times: dict[str, list[float]] = {name: [] for name in commands}
    for number in range(runs + 1):
        for name, command in commands.items():
            seconds = cpu_seconds(command, env)
            if number:
                times[name].append(seconds)
    return times


def report(times: dict[str, list[float]]) -> str:
    """Return the table: median, spread and the ratio to archspec's."""
    own = statistics.median(times["archspec validate"])
    lines = ["| command | CPU s (median) | least | most | ratio |", "|---|---|---|---|---|"]
    for name, seconds in times.items():
        median = statistics.median(seconds)
        lines.append(f"| {name} | {median:.3f} | {min(seconds):.3f} | {max(seconds):.3f} | {median / own:.2f} |")
    verdict = "met" if own <= AIM else "MISSED"
    return "\n".join(
        [*lines, "", f"56 edits, {len(times['archspec validate'])} runs each; aim <= {AIM} CPU s: {verdict}."]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=9)
    parser.add_argument("--out", type=Path, help="also write the table here")
    parser.add_argument("--peers", type=Path, default=ROOT / "out" / "bench-peers", help="environment of the peers")
    options = parser.parse_args()
    peers = install_peers(options.peers)
    with tempfile.TemporaryDirectory() as folder:
        spec = write_files(Path(folder))
        schema = ROOT / "grammars" / "spec.schema.json"
        table = report(
            measure(
                {
                    "archspec validate": [sys.executable, "-m", "archspec", "validate", spec],
                    "check-jsonschema": [peers / "check-jsonschema", "--schemafile", schema, spec],
                    "yamllint": [peers / "yamllint", "-d", "relaxed", spec],
                    "python -c pass": [sys.executable, "-c", "pass"],
                },
                options.runs,
                environment(Path(folder)),
            )
        )
    print(table)
    if options.out:
        options.out.write_text(table + "\n")


if __name__ == "__main__":
    main()
