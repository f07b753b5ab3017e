"""Solvers of a host's ordinary differential equation as schedulers of diffusers, so that every pipeline runs them.

Of a flow it is dx/dt = v(x, t), t from 1 (noise) to 0. Of a host that predicts noise it is dz/ds = e, where
z = x / alpha, s = sigma / alpha and e is the predicted noise (DDIM, 2010.02502, Sec. 4.3), whose Euler step is DDIM's
step without noise. A rule is written once, for both: `grid` (steps + 1,) are the times of steps, or their s.

A scheduler's `timesteps` are the times at which the host is evaluated, `step` takes its answer there and returns the
sample at the next of them, after the last the result. `inverted()` gives the same solver from clean to noise, which
turns a sample into the noise that leads to it.

| rule | evaluations of n steps | order |
|---|---|---|
| `Euler` | n | 1 |
| `Midpoint` | 2 n | 2 |
| `FireFlow` | n + 1 | 2: each step's midpoint is reached by the slope at the last one |
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, Self

import numpy as np
import torch
from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler
from diffusers.schedulers.scheduling_flow_match_euler_discrete import FlowMatchEulerDiscreteSchedulerOutput
from torch import Tensor

Evaluation = tuple[int, str]
"""(step, `first`, `last` or `only` of its evaluations)"""


class Solver(ABC):
    """A rule on the grid of a kind of host. The path that it follows is the sample's own, or, of a host that predicts
    noise, that of z."""

    order = 1
    backwards = False
    grid: Tensor
    timesteps: Tensor

    def inverted(self) -> Self:
        """Return a copy that goes from clean to noise over the same times."""
        other = copy.deepcopy(self)
        other.backwards = True
        return other

    @property
    @abstractmethod
    def end(self) -> float:
        """Time at which the last step ends, in 0..1."""

    @staticmethod
    @abstractmethod
    def evaluations(steps: int) -> tuple[Evaluation, ...]:
        """Return the step of every evaluation."""

    @abstractmethod
    def _times(self, grid: Tensor) -> Tensor:
        """Return where evaluations are, over where steps are."""

    @abstractmethod
    def _next(self, slope: Tensor, point: Tensor, number: int) -> Tensor:
        """Return the point of the path after evaluation `number`."""

    def _start(self, grid: Tensor) -> Tensor:
        """Take the grid from noise to clean; return where evaluations are."""
        self.grid = grid.flip(0) if self.backwards else grid
        self._base: Tensor | None = None
        self._number = 0
        return self._times(self.grid)

    def step(
        self, model_output: Tensor, timestep: Any, sample: Tensor, *args: Any, return_dict: bool = True, **keywords: Any
    ) -> Any:
        """Return the sample at the next time, computed in float32."""
        number, x = self._number, sample.float()
        point = self._onto(x, number)
        if self._base is None:
            self._base = point
        found = self._off(self._next(self._slope(model_output.float(), x, number), point, number), number + 1)
        found, self._number = found.to(model_output.dtype), number + 1
        return FlowMatchEulerDiscreteSchedulerOutput(prev_sample=found) if return_dict else (found,)

    def _onto(self, sample: Tensor, number: int) -> Tensor:
        """Return the path's point of a sample at evaluation `number`."""
        return sample

    def _off(self, point: Tensor, number: int) -> Tensor:
        """Return the sample of a point."""
        return point

    def _slope(self, answer: Tensor, sample: Tensor, number: int) -> Tensor:
        """Return the path's slope."""
        return answer

    def _half(self, step: int, slope: Tensor) -> Tensor:
        """Return half of step `step`."""
        return (self.grid[step + 1] - self.grid[step]).to(slope) / 2 * slope

    def _advance(self, slope: Tensor, step: int) -> Tensor:
        """Take step `step` whole with one slope."""
        assert self._base is not None
        self._base = self._base + (self.grid[step + 1] - self.grid[step]).to(slope) * slope
        return self._base


class FlowSolver(Solver, FlowMatchEulerDiscreteScheduler):  # type: ignore[misc]
    """On the times of diffusers' FlowMatchEulerDiscreteScheduler (shifts, sigmas of one's own)."""

    @property
    def end(self) -> float:
        return float(self.grid[-1])

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
        self.timesteps = self._start(self.sigmas) * self.config.num_train_timesteps


