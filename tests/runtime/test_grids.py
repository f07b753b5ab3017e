"""Operators on the grid of the picture that is drawn, not of another one with as many tokens."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

import archspec
from archspec.host.structure import SiteShape
from archspec.runtime.families import family
from archspec.runtime.operators.base import Context, Operator
from archspec.runtime.packing import places

Make = Callable[..., Path]
EDITS = {
    "window": "local_attention, layout: grid, window: 1",
    "filter": "hyena_x, layout: grid, kernel: 3",
    "linear": "linear_attention, layout: grid, conv: 3",
}
SLOTS = {
    "dit": "blocks[1].attn",
    "pixart": "blocks[1].attn",
    "sana": "blocks[1].attn",
    "sd3": "blocks[1].joint_attn",
    "flux": "blocks[1].joint_attn",
    "flux single": "single_blocks[1].attn",
    "vit": "blocks[1].attn",
}
ABSENT = {("window", "vit"), *(("linear", name) for name in ("sana", "sd3", "flux", "flux single", "vit"))}
WIDE = (1, 4)
"""Rows and columns: as many tokens as 2 x 2, which has the aspect ratio of the hosts' own 4 x 4."""


def inputs(name: str, model: Any, grid: tuple[int, int]) -> dict[str, Any]:
    given = dict(family(name).example(model, batch=2, seed=3))
    key = next(key for key in ("hidden_states", "pixel_values") if key in given)
    if name == "flux":
        given["img_ids"] = places(*grid)
        return given | {key: torch.randn(2, grid[0] * grid[1], model.config.in_channels)}
    patch = model.config.patch_size
    return given | {key: torch.randn(2, given[key].shape[1], grid[0] * patch, grid[1] * patch)}


@pytest.mark.parametrize("edit", EDITS)
@pytest.mark.parametrize("name", SLOTS)
def test_operators_stand_on_the_grid_of_the_call(
    request: pytest.FixtureRequest, make: Make, name: str, edit: str
) -> None:
    if (edit, name) in ABSENT:
        pytest.skip("the operator has no such form there")
    sites, name = SLOTS[name], name.partition(" ")[0]
    host = request.getfixturevalue(f"tiny_{name}")
    model: Any = archspec.load(make(host, f'  - {{replace: "{sites}", with: {{op: {EDITS[edit]}}}, init: random}}\n'))
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


@pytest.mark.parametrize(
    ("site", "operator"),
    [
        ("single_blocks[1].attn", "local_attention, layout: grid, window: 1"),
        ("single_blocks[1].attn", "hyena_x, layout: grid, kernel: 3"),
        ("single_blocks[1].mlp", "mix_ffn, kernel: 3"),
        ("blocks[1].mlp", "mix_ffn, kernel: 3"),
    ],
)
def test_a_text_before_the_grid_is_no_part_of_it(make: Make, tiny_flux: Path, site: str, operator: str) -> None:
    """What stands at a site of FLUX computes its definition, with as many tokens of text as the call has."""
    model: Any = archspec.load(make(tiny_flux, f'  - {{replace: "{site}", with: {{op: {operator}}}, init: random}}\n'))
    found: Any = next(m for m in model.modules() if isinstance(m, Operator) and m.signature.name in operator)
    seen: list[Any] = []
    mix = found.mix

    def watched(x: torch.Tensor, context: Context) -> torch.Tensor:
        seen.append((x, context, mix(x, context)))
        y: torch.Tensor = seen[-1][2]
        return y

    found.mix = watched
    with torch.no_grad():
        model(**inputs("flux", model, (2, 3)))
    x, context, y = seen[0]
    text = family("flux").example(model)["encoder_hidden_states"].shape[1]
    assert found.config.on_grid
    assert context.before == (0 if site.startswith("blocks") else text)
    assert x.shape[1] == context.before + 6
    wanted = type(found).reference(x, found.state_dict(), found.config, found.shape, context)
    torch.testing.assert_close(y, wanted, rtol=1e-4, atol=1e-5)


def test_pricing_asks_for_no_data(make: Make, tiny_flux: Path) -> None:
    edit = (
        '  - {replace: "single_blocks[*].attn", with: {op: local_attention, layout: grid, window: 1}, init: random}\n'
    )
    model: Any = archspec.load(make(tiny_flux, edit)).to("meta")
    for tokens in (64, 256):
        example = family("flux").example(model, tokens=tokens, device="meta")
        assert model(**example).sample.shape[1] == tokens


LEARNED = """\
name: grid
base: {host}
data: data.safetensors
edits:
  - replace: single_blocks[0:2].attn
    with: {{op: local_attention, layout: grid, window: {window}}}
    init: {{kind: least_squares, samples: 64}}
distill: {{samples: 32, epochs: 2, batch: 16, lr: 1e-3, cache: 0}}
"""


@pytest.mark.parametrize("window", [7, 1])
def test_parts_learn_on_the_grid_of_the_data(window: int, tiny_flux: Path, tmp_path: Path) -> None:
    """Pictures of 2 x 8 tokens: a window that holds all of them is the teacher's attention, a smaller one is not."""
    from archspec.compiler.driver import compile_spec
    from archspec.runtime.execution.execute import execute, read_plan
    from archspec.runtime.execution.workspace import Workspace

    shapes = {"x": (4, 4, 16), "caption": (5, 24), "pooled": (20,)}
    data = {name: torch.randn(96, *shape) for name, shape in shapes.items()}
    save_file(data, tmp_path / "data.safetensors")
    (tmp_path / "spec.yaml").write_text(LEARNED.format(host=tiny_flux, window=window))
    compile_spec(tmp_path / "spec.yaml", tmp_path / "out")
    assert execute(tmp_path / "out", device="cpu").complete
    reports = [Workspace(tmp_path / "out").report(task.key) for task in read_plan(tmp_path / "out").tasks]
    errors = [outcome["before"] for report in reports for outcome in report["outcomes"]]
    assert len(errors) == 4
    if window == 7:
        assert max(errors) < 1e-5
    else:
        assert min(errors) > 1e-3
