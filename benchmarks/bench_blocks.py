"""Time of one transformer block of DiT-XL/2 and PixArt-Sigma, as it is and grafted, beside what FLOPs predict.

    python -m benchmarks.bench_blocks [--tokens 256 1024 4096 16384] [--out table.md]

A block is that of the published config (specs/hosts), with random weights, compiled from an edit as specs have it, and
called as its host calls it: norms, gates, cross attention and MLP are in it. All are called in turn (`rounds.py`), on
one thread, in float32, without gradients. `x` is time over the host's block, `FLOPs` the same ratio of counted FLOPs.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch

from archspec.compiler.capture.model import build_structure, randomize
from archspec.compiler.pricing.meter import measure
from archspec.families import describe
from archspec.language.parse import parse
from archspec.runtime.families import family
from archspec.runtime.learn.taps import Tap, record
from archspec.runtime.model.apply import apply
from archspec.semantics.lower import lower
from archspec.semantics.resolve import resolve
from archspec.source import Source
from benchmarks.rounds import Case, table, take_turns

HOSTS = Path(__file__).parents[1] / "specs" / "hosts"
CONFIGS: Mapping[str, Path] = {
    "DiT-XL/2": HOSTS / "dit-xl-2-256" / "transformer",
    "PixArt-Sigma": HOSTS / "pixart-sigma-xl-2-2k" / "transformer",
}
EDITS: Mapping[str, Sequence[str]] = {
    "host": (),
    "hyena_x": ("{replace: 'blocks[0].attn', with: {op: hyena_x, kernel: 4}}",),
    "local_attention": ("{replace: 'blocks[0].attn', with: {op: local_attention, window: 4}}",),
    "linear_attention": ("{replace: 'blocks[0].attn', with: linear_attention}",),
    "mamba2": ("{replace: 'blocks[0].attn', with: mamba2}",),
    "mlp r=3": ("{replace: 'blocks[0].mlp', with: {op: mlp, ratio: 3}}",),
    "hyena_x, mlp r=3": (
        "{replace: 'blocks[0].attn', with: {op: hyena_x, kernel: 4}}",
        "{replace: 'blocks[0].mlp', with: {op: mlp, ratio: 3}}",
    ),
}
BLOCK = "transformer_blocks.0"
ENOUGH, MOST = 1.0, 7
"""Seconds per block and number of tokens after which no more rounds are made, and the most rounds."""


def config_of(host: str) -> dict[str, Any]:
    """Return the published config, of one block."""
    found: dict[str, Any] = json.loads((CONFIGS[host] / "config.json").read_text("utf-8"))
    return {**found, "num_layers": 1}


def case_of(name: str, config: Mapping[str, Any], tokens: int) -> Case:
    edits = "".join(f"  - {edit}\n" for edit in EDITS[name])
    text = "archspec: 1\nname: x\nbase: a/b\n" + (f"edits:\n{edits}" if edits else "")
    resolved = resolve(parse(Source("spec.yaml", text)), describe(config))
    structure = resolved.structure
    model = apply(build_structure(structure, "cpu"), lower(resolved)).eval().requires_grad_(False)
    randomize(model, 0)
    example = family(structure.family).example(model, tokens=tokens)
    call, block = record(model, [Tap.at(BLOCK)], example)[BLOCK], model.get_submodule(BLOCK)
    return Case(name, lambda: block(*call.args, **call.kwargs), measure(model, example).at(BLOCK).flops)


@torch.no_grad()
def compare(host: str, tokens: int) -> list[Case]:
    cases = [case_of(name, config_of(host), tokens) for name in EDITS]  # making one calls its block once
    take_turns(cases, ENOUGH, MOST)
    return cases


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, nargs="+", default=[256, 1024, 4096, 16384])
    parser.add_argument("--out", type=Path, help="also write the tables to this file")
    options = parser.parse_args()
    torch.set_num_threads(1)
    parts = [f"torch {torch.__version__}, {platform.machine()}, one thread, float32"]
    for host in CONFIGS:
        results: dict[int, list[Case]] = {}
        for tokens in options.tokens:
            results[tokens] = compare(host, tokens)
            print(f"{host}, {tokens:,} tokens: done", flush=True)
        parts.append(f"One block of {host}\n\n{table('block', results)}")
    text = "\n\n".join(parts) + "\n"
    print(text)
    if options.out:
        options.out.write_text(text, "utf-8")


if __name__ == "__main__":
    main()
