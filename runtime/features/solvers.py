"""Solvers of rectified flow as schedulers of diffusers, so that every pipeline runs them: dx/dt = v(x, t), t from 1
(noise) to 0.

A scheduler's `timesteps` are the times at which the host is evaluated, `step` takes the velocity there and returns the
sample at the next of them, after the last the result. The grid of times (shifts, sigmas of one's own) is that of
diffusers' FlowMatchEulerDiscreteScheduler; `inverted()` gives the same solver from 0 to 1, which turns a sample into
the noise that leads to it.

| solver | evaluations of n steps | order |
|---|---|---|
| `EulerScheduler` | n | 1 |
| `MidpointScheduler` | 2 n | 2 |
| `FireFlowScheduler` | n + 1 | 2: each step's midpoint is reached by the velocity at the last one |
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, Self

import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from diffusers.schedulers.scheduling_flow_match_euler_discrete import FlowMatchEulerDiscreteSchedulerOutput
from torch import Tensor

Evaluation = tuple[int, str]
"""(step, `first`, `last` or `only` of its evaluations)"""


class FlowSolver(FlowMatchEulerDiscreteScheduler, ABC):  # type: ignore[misc]
    """What the solvers share. `grid` (steps + 1,): times from noise to clean, or back when inverted."""

    order = 1
    backwards = False

    def inverted(self) -> Self:
        """Return a copy that goes from clean to noise over the same times."""
        other = copy.deepcopy(self)
        other.backwards = True
        return other

    def set_timesteps(
        self,
        num_inference_steps: int | None = None,
        device: Any = None,
        sigmas: Any = None,
        mu: float | None = None,
        timesteps: Any = None,
    ) -> None:
        """As diffusers' own, then the times of evaluations in place of those of steps. FLUX's pipeline looks at the
        names here before it states its own sigmas."""
        super().set_timesteps(num_inference_steps, device, sigmas, mu, timesteps)
        self.grid: Tensor = self.sigmas.flip(0) if self.backwards else self.sigmas
        times = self._times(self.grid)
        self.timesteps = times * self.config.num_train_timesteps
        self._base: Tensor | None = None
        self._number = 0

    @staticmethod
    @abstractmethod
    def evaluations(steps: int) -> tuple[Evaluation, ...]:
        """Return the step of every evaluation."""

    @abstractmethod
    def _times(self, grid: Tensor) -> Tensor:
        """Return the times of evaluations over the times of steps."""

    @abstractmethod
    def _next(self, velocity: Tensor, sample: Tensor, number: int) -> Tensor:
        """Return the sample at the time after evaluation `number`."""

    def step(
        self, model_output: Tensor, timestep: Any, sample: Tensor, *args: Any, return_dict: bool = True, **keywords: Any
    ) -> Any:
        """Return the sample at the next time, computed in float32."""
        if self._base is None:
            self._base = sample.float()
        found = self._next(model_output.float(), sample.float(), self._number).to(model_output.dtype)
        self._number += 1
        return FlowMatchEulerDiscreteSchedulerOutput(prev_sample=found) if return_dict else (found,)

    def _half(self, step: int, velocity: Tensor) -> Tensor:
        """Return half of step `step`."""
        return (self.grid[step + 1] - self.grid[step]).to(velocity) / 2 * velocity

    def _advance(self, velocity: Tensor, step: int) -> Tensor:
        """Take step `step` whole with one velocity."""
        assert self._base is not None
        self._base = self._base + (self.grid[step + 1] - self.grid[step]).to(velocity) * velocity
        return self._base


class EulerScheduler(FlowSolver):
    """x' = x + dt v(x, t)."""

    @staticmethod
    def evaluations(steps: int) -> tuple[Evaluation, ...]:
        return tuple((step, "only") for step in range(steps))

    def _times(self, grid: Tensor) -> Tensor:
        return grid[:-1]

    def _next(self, velocity: Tensor, sample: Tensor, number: int) -> Tensor:
        return self._advance(velocity, number)


class MidpointScheduler(FlowSolver):
    """x' = x + dt v(x + dt/2 v(x, t), t + dt/2)."""

    order = 2

    @staticmethod
    def evaluations(steps: int) -> tuple[Evaluation, ...]:
        return tuple((step, word) for step in range(steps) for word in ("first", "last"))

    def _times(self, grid: Tensor) -> Tensor:
        return torch.stack([grid[:-1], _middles(grid)], dim=1).flatten()

    def _next(self, velocity: Tensor, sample: Tensor, number: int) -> Tensor:
        step, second = divmod(number, 2)
        if second:
            return self._advance(velocity, step)
        return sample + self._half(step, velocity)


class FireFlowScheduler(FlowSolver):
    """The midpoint rule whose first velocity is the one at the last step's midpoint (2412.07517, Sec. 3.3): one
    evaluation a step, and one more at the start."""

    order = 1

    @staticmethod
    def evaluations(steps: int) -> tuple[Evaluation, ...]:
        rest = ((step, "only") for step in range(1, steps))
        return ((0, "first"), (0, "last"), *rest)

    def _times(self, grid: Tensor) -> Tensor:
        return torch.cat([grid[:1], _middles(grid)])

    def _next(self, velocity: Tensor, sample: Tensor, number: int) -> Tensor:
        if number == 0:
            return sample + self._half(0, velocity)
        base = self._advance(velocity, number - 1)
        if number == len(self.grid) - 1:
            return base
        return base + self._half(number, velocity)


def _middles(grid: Tensor) -> Tensor:
    return (grid[:-1] + grid[1:]) / 2


SOLVERS: Mapping[str, type[FlowSolver]] = {
    "euler": EulerScheduler,
    "midpoint": MidpointScheduler,
    "fireflow": FireFlowScheduler,
}
