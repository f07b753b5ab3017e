"""Donors while a host runs: what stands in their rows at each time.

A donor's latents are in the form in which the host takes a sample. `Clean` shows them as they are, at time 0; `Noised`
mixed with one noise up to each time (reference-only attention); `Trajectory` along a recorded inversion, replayed
exactly: at a time that was not recorded it fails, since no latent is known there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from torch import Tensor

from archspec.diagnostics import fail

TOLERANCE = 1e-4
"""Largest difference of times that are taken for the same: a thousandth of a step of a thousand."""


class Latents(Protocol):
    """Latents (1, ...) of a donor at flow times."""

    def at(self, time: float) -> Tensor: ...

    def time(self, time: float) -> float:
        """Return the time that the host is told of the donor's row."""


@dataclass(frozen=True)
class Clean:
    latents: Tensor

    def at(self, time: float) -> Tensor:
        return self.latents

    def time(self, time: float) -> float:
        return 0.0


@dataclass(frozen=True)
class Noised:
    """`mix(latents, noise, time)`: as the host's task noises; default: rectified flow's straight line."""

    latents: Tensor
    noise: Tensor
    mix: Callable[[Tensor, Tensor, float], Tensor] = lambda x, noise, time: (1 - time) * x + time * noise

    def at(self, time: float) -> Tensor:
        return self.mix(self.latents, self.noise, time)

    def time(self, time: float) -> float:
        return time


@dataclass
class Trajectory:
    """Latents by time. `record` keeps them; the last recorded time is noise."""

    recorded: dict[float, Tensor] = field(default_factory=dict)

    def record(self, time: float, latents: Tensor) -> None:
        self.recorded[time] = latents

    @property
    def noise(self) -> Tensor:
        return self.recorded[max(self.recorded)]

    def at(self, time: float) -> Tensor:
        near = min(self.recorded, key=lambda known: abs(known - time))
        if abs(near - time) > TOLERANCE:
            hint = "invert with the solver, steps and scheduler that are sampled with"
            raise fail(
                "AS756", f"the donor's inversion has no latent at time {time:.4f}; the next is {near:.4f}", None, hint
            )
        return self.recorded[near]

    def time(self, time: float) -> float:
        return time


@dataclass(frozen=True)
class DonorInput:
    """A donor as it is given to a run. `condition`: the host's keywords beside sample and time, each of batch 1; what
    it leaves out is as for the last target.
    `mask`: (image tokens,) bool, on the CPU. `latents`: none of state batch."""

    latents: Latents | None = None
    condition: Mapping[str, Tensor] = field(default_factory=dict)
    mask: Tensor | None = None
