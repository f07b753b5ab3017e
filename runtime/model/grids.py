"""Which rows and columns the tokens of a call stand in, told to the operators before each call of their host.

A number of tokens alone does not say it: 1,024 of them are 32 x 32 or 16 x 64, and pipelines draw both. An operator
that is called by itself goes on with what the last call said, so that a block that is computed again on the way back
sees the same grid.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from archspec.host.structure import SiteShape

SAMPLES = ("hidden_states", "pixel_values")
"""Names of what a host is given (batch, channels, height, width)."""


def follow_grid(model: nn.Module) -> None:
    """Have a host whose operators stand on a grid tell them of each call's."""
    if any(_on_grid(module) for module in model.modules()):
        model.register_forward_pre_hook(tell_grid, with_kwargs=True)


def tell_grid(model: nn.Module, args: tuple[Any, ...], keywords: Mapping[str, Any]) -> None:
    """Set the grid of every operator that has one; leave it where the call does not say."""
    found = _grid(model, inspect.signature(model.forward).bind_partial(*args, **keywords).arguments)
    operators: list[Any] = [module for module in model.modules() if _on_grid(module)]
    for operator in operators if found else ():
        operator.shape = replace(operator.shape, grid=found)


def _on_grid(module: nn.Module) -> bool:
    shape = getattr(module, "shape", None)
    return isinstance(shape, SiteShape) and shape.grid is not None


def _grid(model: Any, given: Mapping[str, Any]) -> tuple[int, int] | None:
    """Return (rows, columns), None of inputs that are no pictures."""
    patch = getattr(model.config, "patch_size", None)
    sample = next((given[name] for name in SAMPLES if name in given), None)
    if not isinstance(patch, int) or not isinstance(sample, Tensor) or sample.dim() != 4:
        return None
    return sample.shape[-2] // patch, sample.shape[-1] // patch
