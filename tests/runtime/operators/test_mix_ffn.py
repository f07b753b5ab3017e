"""Mix-FFN against the modules of the libraries it is named after, and against the teacher that it inherits from."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from diffusers.models.transformers.sana_transformer import GLUMBConv
from torch import nn

from archspec.runtime.model.initialize import can_inherit, initialize
from archspec.runtime.operators.mlp import ACTIVATIONS

Make = Callable[..., Any]


@pytest.mark.parametrize(
    ("site", "params"),
    [
        ("dit.mlp", {}),
        ("dit.mlp", {"layout": "raster", "kernel": 4}),
        ("dit.mlp", {"causal": True}),
        ("dit.mlp", {"hidden": 47}),
        ("llama.mlp", {"kernel": 2}),
    ],
)
def test_inheriting_is_exact(rig: Make, site: str, params: dict[str, Any]) -> None:
    made, plain = rig("mix_ffn", site, **params), rig("mlp", site)
    teacher = made.teacher()
    initialize(made.operator, "inherit", teacher, seed=5)
    initialize(plain.operator, "inherit", teacher, seed=5)
    torch.testing.assert_close(made.mix(), plain.mix(), rtol=1e-12, atol=1e-13)
    made.mix().sin().sum().backward()
    assert (made.operator.conv.weight.grad != 0).any(), "filters must be able to learn"


def test_is_the_mlp_of_sana(rig: Make) -> None:
    made = rig("mix_ffn", "dit.mlp", gated=True, activation="silu", early=True, out_bias=False, ratio=2.5)
    theirs = GLUMBConv(24, 24, 2.5, residual_connection=False).double()
    ours, state = made.operator, theirs.state_dict()
    own = ours.state_dict()
    (own["up.weight"], own["gate.weight"]) = state["conv_inverted.weight"].flatten(1).chunk(2)
    (own["up.bias"], own["gate.bias"]) = state["conv_inverted.bias"].chunk(2)
    own["readout.weight"] = state["conv_point.weight"].flatten(1)
    ours.load_state_dict(own | {"conv.weight": state["conv_depth.weight"], "conv.bias": state["conv_depth.bias"]})
    image = made.x.transpose(1, 2).unflatten(2, (4, 5))
    torch.testing.assert_close(made.mix(), theirs(image).flatten(2).transpose(1, 2), rtol=1e-11, atol=1e-12)
    assert not can_inherit(ours, made.teacher())


def test_is_the_mlp_of_segformer(rig: Make) -> None:
    made = rig("mix_ffn", "dit.mlp", activation="gelu", hidden=40)
    up, conv, down = nn.Linear(24, 40), nn.Conv2d(40, 40, 3, padding=1, groups=40), nn.Linear(40, 24)
    theirs = nn.ModuleDict({"up": up, "conv": conv, "readout": down}).double()
    made.operator.load_state_dict(theirs.state_dict())
    image = conv(up(made.x).transpose(1, 2).unflatten(2, (4, 5)))
    torch.testing.assert_close(
        made.mix(), down(nn.functional.gelu(image.flatten(2).transpose(1, 2))), rtol=1e-11, atol=1e-12
    )


def test_a_raster_filter_reads_the_tokens_before(rig: Make) -> None:
    made = rig("mix_ffn", "llama.mlp", kernel=2, hidden=3)
    u = torch.cat((made.operator.up(made.x), made.operator.gate(made.x)), -1)
    weight, bias = made.operator.conv.parameters()
    before = torch.cat((torch.zeros_like(u[:, :1]), u[:, :-1]), 1)
    h, g = (before * weight[:, 0, 0] + u * weight[:, 0, 1] + bias).chunk(2, -1)
    torch.testing.assert_close(made.operator.features(made.x), ACTIVATIONS["silu"](g) * h, rtol=1e-12, atol=1e-13)
