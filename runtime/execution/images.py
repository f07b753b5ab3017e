"""How many noised examples a plan runs a model on: the measure by which grafts are compared with pretraining."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from archspec.runtime.learn.keep import judged_steps


def images_of(tasks: Iterable[Any], held_out: int) -> int:
    """Return how many examples these tasks run a model on, each pass and the `held_out` ones counted.

    Tasks of a wave share the teacher's passes; a fit that chooses neurons needs two, and all two judgements. A cached
    regression sees each example once; a finetuning that keeps its best weights runs on held-out ones whenever it
    judges. Evaluations count nothing.
    """
    passes: dict[tuple[str, str], int] = {}
    for task in tasks:
        s = task.settings
        if task.kind == "fit":
            key, images = f"{task.wave}", s.get("passes", 1) * s["samples"] + 2 * held_out
        elif task.kind == "regress":
            key, images = f"{task.wave}", s["samples"] * (1 if s["cache"] else s["epochs"]) + held_out
        elif task.kind == "finetune":
            judged = s["keep"]["samples"] * len(judged_steps(s["steps"], s["keep"]["every"])) if s.get("keep") else 0
            key, images = task.id, s["steps"] * s["batch"] + judged
        else:
            continue
        passes[task.kind, key] = max(images, passes.get((task.kind, key), 0))
    return sum(passes.values())
