"""`archspec pack` on a synthetic pair in bf16: bytes per second beside a plain copy, peak memory beside a tensor's.

    python -m benchmarks.bench_pack [--width 768] [--out FILE.md]

A Llama and a tuned variant of it are written (twice 0.4 GB at width 768), then every recipe packs the pair once, as a
process of its own, beside a process that does nothing but copy both models. Memory is the peak of RssAnon, sampled:
mapped files are not counted. `start` is a process that only imports the same.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path

from benchmarks.bench_merge import ROOT, Run, measured, tensors, write_models

RECIPES = {
    "dense (F16)": "[dense]",
    "sign": "[sign]",
    "quantize, 4 bits": "[{op: quantize, bits: 4}]",
    "prune, 2 %": "[{op: prune, keep: 2%}]",
}
ROLES = ("embed", "attn", "mlp", "norm")
COPY = "import shutil; [shutil.copytree(name, f'copy/{name}') for name in ('base', 'a')]"
START = "import archspec.compiler.packing.pack, transformers"


@dataclass(frozen=True)
class Row:
    """`wall` seconds; `run` has CPU seconds and the peak."""

    name: str
    wall: float
    run: Run


def spec(store: str) -> str:
    """Return the spec that packs the pair with one recipe for all roles."""
    rules = ", ".join(f"{{of: {role}, store: {store}}}" for role in ROLES)
    return f"name: bench\nbase: ./base\npack: {{tuned: ./a, rules: [{rules}]}}\n"


def timed(name: str, command: Sequence[str | Path], folder: Path) -> Row:
    env = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    start = time.perf_counter()
    run = measured(command, folder, env)
    return Row(name, time.perf_counter() - start, run)


def bench(folder: Path, recipes: Sequence[str]) -> list[Row]:
    """Return start, copy and the recipes, in this order."""
    rows = [timed("start", [sys.executable, "-c", START], folder)]
    rows.append(timed("copy", [sys.executable, "-c", COPY], folder))
    for name in recipes:
        (folder / "bench.yaml").write_text(spec(RECIPES[name]), "utf-8")
        command = [sys.executable, "-m", "archspec", "pack", "bench.yaml", "-o", "pack.safetensors", "--json"]
        rows.append(timed(name, command, folder))
        (folder / "pack.safetensors").unlink()
    return rows


def table(rows: Sequence[Row], width: int) -> str:
    """Return a Markdown table; memory is what is over that of the start, in largest tensors as float32."""
    sizes = [2 * prod(shape) for _, shape in tensors(width)]
    whole, largest, (start, copy) = 2 * sum(sizes), 2 * max(sizes), rows[:2]
    lines = [
        f"Both models: {whole / 1e9:.2f} GB; largest tensor {largest / 1e6:.0f} MB as float32.\n",
        "| | wall s | CPU s | GB/s | of the copy's | peak, MB | over the start, in largest tensors |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        speed = "" if row is start else f"{whole / row.wall / 1e9:.3f}"
        part = "" if row is start else f"{copy.wall / row.wall:.3f}"
        over = "" if row in (start, copy) else f"{(row.run.peak - start.run.peak) / largest:.2f}"
        figures = f"{row.wall:.1f} | {row.run.seconds:.1f} | {speed} | {part} | {row.run.peak / 1e6:.0f} | {over}"
        lines.append(f"| {row.name} | {figures} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--out", type=Path, help="also write the table here")
    parser.add_argument("--scratch", type=Path, help="folder for the models [default: the system's]")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.scratch) as name:
        write_models(Path(name), options.width)
        found = table(bench(Path(name), tuple(RECIPES)), options.width)
    print(found)
    if options.out:
        options.out.write_text(found + "\n")


if __name__ == "__main__":
    main()