class NoiseSolver(Solver, DDIMScheduler):  # type: ignore[misc]
    """On the timesteps of diffusers' DDIMScheduler, for hosts that predict noise or v. Between two timesteps of
    training the host is told a part of one, where s is in between."""

    @property
    def end(self) -> float:
        return float(self._timestep(self.grid[-1:])) / int(self.config.num_train_timesteps)

    def set_timesteps(self, num_inference_steps: int, device: Any = None) -> None:
        """As diffusers' own, then the timesteps of evaluations, floats."""
        super().set_timesteps(num_inference_steps, device)
        last = (1 - self.final_alpha_cumprod) / self.final_alpha_cumprod
        grid = torch.cat([self._table[self.timesteps.cpu()], last.sqrt()[None]])
        where = self._start(grid.to(device))
        self._levels = torch.cat([where, self.grid[-1:]])
        self.timesteps = self._timestep(where)

    @property
    def _table(self) -> Tensor:
        """s of every timestep of training."""
        found: Tensor = ((1 - self.alphas_cumprod) / self.alphas_cumprod).sqrt()
        return found

    def _timestep(self, levels: Tensor) -> Tensor:
        table = self._table.double().numpy()
        found = np.interp(levels.double().cpu().numpy(), table, np.arange(len(table)))
        return torch.from_numpy(found).to(levels)

    def _alpha(self, number: int) -> Tensor:
        return (1 + self._levels[number].float() ** 2).rsqrt()

    def _onto(self, sample: Tensor, number: int) -> Tensor:
        return sample / self._alpha(number).to(sample)

    def _off(self, point: Tensor, number: int) -> Tensor:
        return point * self._alpha(number).to(point)

    def _slope(self, answer: Tensor, sample: Tensor, number: int) -> Tensor:
        if self.config.prediction_type == "epsilon":
            return answer
        alpha = self._alpha(number).to(sample)
        return alpha * answer + alpha * self._levels[number].to(sample) * sample  # of v = alpha e - sigma x0


class Euler(Solver):
    """y' = y + dt f(y, t)."""

    @staticmethod
    def evaluations(steps: int) -> tuple[Evaluation, ...]:
        return tuple((step, "only") for step in range(steps))

    def _times(self, grid: Tensor) -> Tensor:
        return grid[:-1]

    def _next(self, slope: Tensor, point: Tensor, number: int) -> Tensor:
        return self._advance(slope, number)


class Midpoint(Solver):
    """y' = y + dt f(y + dt/2 f(y, t), t + dt/2)."""

    order = 2

    @staticmethod
    def evaluations(steps: int) -> tuple[Evaluation, ...]:
        return tuple((step, word) for step in range(steps) for word in ("first", "last"))

    def _times(self, grid: Tensor) -> Tensor:
        return torch.stack([grid[:-1], _middles(grid)], dim=1).flatten()

    def _next(self, slope: Tensor, point: Tensor, number: int) -> Tensor:
        step, second = divmod(number, 2)
        if second:
            return self._advance(slope, step)
        return point + self._half(step, slope)


class FireFlow(Solver):
    """The midpoint rule whose first slope is the one at the last step's midpoint (2412.07517, Sec. 3.3): one
    evaluation a step, and one more at the start."""

    @staticmethod
    def evaluations(steps: int) -> tuple[Evaluation, ...]:
        rest = ((step, "only") for step in range(1, steps))
        return ((0, "first"), (0, "last"), *rest)

    def _times(self, grid: Tensor) -> Tensor:
        return torch.cat([grid[:1], _middles(grid)])

    def _next(self, slope: Tensor, point: Tensor, number: int) -> Tensor:
        if number == 0:
            return point + self._half(0, slope)
        base = self._advance(slope, number - 1)
        if number == len(self.grid) - 1:
            return base
        return base + self._half(number, slope)


def _middles(grid: Tensor) -> Tensor:
    return (grid[:-1] + grid[1:]) / 2


class EulerScheduler(Euler, FlowSolver):
    """Of a flow."""


class MidpointScheduler(Midpoint, FlowSolver):
    """Of a flow."""


class FireFlowScheduler(FireFlow, FlowSolver):
    """Of a flow."""


class EulerNoiseScheduler(Euler, NoiseSolver):
    """Of a host that predicts noise: DDIM, and its inversion."""


class MidpointNoiseScheduler(Midpoint, NoiseSolver):
    """Of a host that predicts noise."""


class FireFlowNoiseScheduler(FireFlow, NoiseSolver):
    """Of a host that predicts noise."""


FLOW_SOLVERS: Mapping[str, type[FlowSolver]] = {
    "euler": EulerScheduler,
    "midpoint": MidpointScheduler,
    "fireflow": FireFlowScheduler,
}
NOISE_SOLVERS: Mapping[str, type[NoiseSolver]] = {
    "euler": EulerNoiseScheduler,
    "midpoint": MidpointNoiseScheduler,
    "fireflow": FireFlowNoiseScheduler,
}
