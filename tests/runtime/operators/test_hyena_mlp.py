from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.nn.functional import gelu, silu

from archspec.diagnostics import ArchspecError
from archspec.host.structure import SiteShape
from archspec.runtime.model.initialize import can_inherit, initialize

Make = Callable[..., Any]


def test_two_taps_by_hand(rig: Make) -> None:
    """2506.05340: each token has a filter of its own along its features; the first of k reads the last of q."""
    made = rig("hyena_mlp", "dit.mlp", kernel=2, hidden=5)
    u, (weight, bias) = made.operator.project(made.x), made.operator.conv.parameters()
    before = torch.cat((torch.zeros_like(u[..., :1]), u[..., :-1]), -1)
    mixed = before * weight[:, :, 0] + u * weight[:, :, 1] + bias[:, None]
    q, k, v = mixed.split(5, -1)
    torch.testing.assert_close(made.mix(), made.operator.readout(q * k * v), rtol=1e-12, atol=1e-13)
    torch.testing.assert_close(k[:, 3, 0], weight[3, 0, 0] * u[:, 3, 4] + weight[3, 0, 1] * u[:, 3, 5] + bias[3])


def test_parameters_as_the_paper_counts_them(rig: Make) -> None:
    """8 D² + 7 D + 5 N for r = 2, K = 4."""
    made = rig("hyena_mlp", "dit.mlp")
    assert sum(p.numel() for p in made.operator.parameters()) == 8 * 24**2 + 7 * 24 + 5 * 20
    assert tuple(made.operator.conv.weight.shape) == (20, 1, 4)


def test_shared_filters_are_those_of_tokens_that_agree(rig: Make) -> None:
    own, shared = rig("hyena_mlp", "dit.mlp"), rig("hyena_mlp", "dit.mlp", channels="shared")
    state = shared.operator.state_dict()
    state |= {key: value.expand(20, *value.shape[1:]) for key, value in state.items() if key.startswith("conv.")}
    own.operator.load_state_dict(state)
    torch.testing.assert_close(own.mix(), shared.mix(), rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("channels", ["tokens", "shared"])
def test_compiles_to_one_graph(rig: Make, channels: str) -> None:
    torch._dynamo.reset()
    made = rig("hyena_mlp", "dit.mlp", channels=channels)
    compiled: Any = torch.compile(made.operator, backend="aot_eager", fullgraph=True)
    y = compiled(made.x)
    torch.testing.assert_close(y, made.mix(), rtol=1e-12, atol=1e-13)
    y.sum().backward()


def test_another_number_of_tokens_is_refused_or_fine(rig: Make) -> None:
    made = rig("hyena_mlp", "dit.mlp", tokens=45)
    with pytest.raises(ArchspecError) as caught:
        made.mix()
    (found,) = caught.value.diagnostics
    assert (found.code, found.message) == ("AS350", "hyena_mlp has weights for each of 20 tokens, and was given 45")
    assert found.hints == ("run the model at its native size", "write channels shared")
    shared = rig("hyena_mlp", "dit.mlp", tokens=45, channels="shared")
    torch.testing.assert_close(shared.mix(), shared.reference(), rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("channels", ["tokens", "shared"])
def test_inherits_an_activation_bent_once(rig: Make, channels: str) -> None:
    """Of the strongest neurons, z (1/2 + 0.1 z) times a gate near one: near to GELU where z is small."""
    made = rig("hyena_mlp", "dit.mlp", channels=channels, hidden=40)
    teacher = made.teacher()
    initialize(made.operator, "inherit", teacher, seed=0)
    z = made.x @ teacher["up.weight"].T + teacher["up.bias"]
    gate = made.operator.features(made.x) / (z * (0.5 + 0.1 * z))
    assert 0.5 < (gate - 1).std() / 0.1 < 2.0
    torch.nn.init.zeros_(made.operator.project.weight[80:])
    expected = (z * (0.5 + 0.1 * z)) @ teacher["down.weight"].T + teacher["down.bias"]
    torch.testing.assert_close(made.mix(), expected, rtol=1e-11, atol=1e-12)
    small = torch.linspace(-0.5, 0.5, 11, dtype=torch.float64)
    assert (gelu(small) - small * (0.5 + 0.1 * small)).abs().max() < 0.08


def test_inherits_a_gated_teacher_whole(rig: Make) -> None:
    """SwiGLU has three maps and so has this: nothing is drawn."""
    made = rig("hyena_mlp", "llama.mlp", hidden=36)
    teacher = made.teacher()
    initialize(made.operator, "inherit", teacher, seed=0)
    z, up = made.x @ teacher["gate.weight"].T, made.x @ teacher["up.weight"].T
    expected = (z * (0.5 + 0.1 * z) * up) @ teacher["down.weight"].T
    torch.testing.assert_close(made.mix(), expected, rtol=1e-11, atol=1e-12)
    exact = (silu(z) * up) @ teacher["down.weight"].T
    assert (made.mix() - exact).norm() < 0.5 * exact.norm()


@pytest.mark.parametrize("hidden", [6, 60])
def test_fewer_neurons_are_the_strongest_and_more_contribute_nothing(rig: Make, hidden: int) -> None:
    made = rig("hyena_mlp", "llama.mlp", hidden=hidden)
    teacher = made.teacher()
    teacher["down.weight"][:, :-6] *= 1e-3
    initialize(made.operator, "inherit", teacher, seed=0)
    count = min(hidden, 36)
    project, readout = made.operator.project.weight, made.operator.readout.weight
    assert torch.equal(readout[:, :count], teacher["down.weight"][:, -count:])
    assert torch.equal(project[:count], teacher["gate.weight"][-count:])
    assert torch.equal(project[2 * hidden : 2 * hidden + count], teacher["up.weight"][-count:])
    assert not readout[:, count:].any()
    assert project[count:hidden].any() or hidden == 6


def test_what_cannot_be_imitated_is_not_inherited(rig: Make) -> None:
    shape = SiteShape(width=24, tokens=20, grid=(4, 5), hidden=40, activation="tanh")
    made = rig("hyena_mlp", shape)
    assert not can_inherit(made.operator, made.teacher())
    assert can_inherit(made.operator, {}) is False
    fine = rig("hyena_mlp", replace(shape, activation="gelu"))
    assert can_inherit(fine.operator, fine.teacher())
