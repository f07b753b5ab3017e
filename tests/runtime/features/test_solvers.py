"""Solvers on a flow whose solution is known, and as schedulers of diffusers."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

from archspec.runtime.features.solvers import SOLVERS, FlowSolver

START = torch.tensor([[1.0, -0.5, 2.0]], dtype=torch.float64).float()


def velocity(x: Tensor, t: float) -> Tensor:
    """Of x(t) = c exp(sin 2 t): curved, and of the sample."""
    return x * 2 * math.cos(2 * t)


def solve(solver: FlowSolver, x: Tensor, steps: int) -> tuple[Tensor, list[float]]:
    solver.set_timesteps(steps)
    times = [float(t) / 1000 for t in solver.timesteps]
    assert len(times) == len(solver.evaluations(steps))
    for t in times:
        x = solver.step(velocity(x, t), 1000 * t, x, return_dict=False)[0]
    return x, times


def exact(x: Tensor, start: float, end: float) -> Tensor:
    return x * math.exp(math.sin(2 * end) - math.sin(2 * start))


@pytest.mark.parametrize(("name", "order"), [("euler", 1), ("midpoint", 2), ("fireflow", 2)])
def test_the_error_falls_with_the_order(name: str, order: int) -> None:
    errors = []
    for steps in (10, 20, 40):
        solver = SOLVERS[name]()
        end, _ = solve(solver, START, steps)
        errors.append(float((end - exact(START, float(solver.grid[0]), 0.0)).norm()))
    for coarse, fine in itertools.pairwise(errors):
        assert coarse / fine > 0.8 * 2**order


@pytest.mark.parametrize(("name", "count"), [("euler", 12), ("midpoint", 24), ("fireflow", 13)])
def test_evaluations_are_counted(name: str, count: int) -> None:
    solver = SOLVERS[name]()
    solver.set_timesteps(12)
    assert len(solver.timesteps) == count == len(solver.evaluations(12))
    assert [step for step, _ in solver.evaluations(12)] == sorted(step for step, _ in solver.evaluations(12))
    assert {step for step, _ in solver.evaluations(12)} == set(range(12))


@pytest.mark.parametrize("name", ["midpoint", "fireflow"])
def test_there_and_back_is_of_second_order(name: str) -> None:
    errors = []
    for steps in (10, 20, 40):
        noise, _ = solve(SOLVERS[name]().inverted(), START, steps)
        back, _ = solve(SOLVERS[name](), noise, steps)
        errors.append(float((back - START).norm()))
    assert errors[0] / errors[1] > 3
    assert errors[1] / errors[2] > 3


@pytest.mark.parametrize("name", list(SOLVERS))
def test_the_way_back_visits_the_times_of_the_way_there(name: str) -> None:
    there, back = SOLVERS[name](shift=3.0), SOLVERS[name](shift=3.0).inverted()
    there.set_timesteps(9)
    back.set_timesteps(9)
    torch.testing.assert_close(there.grid, back.grid.flip(0), rtol=0, atol=0)
    middle = {round(float(t), 3) for t in there.timesteps} - {round(float(there.grid[0]) * 1000, 3)}
    other = {round(float(t), 3) for t in back.timesteps}
    assert middle <= other | {round(float(t) * 1000, 3) for t in back.grid}


def test_euler_is_diffusers_own() -> None:
    from diffusers import FlowMatchEulerDiscreteScheduler

    ours, theirs = SOLVERS["euler"](shift=3.0), FlowMatchEulerDiscreteScheduler(shift=3.0)
    theirs.set_timesteps(7)
    x, _ = solve(ours, START, 7)
    y = START
    for t in theirs.timesteps:
        y = theirs.step(velocity(y, float(t) / 1000), t, y, return_dict=False)[0]
    torch.testing.assert_close(x, y, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", SOLVERS)
def test_pipelines_that_state_sigmas_run_every_solver(name: str) -> None:
    """FLUX's does; diffusers' own function decides whether a scheduler takes them."""
    from diffusers.pipelines.flux.pipeline_flux import retrieve_timesteps

    solver = SOLVERS[name]()
    times, _ = retrieve_timesteps(solver, 4, "cpu", sigmas=[1.0, 0.75, 0.5, 0.25], mu=0.5)
    assert len(times) == len(solver.evaluations(4))
    assert solver.grid.tolist() == [1.0, 0.75, 0.5, 0.25, 0.0]
