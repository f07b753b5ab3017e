from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from archspec.runtime.operators.base import Context
from archspec.runtime.operators.linear_attention import CHUNK, causal_sums, feature


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def recurrence(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, state: torch.Tensor) -> tuple[Any, torch.Tensor]:
    rows = []
    for i in range(q.shape[2]):
        state = state + k[:, :, i, :, None] * v[:, :, i, None, :]
        rows.append(torch.einsum("bhd,bhde->bhe", q[:, :, i], state))
    return torch.stack(rows, 2), state


@pytest.mark.parametrize("tokens", [1, 2, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK + 7])
def test_chunks_equal_the_recurrence(tokens: int) -> None:
    q, k, v = draw(2, 3, tokens, 5, seed=1), draw(2, 3, tokens, 5, seed=2), draw(2, 3, tokens, 6, seed=3)
    for state in (None, draw(2, 3, 5, 6, seed=4)):
        sums, end = causal_sums(q, k, v, state)
        expected, last = recurrence(q, k, v, torch.zeros(2, 3, 5, 6) if state is None else state)
        torch.testing.assert_close(sums, expected, rtol=1e-11, atol=1e-11)
        torch.testing.assert_close(end, last, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("name", ["elu1", "relu"])
def test_feature_maps(name: str) -> None:
    x = torch.linspace(-50, 50, 101, dtype=torch.float64, requires_grad=True)
    expected = torch.nn.functional.elu(x) + 1 if name == "elu1" else x.relu()
    torch.testing.assert_close(feature(x, name), expected, rtol=0, atol=1e-15)
    assert (feature(x, name) >= 0).all()
    (grad,) = torch.autograd.grad(feature(x, name).sum(), x)
    assert torch.isfinite(grad).all()
    extreme = torch.tensor([-1e4, 1e4], requires_grad=True)
    assert torch.isfinite(torch.autograd.grad(feature(extreme, name).sum(), extreme)[0]).all()


@pytest.mark.parametrize(("site", "name"), [("dit.attn", "elu1"), ("dit.attn", "relu"), ("llama.attn", "elu1")])
def test_outputs_are_averages_of_values(rig: Callable[..., Any], site: str, name: str) -> None:
    """With constant values the weights must add up to one, whatever queries and keys are."""
    made = rig("linear_attention", site, feature=name)
    torch.nn.init.zeros_(made.operator.v.weight)
    if made.operator.v.bias is None:
        made.operator.v.bias = torch.nn.Parameter(torch.ones(made.operator.v.out_features, dtype=torch.float64))
    h = made.operator.features(made.x, made.context)
    groups = h.unflatten(-1, (made.config.kv_heads, -1))
    bias = made.operator.v.bias.unflatten(0, (made.config.kv_heads, 1, -1))
    expected = bias.expand(-1, made.config.heads // made.config.kv_heads, -1).flatten(1)
    torch.testing.assert_close(groups, expected.expand_as(groups), rtol=1e-4, atol=1e-4)


def test_bidirectional_is_indifferent_to_order(rig: Callable[..., Any]) -> None:
    made = rig("linear_attention", "dit.attn")
    order = torch.randperm(20, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(made.mix(made.x[:, order]), made.mix()[:, order], rtol=1e-12, atol=1e-13)


def test_long_input_equals_reference(rig: Callable[..., Any]) -> None:
    made = rig("linear_attention", "llama.attn", tokens=2 * CHUNK + 3, batch=1)
    torch.testing.assert_close(made.mix(), made.reference(), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("automatic", [False, True])
@pytest.mark.parametrize("causal", [False, True])
def test_half_precision_sums_in_single(rig: Callable[..., Any], automatic: bool, causal: bool) -> None:
    """4096 tokens of value 1 average to 1, and of which half are 0 to a half: a bfloat16 sum stops growing at 256."""
    made = rig("linear_attention", "dit.attn", tokens=4096, batch=1, causal=causal)
    torch.nn.init.zeros_(made.operator.v.weight)
    torch.nn.init.ones_(made.operator.v.bias)
    made.operator.to(torch.float32 if automatic else torch.bfloat16)
    x = made.x.to(made.operator.v.weight.dtype)
    with torch.autocast("cpu", torch.bfloat16, enabled=automatic):
        _, k, v = made.operator.project(x, Context())
        h = made.operator.features(x, Context())
        q = made.operator.project(x, Context())[0]
    assert v.dtype == k.dtype == torch.bfloat16
    assert h.dtype == x.dtype
    torch.testing.assert_close(h, torch.ones_like(h), rtol=0, atol=1e-5 if automatic else 4e-3)
    half = (torch.arange(4096) % 2).view(1, 1, -1, 1).expand_as(v).bfloat16()
    mean = made.operator._average(q, k, half, None, None)[0][:, :, -1]
    weights = feature(k.double(), "elu1") @ feature(q.double(), "elu1")[:, :, -1, :, None]
    torch.testing.assert_close(mean.double(), (weights * half).sum(2) / weights.sum(2), rtol=1e-4, atol=0)
