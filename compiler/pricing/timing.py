"""How long a plan takes here: FLOPs over a measured rate, as a range.

The rate is that of large float32 products, measured in a fraction of a second when it is asked for; a plan's file never
holds it. On one thread of a busy machine the rate itself was 34 to 90 GFLOPs per second from one moment to another, and
tasks on the digits host (1.2 million parameters) reached 0.13 to 0.43 of the highest and 0.25 to 1.2 of the lowest
(docs/log.md): that is the range. Plans of large models have not been timed.
"""

from __future__ import annotations

import time

SLOWEST, FASTEST = 0.1, 1.2
"""Part of the measured rate that a task reaches, at worst and at best."""
SIZE = 512


def measure_rate(seconds: float = 0.2) -> float:
    """Return the FLOPs per second of products of 512 x 512 matrices, on the device that a run would use."""
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    a = torch.eye(SIZE, device=device)
    done, start = 0, time.perf_counter()
    while time.perf_counter() - start < seconds:
        for _ in range(8):
            a = a @ a
        a.sum().item()  # waits for the device
        done += 8
    return done * 2 * SIZE**3 / (time.perf_counter() - start)


def estimate(flops: int, rate: float) -> tuple[float, float]:
    """Return the fewest and the most seconds that so many FLOPs take, at the measured rate.

    >>> estimate(12 * 10**9, 10**12)
    (0.01, 0.12)
    """
    return flops / (rate * FASTEST), flops / (rate * SLOWEST)
