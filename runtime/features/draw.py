"""Drawing under an injection, from donors' pictures to finished samples.

prepare     donors' pictures to latents: inverted, noised or clean, and what their branches are told
first_noise drawn, that of the donor's inversion, or that of a collage's
draw        the host's own run within the injection
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from archspec.diagnostics import fail
from archspec.injection import Donor, Injection
from archspec.runtime.collage.tokens import to_tokens
from archspec.runtime.features.donors import Clean, DonorInput, Latents, Noised, Trajectory
from archspec.runtime.features.injecting import inject, port_of
from archspec.runtime.features.match import Grid
from archspec.runtime.features.runners import Ask, Recorder, Runner, Size
from archspec.runtime.features.solvers import FLOW_SOLVERS, NOISE_SOLVERS, Solver
from archspec.runtime.learn.draws import generator

Progress = Callable[[str], None]
Mask = NDArray[np.bool_]
Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class Picture:
    """Of a donor. `image`: (height, width, 3) uint8; `mask`: (height, width) of its subject."""

    image: Pixels
    mask: Mask | None = None

    def sized(self, size: Size | None) -> Picture:
        """Return it in the size that is drawn."""
        if size is None or self.image.shape[:2] == size:
            return self
        height, width = size
        image = np.asarray(Image.fromarray(self.image).resize((width, height), Image.Resampling.LANCZOS))
        if self.mask is None:
            return Picture(image)
        mask = Image.fromarray(self.mask).resize((width, height), Image.Resampling.NEAREST)
        return Picture(image, np.asarray(mask))


@dataclass(frozen=True)
class Drawn:
    """`images`: (samples, channels, height, width) in [-1, 1]; `votes`: donor -> (its tokens, target tokens), how often
    one stood for the other, summed over sites, evaluations and samples."""

    images: Tensor
    votes: Mapping[str, Tensor] = field(default_factory=dict)
    grid: Grid = (1, 1)


def draw(
    injection: Injection,
    runner: Runner,
    ask: Ask,
    pictures: Mapping[str, Picture],
    samples: int = 1,
    target_mask: Mask | None = None,
    noise: Tensor | None = None,
    donors: Mapping[str, DonorInput] | None = None,
    progress: Progress = lambda _: None,
) -> Drawn:
    """Draw samples with features of donors. `noise` and `donors`: those that were made before, in place of new ones."""
    donors = prepare(injection, runner, ask, pictures, progress) if donors is None else donors
    noise = first_noise(injection, runner, ask, donors, samples) if noise is None else noise
    grid = runner.grid(noise, ask.size)
    votes = {name: torch.zeros(grid[0] * grid[1], grid[0] * grid[1], dtype=torch.int32) for name in donors}
    scheduler = sampler(injection, runner)
    evaluations = scheduler.evaluations(ask.steps) if isinstance(scheduler, Solver) else ()
    extra: dict[str, Any] = {"guided": runner.guided_halves and ask.guidance > 1, "evaluations": evaluations}
    if target_mask is not None:
        extra["target_mask"] = torch.from_numpy(to_tokens(target_mask, *grid))
    progress("drawing")
    with inject(runner.model, injection, donors, watch=partial(_vote, votes), **extra):
        latents = runner.run(ask, noise, scheduler)
    return Drawn(runner.decode(latents, ask.size), votes, grid)


def _vote(votes: Mapping[str, Tensor], name: str, source: Tensor, place: Tensor) -> None:
    """Count who stood for whom."""
    width = votes[name].shape[1]
    flat = (source * width + place).cpu()
    votes[name].view(-1).index_add_(0, flat, torch.ones(len(flat), dtype=torch.int32))


def prepare(
    injection: Injection,
    runner: Runner,
    ask: Ask,
    pictures: Mapping[str, Picture],
    progress: Progress = lambda _: None,
) -> dict[str, DonorInput]:
    """Return the donors as a run takes them. AS762 for one without a picture; AS761: see
    `solver_of`."""
    found = {}
    for name, donor in injection.donors.items():
        progress(f"donor {name}: {donor.state}")
        picture = pictures.get(name)
        if picture is None and donor.state != "batch":
            hint = f"write `donors: {{{name}: IMAGE}}`, or --donor {name}=IMAGE"
            raise fail("AS762", f"donor '{name}' has no picture", None, hint)
        found[name] = DonorInput() if picture is None else _donor(injection, runner, ask, name, donor, picture)
    return found


def _donor(injection: Injection, runner: Runner, ask: Ask, name: str, donor: Donor, picture: Picture) -> DonorInput:
    clean = runner.encode(tensor(picture.image, runner))
    mask = None
    if picture.mask is not None:
        mask = torch.from_numpy(to_tokens(picture.mask, *runner.grid(clean, ask.size), name=name))
    if donor.state == "batch":
        return DonorInput(mask=mask)
    own = replace(ask, prompt=donor.prompt, label=None, guidance=donor.guidance)
    latents, condition = _state(injection, runner, own, donor, clean)
    return DonorInput(latents, {} if donor.prompt is None else condition, mask)


def _state(
    injection: Injection, runner: Runner, ask: Ask, donor: Donor, clean: Tensor
) -> tuple[Latents, dict[str, Tensor]]:
    """Return the latents of a donor at each time, and what its branch is told."""
    if donor.state == "inverted":
        return invert(runner, ask, clean, solver_of(injection, runner).inverted())
    with Recorder(runner.model) as recorder:  # one step, for what the pipeline tells the host of the prompt
        runner.run(replace(ask, steps=1), clean)
    if donor.state == "clean":
        return Clean(clean), recorder.condition
    noise = torch.randn(clean.shape, generator=generator(donor.seed, "donor")).to(clean)
    return Noised(clean, noise, _mixer(runner)), recorder.condition


def tensor(image: Pixels, runner: Runner) -> Tensor:
    """Return (1, channels, height, width) in [-1, 1], grey for hosts of one channel."""
    found = torch.from_numpy(image.copy()).permute(2, 0, 1)[None].float() / 127.5 - 1
    return found.mean(dim=1, keepdim=True) if runner.channels == 1 else found


def pixels(image: Tensor) -> Pixels:
    """Return (height, width, 3) uint8 of (channels, height, width) in [-1, 1]."""
    wide = image.expand(3, *image.shape[1:]) if len(image) == 1 else image
    found: Pixels = ((wide + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).permute(1, 2, 0).cpu().numpy()
    return found


def invert(runner: Runner, ask: Ask, latents: Tensor, solver: Solver) -> tuple[Trajectory, dict[str, Tensor]]:
    """Go from a sample to the noise that leads to it; return its latents by time and what the host was
    told."""
    with Recorder(runner.model) as recorder:
        noise = runner.run(ask, latents, solver)
    recorder.trajectory.record(solver.end, noise)
    return recorder.trajectory, recorder.condition


def sampler(injection: Injection, runner: Runner) -> Any:
    """Return the scheduler that targets are drawn with."""
    return runner.scheduler() if injection.solver == "host" else solver_of(injection, runner)


def solver_of(injection: Injection, runner: Runner) -> Solver:
    """Return the solver over the times of the host's own scheduler. AS761 where its steps cannot be gone back."""
    own = runner.scheduler()
    name, config = type(own).__name__, dict(own.config)
    table: Mapping[str, type[Solver]] = FLOW_SOLVERS if _flows(own) else NOISE_SOLVERS
    if injection.solver == "host" and not name.startswith(("FlowMatchEuler", "DDIMScheduler")):
        hint = "write `sampler: {solver: fireflow}`"
        raise fail("AS761", f"{name} cannot be gone back with", None, hint)
    if not _flows(own) and not _solvable(config):
        hint = "write `state: noised` for donors, and `sampler: {solver: host}`"
        message = f"the host's {name} is of a model that predicts the sample, or starts where no signal is left"
        raise fail("AS761", message, None, hint)
    found: Any = table["euler" if injection.solver == "host" else injection.solver]
    solver: Solver = found.from_config(config)
    return solver


