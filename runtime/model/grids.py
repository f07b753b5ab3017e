"""Which rows and columns the tokens of a call stand in, told to the operators before each call of their host.

A number of tokens alone does not say it: 1,024 of them are 32 x 32 or 16 x 64, and pipelines draw both. An operator
that is called by itself goes on with what the last call said, so that a block that is computed again on the way back
sees the same grid.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from dataclasses import replace
from math import isqrt
from typing import Any

from torch import Tensor, nn
from torch._subclasses import FakeTensor

from archspec.host.structure import SiteShape

PLACES = "img_ids"
"""(tokens, 3): frame, row and column of every token of a packed sample."""
SAMPLES = ("hidden_states", "pixel_values")
"""Names of what a host is given (batch, channels, height, width)."""


def follow_grid(model: nn.Module) -> None:
    """Have a host whose operators stand on a grid tell them of each call's."""
    if _on_grid(model):
        model.register_forward_pre_hook(_before_call, with_kwargs=True)


def share_grid(host: nn.Module, keywords: Mapping[str, Any], modules: Iterable[nn.Module]) -> None:
    """Tell modules that run without their host of the grid of a call of it."""
    found = _grid(host, keywords)
    operators = [operator for module in modules for operator in _on_grid(module)]
    for operator in operators if found else ():
        operator.shape = replace(operator.shape, grid=found)


def _before_call(model: nn.Module, args: tuple[Any, ...], keywords: Mapping[str, Any]) -> None:
    share_grid(model, inspect.signature(model.forward).bind_partial(*args, **keywords).arguments, [model])


def _on_grid(module: nn.Module) -> list[Any]:
    """Return what stands on a grid in a module."""
    shapes = ((part, getattr(part, "shape", None)) for part in module.modules())
    return [part for part, shape in shapes if isinstance(shape, SiteShape) and shape.grid is not None]


def _grid(model: Any, given: Mapping[str, Any]) -> tuple[int, int] | None:
    """Return (rows, columns), None of inputs that are no pictures, and of packed ones of several frames."""
    places = given.get(PLACES)
    if places is not None:
        return _placed(places)
    patch = getattr(model.config, "patch_size", None)
    sample = next((given[name] for name in SAMPLES if name in given), None)
    if not isinstance(patch, int) or not isinstance(sample, Tensor) or sample.dim() != 4:
        return None
    return sample.shape[-2] // patch, sample.shape[-1] // patch


def _placed(places: Tensor) -> tuple[int, int] | None:
    """Return the rows and columns of places; of those without data, as of a model that is priced, a square's."""
    if places.is_meta or isinstance(places, FakeTensor):
        side = isqrt(places.shape[-2])
        return (side, side) if side * side == places.shape[-2] else None
    frames, rows, columns = (places[..., axis].max() - places[..., axis].min() for axis in range(3))
    return None if frames else (int(rows) + 1, int(columns) + 1)
