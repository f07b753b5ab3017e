"""Learned weights, from artifacts to a model: a part's are stored by their names within the part, a finetuning's by
those of the whole model, so that a part's artifact serves wherever the program puts it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from archspec.instructions import Instruction
from archspec.plan import Task
from archspec.runtime.execution.workspace import Workspace
from archspec.runtime.learn.parts import group_places, places


def learned(program: Sequence[Instruction], workspace: Workspace, tasks: Iterable[Task]) -> dict[str, Tensor]:
    """Return the tensors of the result that finished tasks give; what later tasks give replaces what earlier
    ones do."""
    found: dict[str, Tensor] = {}
    for task in tasks:
        if task.kind == "evaluate" or not workspace.finished(task.key):
            continue
        tensors = workspace.weights(task.key)
        for home in homes(program, task):
            found |= {f"{home}{name}": tensor for name, tensor in tensors.items()}
    return found


def homes(program: Sequence[Instruction], task: Task) -> list[str]:
    """Return what stands before the names of a task's tensors in the result: the places of its part, each with
    a dot."""
    if not task.sites:
        return [""]
    found = places(program, task.sites[0]) if len(task.sites) == 1 else group_places(program, task.sites)
    return [f"{path}." for path in found]


@torch.no_grad()
def install_learned(
    model: nn.Module, program: Sequence[Instruction], workspace: Workspace, tasks: Iterable[Task]
) -> None:
    """Write what the tasks gave into the model."""
    model.load_state_dict(learned(program, workspace, tasks), strict=False)
