"""How every embedded model is trained: the examples of a step, the rate of a step, and what a killed run needs."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from pathlib import Path

import torch
from diffusers.training_utils import EMAModel
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

SEED = 0
BATCH, PEAK, WARMUP, CLIP, EMA = 64, 1e-3, 100, 1.0, 0.999
SAVE_EVERY = 200
COOLING = 0.2
"""Last part of a run in which `cooled` falls, unless told otherwise."""


def rate(step: int, steps: int) -> float:
    """Share of the peak learning rate at a step: linear warm-up, then half a cosine to zero."""
    if step < WARMUP:
        return (step + 1) / WARMUP
    return 0.5 * (1 + math.cos(math.pi * (step - WARMUP) / (steps - WARMUP)))


def cooled(step: int, steps: int, cooling: float = COOLING) -> float:
    """Share of the peak learning rate at a step: linear warm-up, a plateau, and a straight fall to zero at the end.
    What a run does before the fall does not depend on its length, so a longer run may go on from there."""
    return min(1.0, (step + 1) / WARMUP, (steps - step) / (cooling * steps))


def indices(step: int, count: int, batch: int = BATCH) -> Tensor:
    """Examples of a step: a permutation per pass, a pure function of the step."""
    per_pass = count // batch
    generator = torch.Generator().manual_seed(SEED * 7919 + step // per_pass)
    start = step % per_pass * batch
    return torch.randperm(count, generator=generator)[start : start + batch]


def adamw(model: nn.Module, peak: float = PEAK) -> torch.optim.AdamW:
    return torch.optim.AdamW(model.parameters(), lr=peak, betas=(0.9, 0.99))


MOMENTS = ("step", "exp_avg", "exp_avg_sq")
"""What AdamW keeps of each parameter."""


class State:
    """Everything that a killed run needs: model, average and the optimizer's moments in one safetensors file."""

    def __init__(self, model: nn.Module, path: Path, optimizer: torch.optim.AdamW) -> None:
        self.model, self.path, self.optimizer = model, path, optimizer
        self.ema = EMAModel(model.parameters(), decay=EMA)
        self.numbers = {parameter: i for i, parameter in enumerate(model.parameters())}

    def save(self, step: int) -> None:
        tensors = {f"model.{k}": v for k, v in self.model.state_dict().items()}
        tensors |= {f"ema.{i}": shadow for i, shadow in enumerate(self.ema.shadow_params)}
        for parameter, moments in self.optimizer.state.items():
            tensors |= {f"{name}.{self.numbers[parameter]}": moments[name] for name in MOMENTS}
        partial = self.path.with_suffix(".partial")
        save_file({k: v.contiguous() for k, v in tensors.items()}, partial, {"step": str(step)})
        os.replace(partial, self.path)

    def restore(self) -> int:
        """Load the last state if there is one; return the next step."""
        if not self.path.exists():
            return 0
        with safe_open(self.path, "pt") as file:
            step = int(file.metadata()["step"])
        tensors = load_file(self.path)
        self.model.load_state_dict({k.removeprefix("model."): v for k, v in tensors.items() if k.startswith("model.")})
        for i, shadow in enumerate(self.ema.shadow_params):
            shadow.copy_(tensors[f"ema.{i}"])
        for parameter, number in self.numbers.items():
            if f"{MOMENTS[0]}.{number}" in tensors:
                self.optimizer.state[parameter] = {name: tensors[f"{name}.{number}"] for name in MOMENTS}
        self.ema.optimization_step = step
        return step


def train(
    model: nn.Module, state: State, steps: int, loss_of: Callable[[int], Tensor], rate: Callable[[int], float]
) -> None:
    """Bring the model from its last state to the moving average after `steps`. `loss_of(step)` must depend on the step
    and the weights alone; `rate(step)` is a part of the optimizer's learning rate, its peak."""
    began = time.process_time()
    (group,) = state.optimizer.param_groups
    peak = group["lr"]
    for step in range(state.restore(), steps):
        loss = loss_of(step)
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        group["lr"] = peak * rate(step)
        state.optimizer.step()
        state.optimizer.zero_grad(set_to_none=True)
        state.ema.step(model.parameters())
        if (step + 1) % SAVE_EVERY == 0:
            state.save(step + 1)
            spent = f"{time.process_time() - began:.0f} CPU s"
            print(f"step {step + 1}/{steps}  loss {loss.item():.4f}  {spent}", flush=True)
    state.ema.copy_to(model.parameters())
