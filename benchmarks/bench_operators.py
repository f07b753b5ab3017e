"""Time of every operator of the attn slot beside attention's, at growing numbers of tokens, and what FLOPs predict.

    python -m benchmarks.bench_operators [--tokens 256 1024 4096 16384] [--operators hyena_x mamba2] [--out table.md]

The site is that of a DiT-XL/2 block: width 1152, 16 heads, tokens on a square grid. The operators are those of the
registry, with their defaults (a parameter without one has its documented example). All are called side by side, round
after round, on one thread and without gradients; a time is the least CPU time of the rounds, which other processes
disturb least. `x` is time over attention's of the same tokens; `FLOPs` the same ratio of the counted FLOPs (matrix
products, convolutions, attention kernels), so what lies between the two is bandwidth, element-wise work and how well
the products are shaped. Weights are random; time does not depend on them.
"""

from __future__ import annotations

import argparse
import math
import os
import platform
from collections.abc import Sequence
from dataclasses import MISSING
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch

from archspec.compiler.pricing.meter import measure
from archspec.host.structure import Port, SiteShape
from archspec.instructions import Install
from archspec.language.fields import declared
from archspec.operators import OPERATORS, signature
from archspec.runtime.operators import build_operator
from benchmarks.rounds import Case, table, take_turns

WIDTH, HEADS = 1152, 16
YARDSTICK = "attention"
ENOUGH, MOST = 0.5, 9
"""Seconds per operator and number of tokens after which no more rounds are made, and the most rounds."""


def config_of(name: str, site: SiteShape) -> Any:
    """Return the config with all defaults, completed by the site."""
    found = signature(name)
    needed = {f.name: f.metadata["example"] for f in declared(found) if f.default is MISSING}
    return found(**needed).complete(site)


def case_of(name: str, tokens: int, x: torch.Tensor) -> Case:
    side = math.isqrt(tokens)
    grid = (side, side) if side * side == tokens else None
    site = SiteShape(width=WIDTH, tokens=tokens, grid=grid, heads=HEADS, kv_heads=HEADS, head_dim=WIDTH // HEADS)
    config = config_of(name, site)
    operator = build_operator(Install("", "attn", name, 1, config.settings(), site, Port(), 0), "cpu").eval()
    example = {"hidden_states": torch.empty(1, tokens, WIDTH, device="meta")}
    return Case(name, lambda: operator(x), measure(operator, example).at("").flops)


def contenders(names: Sequence[str] | None) -> list[str]:
    """Return the operators of the attn slot that compute something, the yardstick first."""
    site = SiteShape(width=WIDTH, tokens=256, grid=(16, 16), heads=HEADS, kv_heads=HEADS, head_dim=WIDTH // HEADS)
    found = [
        name
        for name in OPERATORS
        if "attn" in signature(name).slots and config_of(name, site).tensors(site) and name in (names or OPERATORS)
    ]
    return [YARDSTICK, *(name for name in found if name != YARDSTICK)]


@torch.no_grad()
def compare(names: Sequence[str], tokens: int) -> list[Case]:
    torch.manual_seed(0)
    x = torch.randn(1, tokens, WIDTH)
    cases = [case_of(name, tokens, x) for name in names]
    if tokens <= 1024:
        for case in cases:
            case.call()  # the first calls set up kernels
    take_turns(cases, ENOUGH, MOST)
    return cases


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, nargs="+", default=[256, 1024, 4096, 16384])
    parser.add_argument("--operators", nargs="+", metavar="NAME", help="some of the registry's; attention always runs")
    parser.add_argument("--out", type=Path, help="also write the table to this file")
    options = parser.parse_args()
    if unknown := sorted(set(options.operators or ()) - set(OPERATORS)):
        parser.error(f"no such operator: {', '.join(unknown)}; there are {', '.join(OPERATORS)}")
    torch.set_num_threads(1)
    names, results = contenders(options.operators), {}
    for tokens in options.tokens:
        results[tokens] = compare(names, tokens)
        print(f"{tokens:,} tokens: done", flush=True)
    machine = f"torch {torch.__version__}, {platform.machine()}, one thread, float32, width {WIDTH}, {HEADS} heads"
    text = f"{machine}\n\n{table('operator', results)}\n"
    print(text)
    if options.out:
        options.out.write_text(text)


if __name__ == "__main__":
    main()
