"""Schedulers of diffusers: the pipeline's own, with the times at which its pipeline would run it."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np

from archspec.diagnostics import fail
from archspec.runtime.objectives import TRAIN_TIMES, packing, told
from archspec.runtime.store.home import Home

SHIFTS = {"base_image_seq_len": 256, "max_image_seq_len": 4096, "base_shift": 0.5, "max_shift": 1.15}
"""What a scheduler that shifts times by the number of tokens goes by where its config does not say."""


def make_scheduler(place: Home) -> Any:
    """Return the pipeline's scheduler, fresh; for a bare model the plain one of its objective."""
    import diffusers

    config = place.scheduler
    if config is None:
        if told(place) == "flow":
            return diffusers.FlowMatchEulerDiscreteScheduler(num_train_timesteps=TRAIN_TIMES)
        return diffusers.DDIMScheduler(beta_schedule="linear", clip_sample=False, set_alpha_to_one=False)
    name = str(config.get("_class_name"))
    found = getattr(diffusers, name, None) if name.isidentifier() else None
    if not (isinstance(found, type) and issubclass(found, diffusers.SchedulerMixin)):
        raise fail("AS714", f"diffusers has no scheduler '{name}'")
    learned = str(config.get("variance_type") or "").startswith("learned")  # the prediction comes without its variance
    scheduler: Any = found
    return scheduler.from_config(dict(config) | ({"variance_type": "fixed_small"} if learned else {}))


def timed_scheduler(place: Home, steps: int, tokens: int) -> Any:
    """Return the scheduler, set to `steps` times. FLUX's runs at even noise levels; one that shifts them does so by the
    tokens of a sample, in a straight line between two lengths (diffusers' FluxPipeline)."""
    scheduler = make_scheduler(place)
    takes_levels = "sigmas" in inspect.signature(scheduler.set_timesteps).parameters
    asked: dict[str, Any] = {"sigmas": np.linspace(1, 1 / steps, steps)} if packing(place) and takes_levels else {}
    if scheduler.config.get("use_dynamic_shifting"):
        known = {name: scheduler.config.get(name, value) for name, value in SHIFTS.items()}
        first, last, low, high = known.values()
        asked["mu"] = low + (high - low) * (tokens - first) / (last - first)
    scheduler.set_timesteps(steps, **asked)
    return scheduler
