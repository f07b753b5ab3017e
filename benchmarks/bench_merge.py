"""`archspec merge` beside mergekit 0.1.5 on a random model of 0.79B parameters in bf16: CPU seconds, memory, agreement.

    python benchmarks/bench_merge.py [--methods linear,slerp,dare_ties,ties] [--width 1536] [--out FILE.md]

A base and three tuned variants (7 GB) are made, every method runs once on each side, one after the other, and the
results are compared. mergekit has an environment of its own, made by this script. CPU seconds are user plus system of a
whole process, start included (of mergekit that is about 10); memory is the peak of RssAnon, sampled: mapped files are
not counted. DARE draws at random, so its results are compared by the L1 norm of their difference from the base.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open

from archspec.runtime.store.checkpoint import Piece, Writer, shards

ROOT = Path(__file__).parents[1]
PEERS = ("torch==2.13.0", "mergekit==0.1.5")
METHODS = ("linear", "slerp", "dare_ties", "ties")
VARIANTS = ("a", "b", "c")
LAYERS, VOCABULARY = 22, 32_000


@dataclass(frozen=True)
class Run:
    seconds: float
    peak: int
    """Bytes of RssAnon."""


def config(width: int) -> dict[str, object]:
    """Return a Llama's config; width 1536 gives 0.79B parameters."""
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": VOCABULARY,
        "hidden_size": width,
        "intermediate_size": 4 * width,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": 12,
        "num_key_value_heads": 2,
        "head_dim": width // 12,
        "tie_word_embeddings": True,
        "dtype": "bfloat16",
    }


def tensors(width: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield "model.embed_tokens.weight", (VOCABULARY, width)
    for i in range(LAYERS):
        path = f"model.layers.{i}"
        for name in ("q_proj", "o_proj"):
            yield f"{path}.self_attn.{name}.weight", (width, width)
        for name in ("k_proj", "v_proj"):
            yield f"{path}.self_attn.{name}.weight", (width // 6, width)
        for name in ("gate_proj", "up_proj"):
            yield f"{path}.mlp.{name}.weight", (4 * width, width)
        yield f"{path}.mlp.down_proj.weight", (width, 4 * width)
        for name in ("input_layernorm", "post_attention_layernorm"):
            yield f"{path}.{name}.weight", (width,)
    yield "model.norm.weight", (width,)


def write_models(folder: Path, width: int) -> None:
    """Write the base and its variants, whose deltas are a tenth of it."""
    shapes = dict(tensors(width))
    for number, name in enumerate(("base", *VARIANTS)):
        (folder / name).mkdir()
        (folder / name / "config.json").write_text(json.dumps(config(width)))
        with Writer(folder / name, shards([Piece(n, "BF16", s) for n, s in shapes.items()], {}, "model")) as writer:
            for place, (tensor, shape) in enumerate(shapes.items()):
                writer.put(tensor, _drawn(shape, place, number))


def _drawn(shape: tuple[int, ...], place: int, number: int) -> torch.Tensor:
    values = torch.randn(shape, generator=torch.Generator().manual_seed(place)).mul_(0.02)
    if number:
        values += 0.002 * torch.randn(shape, generator=torch.Generator().manual_seed(1000 * number + place))
    return values.to(torch.bfloat16)


def configuration(method: str) -> str:
    """Return the configuration of one method, three models (SLERP: two)."""
    own = {"linear": "{weight: 1.0}", "ties": "{weight: 1.0, density: 0.5}", "dare_ties": "{weight: 0.5, density: 0.5}"}
    names = VARIANTS[:1] if method == "slerp" else VARIANTS
    lines = [f"merge_method: {method}", *([] if method == "linear" else ["base_model: ./base"]), "models:"]
    for name in names:
        lines += [f"  - model: ./{name}", *([f"    parameters: {own[method]}"] if method in own else [])]
    lines += ["parameters: {t: 0.4}"] if method == "slerp" else []
    return "\n".join([*lines, "dtype: bfloat16", ""])


def install_peers(home: Path) -> Path:
    """Return mergekit's command; installs it when it is missing."""
    command = home / "bin" / "mergekit-yaml"
    if not command.exists():
        venv.create(home, with_pip=True)
        subprocess.run([home / "bin" / "python", "-m", "pip", "install", "--quiet", *PEERS], check=True)
    return command


def measured(command: Sequence[str | Path], folder: Path, env: dict[str, str]) -> Run:
    """Run a command that must succeed; sample its anonymous memory."""
    before, peak = os.times(), 0
    with (folder / "output.txt").open("w") as output:
        child = subprocess.Popen(command, cwd=folder, env=env, stdout=output, stderr=subprocess.STDOUT)
        while child.poll() is None:
            peak = max(peak, _anonymous(child.pid))
            time.sleep(0.02)
    after = os.times()
    if child.returncode:
        raise SystemExit(f"{' '.join(map(str, command))} failed:\n{(folder / 'output.txt').read_text()}")
    return Run(after.children_user + after.children_system - before.children_user - before.children_system, peak)


def _anonymous(process: int) -> int:
    try:
        status = Path(f"/proc/{process}/status").read_text()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("RssAnon")), 0)


