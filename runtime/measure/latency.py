"""Latency of models side by side: one forward pass each in turn, so that a busy machine slows all of them alike.

Median and quartiles over the rounds, after some rounds that do not count; the order is turned about every other round,
and an accelerator is waited for before the clock is read.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from statistics import quantiles

import torch

WARM_UP, ROUNDS = 5, 40


@dataclass(frozen=True)
class Latency:
    """Seconds per forward pass: median, and the quartiles around it."""

    median: float
    low: float
    high: float
    rounds: int

    def to_json(self) -> dict[str, float]:
        return asdict(self)


def compare_latency(
    runs: Mapping[str, Callable[[], object]], device: torch.device, rounds: int = ROUNDS, warm_up: int = WARM_UP
) -> dict[str, Latency]:
    """Time each callable `rounds` times, in turn."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    names = list(runs)
    for number in range(-warm_up, rounds):
        for name in names if number % 2 else reversed(names):
            spent = _time(runs[name], device)
            if number >= 0:
                times[name].append(spent)
    return {name: _summary(found) for name, found in times.items()}


def _time(run: Callable[[], object], device: torch.device) -> float:
    wait_for(device)
    start = time.perf_counter()
    run()
    wait_for(device)
    return time.perf_counter() - start


def wait_for(device: torch.device) -> None:
    """Wait until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def _summary(times: list[float]) -> Latency:
    low, median, high = quantiles(times, n=4, method="inclusive")
    return Latency(median, low, high, len(times))
