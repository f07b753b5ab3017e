"""`archspec pack` and `archspec attach` on a synthetic pair in bf16: bytes per second beside a plain copy, peak memory
beside a tensor's.

    python -m benchmarks.bench_pack [--width 384 768] [--out FILE.md]

A Llama and a tuned variant of it are written (twice 0.4 GB at width 768). Then every recipe packs the pair once and the
pack is put on the base, each as a process of its own, beside processes that do nothing but copy what is read: both
models, or the base. Memory is the peak of RssAnon, sampled: mapped files are not counted. `start` is a process that
only imports the same. The last two recipes measure errors to share out a budget, the second those of outputs on random
tokens.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from math import prod
from pathlib import Path

import numpy as np

from benchmarks import bench_merge
from benchmarks.bench_merge import ROOT, Run, measured, tensors, write_models

ROLES = ("embed", "attn", "mlp", "norm")


def _all(store: str) -> str:
    return "rules: [" + ", ".join(f"{{of: {role}, store: {store}}}" for role in ROLES) + "]"


RECIPES = {
    "dense (F16)": _all("[dense]"),
    "sign": _all("[sign]"),
    "quantize, 4 bits": _all("[{op: quantize, bits: 4}]"),
    "prune, 2 %": _all("[{op: prune, keep: 2%}]"),
    "budget, 5 %": "budget: 5%",
    "budget, 5 %, calibrated": "budget: 5%, calibrate: {data: tokens.jsonl, samples: 16, length: 64}",
}
"""Stanzas of a pack, beside `tuned`."""
COPY = "import shutil, sys; [shutil.copytree(name, f'copy-{len(sys.argv)}/{name}') for name in sys.argv[1:]]"
START = "import archspec.compiler.packing.pack, transformers"


@dataclass(frozen=True)
class Row:
    """`wall` seconds; `run` has CPU seconds and the peak."""

    name: str
    wall: float
    run: Run


def write_pair(folder: Path, width: int) -> None:
    """Write base and variants, and random tokens to calibrate on."""
    write_models(folder, width)
    ids = np.random.default_rng(0).integers(bench_merge.VOCABULARY, size=(16, 64))
    (folder / "tokens.jsonl").write_text("".join(json.dumps({"input_ids": row.tolist()}) + "\n" for row in ids))


def spec(stanza: str) -> str:
    """Return the spec that packs the pair."""
    return f"name: bench\nbase: ./base\npack: {{tuned: ./a, {stanza}}}\n"


def timed(name: str, command: Sequence[str | Path], folder: Path) -> Row:
    env = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    start = time.perf_counter()
    run = measured(command, folder, env)
    return Row(name, time.perf_counter() - start, run)


def bench(folder: Path, recipes: Sequence[str]) -> Iterator[Row]:
    """Yield start, both copies and of each recipe the packing and the attaching, in this order, when it is done."""
    own = [sys.executable, "-m", "archspec"]
    yield timed("start", [sys.executable, "-c", START], folder)
    yield timed("copy of both", [sys.executable, "-c", COPY, "base", "a"], folder)
    yield timed("copy of the base", [sys.executable, "-c", COPY, "base"], folder)
    for name in recipes:
        (folder / "bench.yaml").write_text(spec(RECIPES[name]), "utf-8")
        yield timed(name, [*own, "pack", "bench.yaml", "-o", "pack.safetensors", "--json"], folder)
        yield timed(f"{name}: attach", [*own, "attach", "base", "pack.safetensors", "-o", "on", "--json"], folder)
        (folder / "pack.safetensors").unlink()
        shutil.rmtree(folder / "on")


def table(rows: Iterable[Row], width: int) -> Iterator[str]:
    """Yield the lines of a Markdown table as rows come; memory is what is over that of the start, in largest tensors as
    float32. Packing reads two models, attaching one."""
    sizes = [2 * prod(shape) for _, shape in tensors(width)]
    one, largest = sum(sizes), 2 * max(sizes)
    yield f"Width {width}: {2 * one / 1e9:.2f} GB both models; largest tensor {largest / 1e6:.0f} MB as float32.\n"
    yield "| | wall s | CPU s | GB/s | of the copy's | peak, MB | over the start, in largest tensors |"
    yield "|---|---|---|---|---|---|---|"
    rows = iter(rows)
    start, both, base = islice(rows, 3)
    for row in chain((start, both, base), rows):
        attaching = row is base or row.name.endswith("attach")
        read, copy = (one, base) if attaching else (2 * one, both)
        speed = "" if row is start else f"{read / row.wall / 1e9:.3f}"
        part = "" if row is start else f"{copy.wall / row.wall:.3f}"
        over = "" if row in (start, both, base) else f"{(row.run.peak - start.run.peak) / largest:.2f}"
        figures = f"{row.wall:.1f} | {row.run.seconds:.1f} | {speed} | {part} | {row.run.peak / 1e6:.0f} | {over}"
        yield f"| {row.name} | {figures} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, nargs="+", default=[384, 768])
    parser.add_argument("--out", type=Path, help="also write the tables here")
    parser.add_argument("--scratch", type=Path, help="folder for the models [default: the system's]")
    options = parser.parse_args()
    found: list[str] = []
    for width in options.width:
        with tempfile.TemporaryDirectory(dir=options.scratch) as name:
            write_pair(Path(name), width)
            for line in table(bench(Path(name), tuple(RECIPES)), width):
                print(line, flush=True)
                found.append(line)
        found.append("")
    if options.out:
        options.out.write_text("\n".join(found))


if __name__ == "__main__":
    main()
