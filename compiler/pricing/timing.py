"""How long a plan takes here: FLOPs over a measured rate, as a range.

The rate is that of large float32 products, measured in a fraction of a second when it is asked for; a plan's file never
holds it. Tasks on the digits host (1.2 million parameters, one thread) reached 0.13 to 0.43 of it (docs/log.md). The
range leaves room on both sides, for machines that are busier and for models that are bound by arithmetic alone; on
these no plan has been timed yet.
"""

from __future__ import annotations

import time

SLOWEST, FASTEST = 0.1, 0.7
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

    >>> estimate(28 * 10**9, 10**12)
    (0.04, 0.28)
    """
    return flops / (rate * FASTEST), flops / (rate * SLOWEST)
