"""Time and memory of windowed attention beside masked and full attention, at growing numbers of tokens.

    python benchmarks/bench_local_attention.py [--tokens 1024 4096 16384] [--device cuda] [--json]

Each case runs in a process of its own, so that its peak memory is its own: on the CPU resident memory over what was
resident before the call, on CUDA torch's own count. `windowed` is what the operator runs; `masked` the fused kernel
with a tokens x tokens boolean mask; `full` the fused kernel without one (another result: the floor of softmax
attention over everything). Seconds are the median of the repeats. The first two must agree, and are checked to.
"""

from __future__ import annotations

import argparse
import json
import math
import resource
import statistics
import subprocess
import sys
import time
from typing import Any

CASES = {"band 4": (4, False), "band 256": (256, False), "square 2": (2, True), "square 8": (8, True)}
HEADS, SIZE = 16, 72
"""Those of DiT-XL/2 and of PixArt."""


def measure(form: str, case: str, tokens: int, device: str, repeats: int) -> dict[str, Any]:
    """Run one case in this process."""
    import torch

    from archspec.runtime.operators.scores import fused
    from archspec.runtime.operators.windows import Axis, dense, window_attention

    window, square = CASES[case]
    side = math.isqrt(tokens) if square else tokens
    rows = Axis(side, side, window, window)
    columns = rows if square else Axis(1, 1, 0, 0)
    torch.manual_seed(0)
    with torch.no_grad():
        q, k, v = torch.randn(3, 1, HEADS, tokens, SIZE, device=device).unbind(0)
        before = _peak(device)
        mask = dense(rows, columns, q.device)[None, None] if form == "masked" else None

        def call() -> torch.Tensor:
            return window_attention(q, k, v, rows, columns, None) if form == "windowed" else fused(q, k, v, mask)

        seconds = []
        for _ in range(repeats):
            start = time.perf_counter()
            y = call()
            if device == "cuda":
                torch.cuda.synchronize()
            seconds.append(time.perf_counter() - start)
    return {
        "seconds": statistics.median(seconds),
        "mib": (_peak(device) - before) / 2**20,
        "sum": float(y.double().abs().mean()),
    }


def _peak(device: str) -> float:
    """Return the peak of this process, in bytes."""
    if device == "cuda":
        import torch

        return torch.cuda.max_memory_allocated()
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, nargs="+", default=[1024, 4096, 16384])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", action="store_true", help="print one JSON object a line")
    parser.add_argument("--one", nargs=2, metavar=("FORM", "CASE"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        form, case = options.one
        print(json.dumps(measure(form, case, options.tokens[0], options.device, options.repeats)))
        return
    for tokens in options.tokens:
        for case in CASES:
            results = {form: _apart(form, case, tokens, options) for form in ("windowed", "masked", "full")}
            if not math.isclose(results["windowed"]["sum"], results["masked"]["sum"], rel_tol=1e-5):
                sys.exit(f"{case} at {tokens} tokens: windowed and masked attention differ")
            _report(tokens, case, results, options.json)


def _apart(form: str, case: str, tokens: int, options: argparse.Namespace) -> dict[str, Any]:
    common = ["--tokens", str(tokens), "--device", options.device, "--repeats", str(options.repeats)]
    command = [sys.executable, __file__, *common, "--one", form, case]
    found: dict[str, Any] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return found


def _report(tokens: int, case: str, results: dict[str, dict[str, Any]], as_json: bool) -> None:
    if as_json:
        print(json.dumps({"tokens": tokens, "case": case, **results}), flush=True)
        return
    cells = [f"{form} {r['seconds'] * 1000:8.1f} ms {r['mib']:7.0f} MiB" for form, r in results.items()]
    print(f"{tokens:6} tokens  {case:9} | " + " | ".join(cells), flush=True)


if __name__ == "__main__":
    main()