def compared(folder: Path, method: str) -> str:
    """Say how two results differ, tensor by tensor."""
    worst, other, count, norms = 0.0, 0, 0, [0.0, 0.0]
    with _opened(folder / "ours") as ours, _opened(folder / "theirs") as theirs, _opened(folder / "base") as base:
        if set(ours.keys()) != set(theirs.keys()):
            return "other tensors"
        for name in sorted(ours.keys()):
            a, b, c = (file.get_tensor(name).flatten().float() for file in (ours, theirs, base))
            for number, part in enumerate((a, b)):
                norms[number] += float((part - c).abs().sum())
            difference = (a - b).abs_()
            worst = max(worst, float(difference.max() / b.abs().max()))
            other += int((difference > 2**-7 * b.abs() + 2**-9 * float(c.std())).sum())
            count += a.numel()
    if method.startswith("dare"):
        return f"L1 from the base {norms[0] / norms[1]:.5f} of mergekit's"
    return f"largest difference {worst:.1e} of the largest number; {100 * other / count:.4f} % beyond rounding"


def _opened(folder: Path) -> safe_open:
    (file,) = folder.glob("*.safetensors")
    return safe_open(file, framework="pt")


def bench(method: str, folder: Path, mergekit: Path) -> str:
    """Return the row of one method."""
    (folder / "merge.yaml").write_text(configuration(method))
    env = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    ours = measured([sys.executable, "-m", "archspec", "merge", "merge.yaml", "-o", "ours", "--json"], folder, env)
    theirs = measured([mergekit, "merge.yaml", "theirs"], folder, env | {"PYTHONPATH": ""})
    verdict = compared(folder, method)
    for name in ("ours", "theirs"):
        shutil.rmtree(folder / name)
    figures = f"{ours.seconds:.1f} | {theirs.seconds:.1f} | {theirs.seconds / ours.seconds:.1f} x"
    return f"| {method} | {figures} | {ours.peak / 1e6:.0f} | {theirs.peak / 1e6:.0f} | {verdict} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--width", type=int, default=1536)
    parser.add_argument("--out", type=Path, help="also write the table here")
    parser.add_argument("--scratch", type=Path, help="folder for the models [default: the system's]")
    parser.add_argument("--peers", type=Path, default=ROOT / "out" / "bench-mergekit", help="environment of mergekit")
    options = parser.parse_args()
    mergekit = install_peers(options.peers)
    lines = [
        "| method | ours, CPU s | mergekit, CPU s | ratio | ours, MB | mergekit, MB | results |",
        "|---|---|---|---|---|---|---|",
    ]
    with tempfile.TemporaryDirectory(dir=options.scratch) as name:
        write_models(Path(name), options.width)
        for method in options.methods.split(","):
            lines.append(bench(method, Path(name), mergekit))
            print(lines[-1], flush=True)
    print("\n".join(lines))
    if options.out:
        options.out.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
