from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers.activations import ACT2FN

from archspec.operators.mlp import ACTIVATIONS as NAMES
from archspec.runtime.model.initialize import can_inherit, initialize
from archspec.runtime.operators.mlp import ACTIVATIONS


def teach(weights: dict[str, torch.Tensor], x: torch.Tensor, activation: str) -> torch.Tensor:
    """The teacher's own output."""
    zero = x.new_zeros(1)
    h = x @ weights["up.weight"].T + weights.get("up.bias", zero)
    if "gate.weight" in weights:
        h = ACTIVATIONS[activation](x @ weights["gate.weight"].T + weights.get("gate.bias", zero)) * h
    else:
        h = ACTIVATIONS[activation](h)
    return h @ weights["down.weight"].T + weights.get("down.bias", zero)


def test_activations_are_those_of_transformers() -> None:
    assert tuple(ACTIVATIONS) == NAMES
    x = torch.linspace(-6, 6, 101, dtype=torch.float64)
    for name, act in ACTIVATIONS.items():
        torch.testing.assert_close(act(x), ACT2FN[name](x), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("site", ["dit.mlp", "llama.mlp"])
@pytest.mark.parametrize("extra", [0, 1, 29])
def test_inheriting_as_many_or_more_neurons_is_exact(rig: Callable[..., Any], site: str, extra: int) -> None:
    hidden = rig("mlp", site).shape.hidden + extra
    made = rig("mlp", site, hidden=hidden)
    initialize(made.operator, "inherit", made.teacher(), seed=5)
    expected = teach(made.teacher(), made.x, made.config.activation)
    torch.testing.assert_close(made.mix(), expected, rtol=1e-11, atol=1e-12)
    if extra:
        assert (made.operator.readout.weight[:, -extra:] == 0).all()
        assert (made.operator.up.weight[-extra:] != 0).all(), "new neurons must be able to learn"
        made.mix().sin().sum().backward()
        assert (made.operator.readout.weight.grad[:, -extra:] != 0).any()


@pytest.mark.parametrize("name", ["mlp", "mix_ffn", "moe"])
@pytest.mark.parametrize("extra", [0, 8])
def test_gates_begin_open(rig: Callable[..., Any], name: str, extra: int) -> None:
    """A gated MLP in place of one without gates does the same, and its gates can learn."""
    params = {"experts": 4, "top_k": 4} if name == "moe" else {"hidden": 40 + extra}
    made = rig(name, "dit.mlp", gated=True, **params)
    initialize(made.operator, "inherit", made.teacher(), seed=5)
    expected = teach(made.teacher(), made.x, made.config.activation)
    torch.testing.assert_close(made.mix(), expected, rtol=1e-11, atol=1e-12)
    made.mix().sin().sum().backward()
    assert (made.operator.up.weight.grad[:40] != 0).any()
    assert not can_inherit(rig("mlp", "dit.mlp", gated=True, bias=False).operator, made.teacher())
    assert not can_inherit(rig("mlp", "llama.mlp", gated=False).operator, made.teacher())


@pytest.mark.parametrize("site", ["dit.mlp", "llama.mlp"])
def test_dead_neurons_go_first(rig: Callable[..., Any], site: str) -> None:
    made = rig("mlp", site, hidden=20)
    teacher = made.teacher()
    dead = torch.arange(0, made.shape.hidden)[1::2][: made.shape.hidden - 20]
    teacher["down.weight"][:, dead] = 0
    initialize(made.operator, "inherit", teacher, seed=5)
    torch.testing.assert_close(made.mix(), teach(teacher, made.x, made.config.activation), rtol=1e-11, atol=1e-12)


def test_keep_takes_the_named_neurons_in_order(rig: Callable[..., Any]) -> None:
    made = rig("mlp", "dit.mlp", hidden=3)
    teacher = made.teacher()
    made.operator.keep(teacher, torch.tensor([5, 0, 31]))
    torch.testing.assert_close(made.operator.up.weight[2], teacher["up.weight"][31], rtol=0, atol=0)
    torch.testing.assert_close(made.operator.up.bias[1], teacher["up.bias"][0], rtol=0, atol=0)
    torch.testing.assert_close(made.operator.readout.weight[:, 0], teacher["down.weight"][:, 5], rtol=0, atol=0)
