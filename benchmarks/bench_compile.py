"""Compile a DiT-XL/2 with 14 grafted attentions, beside `cp` of the same file and a hand-written torch script.

    python benchmarks/bench_compile.py [--runs 3] [--folder FOLDER] [--out FILE.md]

The host has the config of facebook/DiT-XL-2-256 as diffusers has it and random fp32 weights (750M parameters, 3.0 GB).
All contenders run in turn, in one process each, round by round, with one torch thread. Of each: CPU seconds (user and
system) of the process, wall seconds, and the peak of its anonymous memory, sampled from /proc; medians over the
rounds. `start-up` imports what any user of the host imports and leaves: no work on the model can be quicker.
`--link` writes the new tensors alone.

The torch script is what one would write by hand: load, swap the modules, save. It proves, prices and records nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
CONFIG = {
    "_class_name": "DiTTransformer2DModel",
    "activation_fn": "gelu-approximate",
    "attention_bias": True,
    "attention_head_dim": 72,
    "in_channels": 4,
    "norm_elementwise_affine": False,
    "norm_type": "ada_norm_zero",
    "num_attention_heads": 16,
    "num_embeds_ada_norm": 1000,
    "num_layers": 28,
    "out_channels": 8,
    "patch_size": 2,
    "sample_size": 32,
}
SPEC = """archspec: 1
name: bench-compile
base: ./host
edits:
  - {replace: "blocks[1::2].attn", with: {op: hyena_x, kernel: 4}, init: random}
expect:
  - depth == 28
  - sites(blocks[1::2].attn) == 14
"""
SCRIPT = """
import sys, torch
from diffusers import DiTTransformer2DModel
from archspec.operators import signature
from archspec.runtime.operators.hyena_x import HyenaX
from archspec.host.structure import SiteShape
model = DiTTransformer2DModel.from_pretrained(sys.argv[1])
shape = SiteShape(width=1152, tokens=256, grid=(16, 16), heads=16, head_dim=72)
for block in model.transformer_blocks[1::2]:
    block.attn1 = HyenaX(signature("hyena_x")(kernel=4).complete(shape), shape)
model.save_pretrained(sys.argv[2], max_shard_size="10GB")
"""
STARTUP = "from diffusers import DiTTransformer2DModel"
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}


@dataclass(frozen=True)
class Run:
    """CPU and wall in seconds, peak of anonymous memory in bytes."""

    cpu: float
    wall: float
    anonymous: int


def make_host(folder: Path) -> Path:
    """Write the host once: config and weights, one tensor in memory at a time."""
    import torch

    from archspec.runtime.model.hosts import build
    from archspec.runtime.store.checkpoint import Piece, Writer, shards

    host = folder / "host"
    if (host / "done").exists():
        return host
    host.mkdir(parents=True, exist_ok=True)
    model = build(CONFIG, "diffusers", "DiTTransformer2DModel")
    pieces = [Piece(name, "F32", tuple(p.shape)) for name, p in model.named_parameters()]
    generator = torch.Generator().manual_seed(0)
    with Writer(host, shards(pieces, {}, "diffusion_pytorch_model")) as writer:
        for piece in pieces:
            writer.put(piece.name, torch.randn(piece.shape, generator=generator).mul_(0.02))
    (host / "config.json").write_text(json.dumps(CONFIG, indent=2))
    (host / "done").touch()
    return host


def measure(command: Sequence[str], cwd: Path) -> Run:
    """Run a command to its end and return what it cost."""
    start = time.perf_counter()
    process = subprocess.Popen(command, cwd=cwd, env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    peak = 0
    while True:
        done, status, usage = os.wait4(process.pid, os.WNOHANG)
        if done:
            break
        peak = max(peak, anonymous(process.pid))
        time.sleep(0.02)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} failed with {process.returncode}")
    return Run(usage.ru_utime + usage.ru_stime, time.perf_counter() - start, peak)


def anonymous(pid: int) -> int:
    """Return the anonymous resident bytes of a process; 0 when it is gone."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon")), 0)


def contenders(folder: Path) -> dict[str, list[str]]:
    """Return name -> command; each writes to `folder/out`, which is removed before."""
    weights = "host/diffusion_pytorch_model.safetensors"
    cli = [sys.executable, "-m", "archspec"]
    return {
        "cp": ["cp", weights, "out"],
        "start-up": [sys.executable, "-c", STARTUP],
        "archspec compile --link": [*cli, "compile", "spec.yaml", "-o", "out", "--link", "--json"],
        "archspec compile": [*cli, "compile", "spec.yaml", "-o", "out", "--json"],
        "torch script": [sys.executable, "-c", SCRIPT, "host", "out"],
    }


def table(runs: dict[str, list[Run]]) -> str:
    """Return the Markdown table of medians, with ratios to `cp`."""
    cp = statistics.median(run.cpu for run in runs["cp"])
    lines = ["| | CPU s | wall s | anonymous peak | CPU / cp |", "| --- | ---: | ---: | ---: | ---: |"]
    for name, found in runs.items():
        cpu, wall = (statistics.median(getattr(run, key) for run in found) for key in ("cpu", "wall"))
        spread = f"{min(r.cpu for r in found):.1f} to {max(r.cpu for r in found):.1f}"
        memory = max(run.anonymous for run in found) / 1e6
        lines.append(f"| {name} | {cpu:.1f} ({spread}) | {wall:.1f} | {memory:.0f} MB | {cpu / cp:.1f} |")
    return "\n".join(lines)


def verdict(runs: dict[str, list[Run]]) -> str:
    """Hold the medians against the aims."""
    cpu = {name: statistics.median(run.cpu for run in found) for name, found in runs.items()}
    beyond = cpu["archspec compile"] - cpu["start-up"]
    writing = cpu["archspec compile"] - cpu["archspec compile --link"]
    memory = max(run.anonymous for run in runs["archspec compile"]) / 1e6
    return (
        f"beyond start-up a compile took {beyond:.1f} CPU s, {beyond / cpu['cp']:.2f} x cp (aim 1.3); what writing "
        f"the weights adds to --link is {writing:.1f} s, {writing / cpu['cp']:.2f} x cp; "
        f"{memory:.0f} MB anonymous (aim 500)"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "archspec-bench")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    sys.path.insert(0, str(ROOT))
    folder: Path = options.folder
    make_host(folder)
    (folder / "spec.yaml").write_text(SPEC)
    runs: dict[str, list[Run]] = {name: [] for name in contenders(folder)}
    for _ in range(options.runs):
        for name, command in contenders(folder).items():
            out = folder / "out"
            shutil.rmtree(out, ignore_errors=True)
            out.unlink(missing_ok=True)
            runs[name].append(measure(command, folder))
    text = f"{table(runs)}\n\n{verdict(runs)}"
    print(text)
    if options.out:
        options.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
