"""Solvers on a flow whose solution is known, and as schedulers of diffusers."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

from archspec.runtime.features.solvers import FLOW_SOLVERS, NOISE_SOLVERS, FlowSolver, NoiseSolver

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
        solver = FLOW_SOLVERS[name]()
        end, _ = solve(solver, START, steps)
        errors.append(float((end - exact(START, float(solver.grid[0]), 0.0)).norm()))
    for coarse, fine in itertools.pairwise(errors):
        assert coarse / fine > 0.8 * 2**order


@pytest.mark.parametrize(("name", "count"), [("euler", 12), ("midpoint", 24), ("fireflow", 13)])
def test_evaluations_are_counted(name: str, count: int) -> None:
    solver = FLOW_SOLVERS[name]()
    solver.set_timesteps(12)
    assert len(solver.timesteps) == count == len(solver.evaluations(12))
    assert [step for step, _ in solver.evaluations(12)] == sorted(step for step, _ in solver.evaluations(12))
    assert {step for step, _ in solver.evaluations(12)} == set(range(12))


@pytest.mark.parametrize("name", ["midpoint", "fireflow"])
def test_there_and_back_is_of_second_order(name: str) -> None:
    errors = []
    for steps in (10, 20, 40):
        noise, _ = solve(FLOW_SOLVERS[name]().inverted(), START, steps)
        back, _ = solve(FLOW_SOLVERS[name](), noise, steps)
        errors.append(float((back - START).norm()))
    assert errors[0] / errors[1] > 3
    assert errors[1] / errors[2] > 3


@pytest.mark.parametrize("name", list(FLOW_SOLVERS))
def test_the_way_back_visits_the_times_of_the_way_there(name: str) -> None:
    there, back = FLOW_SOLVERS[name](shift=3.0), FLOW_SOLVERS[name](shift=3.0).inverted()
    there.set_timesteps(9)
    back.set_timesteps(9)
    torch.testing.assert_close(there.grid, back.grid.flip(0), rtol=0, atol=0)
    middle = {round(float(t), 3) for t in there.timesteps} - {round(float(there.grid[0]) * 1000, 3)}
    other = {round(float(t), 3) for t in back.timesteps}
    assert middle <= other | {round(float(t) * 1000, 3) for t in back.grid}


def test_euler_is_diffusers_own() -> None:
    from diffusers import FlowMatchEulerDiscreteScheduler

    ours, theirs = FLOW_SOLVERS["euler"](shift=3.0), FlowMatchEulerDiscreteScheduler(shift=3.0)
    theirs.set_timesteps(7)
    x, _ = solve(ours, START, 7)
    y = START
    for t in theirs.timesteps:
        y = theirs.step(velocity(y, float(t) / 1000), t, y, return_dict=False)[0]
    torch.testing.assert_close(x, y, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", FLOW_SOLVERS)
def test_pipelines_that_state_sigmas_run_every_solver(name: str) -> None:
    """FLUX's does; diffusers' own function decides whether a scheduler takes them."""
    from diffusers.pipelines.flux.pipeline_flux import retrieve_timesteps

    solver = FLOW_SOLVERS[name]()
    times, _ = retrieve_timesteps(solver, 4, "cpu", sigmas=[1.0, 0.75, 0.5, 0.25], mu=0.5)
    assert len(times) == len(solver.evaluations(4))
    assert solver.grid.tolist() == [1.0, 0.75, 0.5, 0.25, 0.0]


# Hosts that predict noise: those of Gaussian data of variance `DATA`, whose answer and path are known.

DATA = 0.25
CONFIG = {"clip_sample": False, "set_alpha_to_one": False, "timestep_spacing": "trailing"}


def level(solver: NoiseSolver, timestep: Tensor) -> float:
    """s at a timestep that may be between two."""
    table = solver._table.double()
    below = int(timestep)
    part = float(timestep) - below
    return float(table[below] + (part * (table[min(below + 1, 999)] - table[below]) if part else 0))


def noise_of(solver: NoiseSolver, x: Tensor, timestep: Tensor) -> Tensor:
    """E[e | x], or v, where data are normal of variance DATA."""
    s = level(solver, timestep)
    alpha = (1 + s * s) ** -0.5
    noise: Tensor = x * alpha * s / (alpha**2 * (DATA + s * s))
    sample = (x - alpha * s * noise) / alpha
    return noise if solver.config.prediction_type == "epsilon" else alpha * noise - alpha * s * sample


def solve_noise(solver: NoiseSolver, x: Tensor, steps: int) -> Tensor:
    solver.set_timesteps(steps)
    assert len(solver.timesteps) == len(solver.evaluations(steps))
    for t in solver.timesteps:
        x = solver.step(noise_of(solver, x, t), t, x, return_dict=False)[0]
    return x


def exact_noise(solver: NoiseSolver, x: Tensor) -> Tensor:
    """dz/ds = z s / (DATA + s^2): z goes as the root of DATA + s^2."""
    (s, end) = (float(solver.grid[i]) for i in (0, -1))
    factor = (1 + s * s) * (DATA + end * end) / (DATA + s * s) / (1 + end * end)
    return x * math.sqrt(factor)


@pytest.mark.parametrize("predicts", ["epsilon", "v_prediction"])
@pytest.mark.parametrize(("name", "order"), [("euler", 1), ("midpoint", 2), ("fireflow", 2)])
def test_solvers_of_noise_follow_the_known_path(name: str, order: int, predicts: str) -> None:
    """The grid of timesteps is far from even in s."""
    for backwards in (False, True):
        errors = []
        for steps in (20, 40, 80):
            solver = NOISE_SOLVERS[name](prediction_type=predicts, **CONFIG)
            solver = solver.inverted() if backwards else solver
            end = solve_noise(solver, START, steps)
            errors.append(float((end - exact_noise(solver, START)).norm()))
        assert errors[-1] < (0.1 if order == 1 else 0.01) * float(START.norm())
        for coarse, fine in itertools.pairwise(errors):
            assert coarse / fine > 0.7 * 2**order


@pytest.mark.parametrize("predicts", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("final", [True, False])
@pytest.mark.parametrize("spacing", ["leading", "trailing"])
def test_euler_of_noise_is_ddim(spacing: str, final: bool, predicts: str) -> None:
    from diffusers import DDIMScheduler

    config = CONFIG | {"timestep_spacing": spacing, "set_alpha_to_one": final, "prediction_type": predicts}
    ours, theirs = NOISE_SOLVERS["euler"](**config), DDIMScheduler(**config)
    theirs.set_timesteps(10)
    x = solve_noise(ours, START, 10)
    y = START
    torch.testing.assert_close(ours.timesteps, theirs.timesteps.float(), rtol=0, atol=1e-3)
    for t in theirs.timesteps:
        y = theirs.step(noise_of(ours, y, t), t, y, return_dict=False)[0]
    torch.testing.assert_close(x, y, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", NOISE_SOLVERS)
def test_noise_and_back_is_the_sample(name: str) -> None:
    solver = NOISE_SOLVERS[name](**CONFIG)
    noise = solve_noise(solver.inverted(), START, 50)
    assert (noise - START).norm() > 0.5 * START.norm()
    assert (solve_noise(solver, noise, 50) - START).norm() < (0.15 if name == "euler" else 0.01) * START.norm()
