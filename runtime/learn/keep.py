"""Which weights of a finetuning stay: the last ones, or those that did best on held-out examples.

`finetune: {keep: best}` judges the weights that would stay (the moving average, where there is one) before the first
step, every so many steps and after the last, each time on the same noised examples, which no step trains on; what is
measured on them is what the finetuning minimises, or the distance to the teacher. The best stay, the earliest of equal
ones, so a finetuning never ends worse than it began by that measure. This is early stopping by validation (Prechelt
1998, "Early Stopping - But When?") that runs to the end: Keras' `restore_best_weights`, transformers'
`load_best_model_at_end`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor

from archspec.diagnostics import fail
from archspec.runtime.learn.feed import Feed

Measure = Callable[[Mapping[str, Any], Any], float]
"""Of (keywords of the host, target) to the mean over the batch."""


@dataclass(frozen=True)
class KeepSettings:
    """As `archspec.language.stages.Keep`, when it is `best`."""

    by: Literal["loss", "teacher"] = "loss"
    every: int = 100
    samples: int = 256


def judged_steps(steps: int, every: int) -> tuple[int, ...]:
    """Return the numbers of steps after which weights are judged.

    >>> judged_steps(10, 4)
    (0, 4, 8, 10)
    """
    return (*range(0, steps, max(1, every)), steps)


class Judge:
    """The best weights so far. Its state is saved with a checkpoint, so that a resumed run judges no step twice."""

    def __init__(self, feed: Feed, settings: KeepSettings, steps: int) -> None:
        self.feed, self.settings, self.steps = feed, settings, judged_steps(steps, settings.every)
        self.values: dict[int, float] = {}
        self.best = 0
        self.weights: list[Tensor] = []

    def is_due(self, step: int) -> bool:
        return step in self.steps and step not in self.values

    def measure(self, of: Measure) -> float:
        """Return the mean of `of` over the held-out examples."""
        samples, total = self.settings.samples, 0.0
        for start, keywords, target in self.feed.tasks(samples, "held-out"):
            total += of(keywords, target) * min(self.feed.batch, samples - start)
        return total / samples

    def offer(self, step: int, value: float, weights: Sequence[Tensor]) -> None:
        """Note what was measured after `step`, and remember the weights if they are the best. AS727."""
        if not math.isfinite(value):
            hint = "use a smaller lr, or clip; before the first step: look at the init"
            raise fail("AS727", f"the finetuning gives no number on held-out examples after step {step}", None, hint)
        if not self.values or value < self.values[self.best]:
            self.best, self.weights = step, [weight.detach().cpu().clone() for weight in weights]
        self.values[step] = value

    def restore(self, weights: Sequence[Tensor]) -> None:
        """Write the best weights over the last ones."""
        for weight, best in zip(weights, self.weights, strict=True):
            weight.data.copy_(best)

    def state_dict(self) -> dict[str, Any]:
        return {"values": self.values, "best": self.best, "weights": self.weights}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.values, self.best, self.weights = state["values"], state["best"], state["weights"]

    def report(self) -> dict[str, Any]:
        """Return what was measured: `judged` is (step, value) each, `kept` the step whose weights stay."""
        return {"kept": self.best, "judged": sorted(self.values.items()), "judged_by": self.settings.by}
