"""Operators on the grid of the picture that is drawn, not of another one with as many tokens."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import archspec
from archspec.host.structure import SiteShape
from archspec.runtime.families import family

Make = Callable[..., Path]

EDITS = {
    "window": "local_attention, layout: grid, window: 1",
    "filter": "hyena_x, layout: grid, kernel: 3",
    "linear": "linear_attention, layout: grid, conv: 3",
}
SLOTS = {"dit": "attn", "pixart": "attn", "sana": "attn", "sd3": "joint_attn", "vit": "attn"}
ABSENT = {("window", "vit"), ("linear", "sana"), ("linear", "sd3"), ("linear", "vit")}
WIDE = (1, 4)
"""Rows and columns: as many tokens as 2 x 2, which has the aspect ratio of the hosts' own 4 x 4."""


def inputs(name: str, model: Any, grid: tuple[int, int]) -> dict[str, Any]:
    given = dict(family(name).example(model, batch=2, seed=3))
    key = next(key for key in ("hidden_states", "pixel_values") if key in given)
    patch = model.config.patch_size
    return given | {key: torch.randn(2, given[key].shape[1], grid[0] * patch, grid[1] * patch)}


@pytest.mark.parametrize("edit", EDITS)
@pytest.mark.parametrize("name", SLOTS)
def test_operators_stand_on_the_grid_of_the_call(
    request: pytest.FixtureRequest, make: Make, name: str, edit: str
) -> None:
    if (edit, name) in ABSENT:
        pytest.skip("the operator has no such form there")
    slot = SLOTS[name]
    host = request.getfixturevalue(f"tiny_{name}")
    model: Any = archspec.load(
        make(host, f'  - {{replace: "blocks[1].{slot}", with: {{op: {EDITS[edit]}}}, init: random}}\n')
    )
    operator: Any = next(m for m in model.modules() if isinstance(getattr(m, "shape", None), SiteShape))
    seen: list[Any] = []
    operator.register_forward_hook(lambda _, args, keywords, y: seen.append((args, keywords, y)), with_kwargs=True)
    more = {"interpolate_pos_encoding": True} if name == "vit" else {}
    with torch.no_grad():
        for grid in (WIDE, (4, 4)):
            model(**inputs(name, model, grid), **more)
    (args, keywords, wide), (_, _, square) = seen
    assert operator.shape.grid == (4, 4)
    told = copy.deepcopy(operator)
    for module in told.modules():
        if getattr(getattr(module, "shape", None), "grid", None):
            module.shape = replace(module.shape, grid=WIDE)
    told._forward_hooks.clear()
    with torch.no_grad():
        torch.testing.assert_close(first(told(*args, **keywords)), first(wide), rtol=0, atol=0)
        operator._forward_hooks.clear()
        assert (first(operator(*args, **keywords)) - first(wide)).abs().max() > 1e-5
    assert first(square).shape[1] - first(wide).shape[1] == 12
    assert bool(first(square).isfinite().all())


def first(y: Any) -> torch.Tensor:
    found: torch.Tensor = y if isinstance(y, torch.Tensor) else y[0]
    return found
