"""Cost of a grafted step beside a plain one at FLUX's block shape: time, and peak memory.

    python -m benchmarks.bench_features [--tokens 1024 4096] [--rounds 3] [--out table.md]

The model is diffusers' FluxTransformer2DModel with the widths of FLUX.1 dev and one block of either kind, random
weights, float32, one thread, 512 tokens of text. All forms are called in turn; times are CPU seconds, memory is what a
call adds to what stands before it at its resident peak (reset by /proc/self/clear_refs, so on Linux).

    plain       one target
    two rows    target and donor in one batch, nothing grafted: what the branches alone cost
    grafted     FreeGraftor's operation in both blocks, matching in both (chunks of 1,024)
    unchunked   the same, all cosines at once
    cached      the same with the donor's tokens in the cache: no donor's row
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import os
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch

from archspec.injection import Donor, Gate, Graft, Injection, Match
from archspec.quantity import quantity
from archspec.runtime.families import family
from archspec.runtime.features.donors import DonorInput, Trajectory
from archspec.runtime.features.injecting import inject

SITES = ("transformer_blocks.0.attn", "single_transformer_blocks.0.attn")
GATE = Gate(dropout=0.4)


@dataclass
class Form:
    name: str
    call: Callable[[], object]
    seconds: list[float] = field(default_factory=list)
    peaks: list[int] = field(default_factory=list)

    @property
    def best(self) -> float:
        return min(self.seconds)

    @property
    def peak(self) -> int:
        return min(self.peaks)


def make_host() -> Any:
    from diffusers import FluxTransformer2DModel

    torch.manual_seed(0)
    host = FluxTransformer2DModel(num_layers=1, num_single_layers=1, guidance_embeds=True)
    return host.eval().requires_grad_(False)


def forms(host: Any, tokens: int) -> list[Form]:
    both = family("flux").example(host, 2, tokens, seed=1)
    both["timestep"] = torch.full((2,), 0.5)
    one = {k: v[:1] if v.ndim and k not in ("img_ids", "txt_ids") else v for k, v in both.items()}
    condition = {k: v[1:] for k, v in both.items() if k in ("encoder_hidden_states", "pooled_projections", "guidance")}
    donor = DonorInput(Trajectory({0.5: both["hidden_states"][1:]}), condition)

    def grafted(chunk: int, cache: int = 0) -> Callable[[], object]:
        match = Match(threshold=0.0, cycle=1.5, chunk=chunk)
        graft = Graft("append", SITES, ("it",), match=match, gate=GATE, position="matched")
        context = inject(host, Injection((graft,), {"it": Donor()}, cache=cache), {"it": donor})

        def call() -> object:
            with context:
                return host(**one)

        return call

    return [
        Form("plain", lambda: host(**one)),
        Form("two rows", lambda: host(**both)),
        Form("grafted", grafted(1024)),
        Form("unchunked", grafted(tokens)),
        Form("cached", grafted(1024, 2**33)),
    ]


def measure(form: Form) -> None:
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    before, start = resident("VmRSS"), time.process_time()
    answer = form.call()
    form.seconds.append(time.process_time() - start)
    form.peaks.append(resident("VmHWM") - before)
    del answer


def resident(name: str) -> int:
    """Return a line of /proc/self/status, bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))


@torch.no_grad()
def compare(host: Any, tokens: int, rounds: int) -> list[Form]:
    found = forms(host, tokens)
    for form in found:
        form.call()
    for _ in range(rounds):
        for form in found:
            measure(form)
    return found


def page(results: dict[int, list[Form]]) -> str:
    lines = [
        f"{platform.processor() or platform.machine()}, torch {torch.__version__}, one thread, float32.",
        "",
        "| tokens | form | CPU s | x plain | peak memory | x two rows |",
        "|---|---|---|---|---|---|",
    ]
    for tokens, found in results.items():
        plain, two = found[0], found[1]
        for form in found:
            times = f"{form.best:.2f} | {form.best / plain.best:.2f}"
            lines.append(f"| {tokens:,} | {form.name} | {times} | {_memory(form, two)} |")
    return "\n".join(lines) + "\n"


def _memory(form: Form, two: Form) -> str:
    return f"{quantity(form.peak, 'bytes')} | {form.peak / two.peak:.2f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, nargs="+", default=[1024, 4096])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    host = make_host()
    text = page({tokens: compare(host, tokens, options.rounds) for tokens in options.tokens})
    print(text)
    if options.out:
        options.out.write_text(text, "utf-8")


if __name__ == "__main__":
    main()
