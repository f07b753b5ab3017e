"""Hyena-SE and Hyena-Y beside Hyena-X: what stands between W_in and W_out, and what is inherited."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.nn.functional import linear

from archspec.diagnostics import ArchspecError
from archspec.runtime.model.initialize import initialize
from archspec.runtime.operators.base import Context

Make = Callable[..., Any]
BOTH = pytest.mark.parametrize("name", ["hyena_se", "hyena_y"])
LAYOUTS: list[dict[str, Any]] = [{}, {"kernel": 1}, {"causal": False, "kernel": 5}, {"layout": "grid", "kernel": 3}]


def read_out(made: Any, h: torch.Tensor) -> torch.Tensor:
    return linear(h, made.operator.readout.weight, made.operator.readout.bias)


def by_hand(u: torch.Tensor, conv: Any) -> torch.Tensor:
    """A causal convolution of two taps: tap 0 weighs the token before, tap 1 the token itself."""
    before = torch.cat((torch.zeros_like(u[:, :1]), u[:, :-1]), 1)
    mixed: torch.Tensor = before * conv.weight[:, 0, 0] + u * conv.weight[:, 0, 1] + conv.bias
    return mixed


@pytest.mark.parametrize("params", LAYOUTS)
@BOTH
def test_identity_filters_leave_the_gates_alone(rig: Make, name: str, params: dict[str, Any]) -> None:
    made = rig(name, "dit.attn", filters="identity", **params)
    q, k, v = made.operator.project(made.x).chunk(3, -1)
    torch.testing.assert_close(made.mix(), read_out(made, q * k * v), rtol=1e-12, atol=1e-13)


def test_inner_filters_are_the_identity_as_published(rig: Make) -> None:
    """Hyena-SE draws its first filters and lets the inner ones pass through: it starts as a Hyena-X."""
    made, plain = rig("hyena_se", "dit.attn"), rig("hyena_x", "dit.attn")
    state = made.operator.state_dict()
    assert state["inner_conv.weight"].flatten(1).tolist() == [[0.0, 0.0, 0.0, 1.0]] * 24
    assert not state["inner_conv.bias"].any()
    assert state["conv.weight"].std() > 0.2
    plain.operator.load_state_dict({k: v for k, v in state.items() if "inner" not in k})
    torch.testing.assert_close(made.mix(), plain.mix(), rtol=1e-12, atol=1e-13)
    drawn = rig("hyena_se", "dit.attn", inner_filters="random").operator.inner_conv.weight
    assert 0.4 < drawn.abs().max() <= 0.5  # uniform in ±1/sqrt(kernel)


def test_what_is_drawn_does_not_depend_on_filters(rig: Make) -> None:
    """The same seed draws the same projections, whichever filters are then let through."""
    for name, key in (("hyena_x", "filters"), ("hyena_y", "filters"), ("hyena_se", "inner_filters")):
        one, other = (rig(name, "dit.attn", **{key: value}).operator for value in ("random", "identity"))
        assert torch.equal(one.project.weight, other.project.weight)


def test_the_order_of_convolutions_and_gates_by_hand(rig: Make) -> None:
    """2506.05340, Tab. 3: SE convolves q, k and v and then k ∘ v; Y convolves k ∘ v alone."""
    made = rig("hyena_se", "dit.attn", kernel=2, inner_kernel=2, inner_filters="random")
    q, k, v = by_hand(made.operator.project(made.x), made.operator.conv).chunk(3, -1)
    expected = read_out(made, q * by_hand(k * v, made.operator.inner_conv))
    torch.testing.assert_close(made.mix(), expected, rtol=1e-12, atol=1e-13)
    made = rig("hyena_y", "dit.attn", kernel=2, filters="random")
    q, k, v = made.operator.project(made.x).chunk(3, -1)
    expected = read_out(made, q * by_hand(k * v, made.operator.inner_conv))
    torch.testing.assert_close(made.mix(), expected, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize(("name", "more"), [("hyena_x", 15), ("hyena_se", 20), ("hyena_y", 5)])
def test_parameters_as_the_paper_counts_them(rig: Make, name: str, more: int) -> None:
    counts = [sum(p.numel() for p in rig(n, "dit.attn").operator.parameters()) for n in ("attention", name)]
    assert counts[1] - counts[0] == more * 24


@pytest.mark.parametrize("causal", [True, False])
@BOTH
def test_one_token(rig: Make, name: str, causal: bool) -> None:
    made = rig(name, "dit.attn", tokens=1, causal=causal, filters="random")
    torch.testing.assert_close(made.mix(), made.reference(), rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("params", [{"filters": "random"}, {"filters": "random", "kernel": 3}])
@BOTH
def test_padding_changes_nothing(rig: Make, name: str, params: dict[str, Any]) -> None:
    """Not even through the biases, which make k ∘ v of a padded token anything but zero. Whole, and step by step."""
    from transformers import DynamicCache

    made = rig(name, "llama.attn", bias=True, **params)
    torch.nn.init.normal_(made.operator.inner_conv.weight)
    alone = made.mix()
    padded = torch.cat((torch.full((2, 3, 24), 9.0, dtype=torch.float64), made.x), 1)
    mask = torch.ones(2, 23, dtype=torch.bool)
    mask[:, :3] = False
    torch.testing.assert_close(made.operator.mix(padded, Context(mask=mask))[:, 3:], alone, rtol=1e-11, atol=1e-12)
    cache: Any = DynamicCache()
    parts = [
        made.operator.mix(padded[:, a:b], Context(mask=mask[:, :b], cache=cache))
        for a, b in [(0, 2), (2, 4), *((i, i + 1) for i in range(4, 23))]
    ]
    torch.testing.assert_close(torch.cat(parts, 1)[:, 3:], alone, rtol=1e-11, atol=1e-12)


@BOTH
def test_grid_at_another_resolution(rig: Make, name: str) -> None:
    made = rig(name, "dit.attn", layout="grid", kernel=3, filters="random", tokens=180, batch=1)
    torch.testing.assert_close(made.mix(), made.reference(), rtol=1e-12, atol=1e-13)
    with pytest.raises(ArchspecError, match="AS790"):
        made.operator.mix(torch.zeros(1, 21, 24, dtype=torch.float64))


@pytest.mark.parametrize("params", LAYOUTS)
@pytest.mark.parametrize("site", ["dit.attn", "llama.attn", "qwen.attn"])
@BOTH
def test_inherits_projections_with_gates_near_one(rig: Make, name: str, site: str, params: dict[str, Any]) -> None:
    if site != "dit.attn" and (params.get("layout") or params.get("causal") is False):
        return
    made = rig(name, site, filters="identity", **params)
    teacher = made.teacher()
    initialize(made.operator, "inherit", teacher, seed=0)
    zero = torch.zeros(1, dtype=torch.float64)

    def widened(t: torch.Tensor) -> torch.Tensor:
        groups = (made.shape.heads * made.shape.head_dim) // t.shape[-1]
        heads = t.reshape(*t.shape[:-1], -1, made.shape.head_dim)
        return heads.repeat_interleave(groups, -2).flatten(-2)

    q, k, v = (widened(made.x @ teacher[f"{n}.weight"].T + teacher.get(f"{n}.bias", zero)) for n in "qkv")
    q_norm, k_norm = (widened(teacher[f"{n}.weight"].norm(dim=1)) for n in "qk")
    expected = (1 + 0.1 * q / q_norm) * (1 + 0.1 * k / k_norm) * v
    expected = expected @ teacher["o.weight"].T + teacher.get("o.bias", zero)
    torch.testing.assert_close(made.mix(), expected, rtol=1e-11, atol=1e-12)


def test_inheriting_keeps_the_drawn_filters(rig: Make) -> None:
    """Hyena-Y's, and those of v and of k ∘ v in Hyena-SE."""
    for name, params in (("hyena_y", {"filters": "random"}), ("hyena_se", {"inner_filters": "random"})):
        made = rig(name, "dit.attn", **params)
        initialize(made.operator, "random", {}, seed=0)
        drawn = {key: value.clone() for key, value in made.operator.state_dict().items()}
        initialize(made.operator, "inherit", made.teacher(), seed=0)
        found = made.operator.state_dict()
        assert torch.equal(found["inner_conv.weight"], drawn["inner_conv.weight"])
        assert torch.equal(found["inner_conv.bias"], drawn["inner_conv.bias"])
        if name == "hyena_se":
            assert torch.equal(found["conv.weight"][48:], drawn["conv.weight"][48:])
            assert found["conv.bias"].tolist() == [1.0] * 48 + [0.0] * 24


def test_a_dead_query_channel_is_a_gate_of_one(rig: Make) -> None:
    made = rig("hyena_y", "dit.attn")
    teacher = made.teacher()
    teacher["q.weight"][:] = 0.0
    teacher["q.bias"][:] = 0.0
    initialize(made.operator, "inherit", teacher, seed=0)
    q = made.operator.project(made.x)[..., :24]
    assert torch.equal(q, torch.ones_like(q))