def _solvable(config: Mapping[str, Any]) -> bool:
    """Whether a model's slope is known at every time: s of `NoiseSolver` has no end where alpha is 0."""
    predicts = config.get("prediction_type", "epsilon") in ("epsilon", "v_prediction")
    return predicts and not config.get("rescale_betas_zero_snr", False)


def _flows(scheduler: Any) -> bool:
    return "FlowMatch" in type(scheduler).__name__ or scheduler.config.get("prediction_type") == "flow_prediction"


def _mixer(runner: Runner) -> Callable[[Tensor, Tensor, float], Tensor]:
    """Return how the host's task noises."""
    scheduler = runner.scheduler()
    if _flows(scheduler):
        return lambda x, noise, time: (1 - time) * x + time * noise
    times = port_of(runner.model).times

    def mix(x: Tensor, noise: Tensor, time: float) -> Tensor:
        found: Tensor = scheduler.add_noise(x, noise, torch.tensor([round(time * times)]))
        return found

    return mix


def first_noise(
    injection: Injection, runner: Runner, ask: Ask, donors: Mapping[str, DonorInput], samples: int
) -> Tensor:
    """Return the first noise (samples, ...): drawn, or where donors' inversions end, the same for every sample."""
    if injection.noise == "random":
        return runner.noise(ask, injection.seed, samples)
    ends = [donor.latents.noise for donor in donors.values() if isinstance(donor.latents, Trajectory)]
    if not ends:
        hint = "write `noise: random`, or `state: inverted` for the donor"
        raise fail("AS762", f"noise '{injection.noise}' without a donor that is inverted", None, hint)
    return ends[0].expand(samples, *ends[0].shape[1:])
