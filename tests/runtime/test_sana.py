"""SANA: its linear attention is ours to the last digits, edits reload in plain diffusers, plans teach it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import archspec
from archspec.runtime.families import family
from archspec.runtime.objectives import make_objective
from archspec.runtime.store.home import home

Make = Callable[..., Path]
EDITS = {
    "operators": '  - {replace: "blocks[0].attn", with: {op: hyena_x, layout: grid, kernel: 3}, init: random}\n'
    '  - {replace: "blocks[1].attn", with: {op: local_attention, window: 1, layout: grid}}\n'
    '  - {replace: "blocks[2].cross_attn", with: zero}\n',
    "blocks": '  - {drop: "blocks[0]"}\n  - {parallelize: "blocks[1:3]", by: 2, merge: linear}\n'
    '  - {repeat: "blocks[3]", times: 2}\n',
    "inserted": '  - {insert: "blocks[1]", with: {op: mix_ffn, ratio: 1, gated: true}, init: random}\n',
}


def answer(model: Any) -> torch.Tensor:
    example = family("sana").example(model, batch=2)
    with torch.no_grad():
        found: torch.Tensor = model(**example).sample
    return found


def test_its_attention_is_linear_attention(tiny_sana: Path, make: Make) -> None:
    from diffusers import SanaTransformer2DModel

    edits = '  - {replace: "blocks[*].attn", with: {op: linear_attention, feature: relu, eps: 1e-15}, init: inherit}\n'
    host = SanaTransformer2DModel.from_pretrained(tiny_sana)
    torch.testing.assert_close(answer(archspec.load(make(tiny_sana, edits))), answer(host), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("edits", EDITS)
def test_saved_and_loaded_again_to_the_bit(edits: str, tiny_sana: Path, make: Make, tmp_path: Path) -> None:
    model: Any = archspec.load(make(tiny_sana, EDITS[edits]))
    wanted = answer(model)
    assert bool(wanted.isfinite().all())
    model.save_pretrained(tmp_path / "again")
    again: Any = getattr(archspec, type(model).__name__).from_pretrained(tmp_path / "again")
    assert torch.equal(answer(again), wanted)


def test_its_task_is_flow_on_captions(tiny_sana: Path) -> None:
    objective = make_objective(home(tiny_sana))
    assert objective.name == "flow"
    batch = {"x": torch.zeros(2, 4, 4, 4), "caption": torch.ones(2, 5, 24)}
    keywords, target = objective.inputs(batch, torch.Generator().manual_seed(0))
    assert keywords.keys() == {"hidden_states", "timestep", "encoder_hidden_states", "encoder_attention_mask"}
    from diffusers import SanaTransformer2DModel

    model = SanaTransformer2DModel.from_pretrained(tiny_sana)
    assert objective.output(model(**keywords)).shape == target.shape
