from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers import DynamicCache

from archspec.host.structure import SiteShape
from archspec.operators.linear_attention import LinearAttention
from archspec.runtime.operators.base import Context
from archspec.runtime.operators.linear_attention import CHUNK, causal_sums, feature
from archspec.runtime.operators.linear_attention import LinearAttention as Module


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


@pytest.mark.parametrize("name", ["elu1", "relu", "relu2"])
def test_feature_maps(name: str) -> None:
    x = torch.linspace(-50, 50, 101, dtype=torch.float64, requires_grad=True)
    expected = torch.nn.functional.elu(x) + 1 if name == "elu1" else x.relu()
    if name == "relu2":
        expected = torch.cat((torch.where(x > 0, x**2, 0.0), torch.where(x < 0, x**2, 0.0)))
    torch.testing.assert_close(feature(x, name), expected, rtol=0, atol=1e-15)
    assert (feature(x, name) >= 0).all()
    (grad,) = torch.autograd.grad(feature(x, name).sum(), x)
    assert torch.isfinite(grad).all()
    extreme = torch.tensor([-1e4, 1e4], requires_grad=True)
    assert torch.isfinite(torch.autograd.grad(feature(extreme, name).sum(), extreme)[0]).all()


@pytest.mark.parametrize(
    ("site", "name"), [("dit.attn", "elu1"), ("dit.attn", "relu"), ("llama.attn", "elu1"), ("dit.attn", "relu2")]
)
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


def test_equals_sana() -> None:
    """feature relu, eps 1e-15, no rotary embeddings, no norms, no bias of the input maps: the class of diffusers."""
    from diffusers.models.attention_processor import Attention, SanaLinearAttnProcessor2_0

    torch.manual_seed(0)
    theirs = Attention(24, heads=3, dim_head=8, bias=False, out_bias=True, processor=SanaLinearAttnProcessor2_0())
    shape = SiteShape(width=24, tokens=20, grid=(4, 5), heads=3, kv_heads=3, head_dim=8, bias=False)
    config = LinearAttention(feature="relu", eps=1e-15).complete(shape)
    ours = Module(config, shape)
    adopted = {f"{n}.weight": getattr(theirs, f"to_{n}").weight for n in "qkv"}
    ours.inherit(adopted | {"o.weight": theirs.to_out[0].weight, "o.bias": theirs.to_out[0].bias})
    x = draw(2, 20, 24).float()
    for dtype, tolerance in ((torch.float32, 1e-6), (torch.bfloat16, 1e-2)):
        expected = theirs.to(dtype)(x.to(dtype))
        torch.testing.assert_close(ours.to(dtype)(x.to(dtype)), expected, rtol=tolerance, atol=tolerance)
    dead = torch.zeros(1, 20, 24)  # no weight at all: eps alone decides, and both say 0
    torch.testing.assert_close(ours.float()(dead), theirs.float()(dead), rtol=0, atol=0)


def test_the_convolution_is_of_the_values(rig: Callable[..., Any]) -> None:
    """LiT: y = average + DWC(v), and a filter that passes the token itself adds the value once."""
    for params in ({"conv": 3, "layout": "grid"}, {"conv": 3}, {"conv": 3, "causal": True}):
        made, plain = rig("linear_attention", "dit.attn", **params), rig("linear_attention", "dit.attn", **params)
        for each, tap in ((made, 1.0), (plain, 0.0)):
            for parameter in each.operator.conv.parameters():
                parameter.data.zero_()
            filters = each.operator.conv.weight.data.flatten(1)
            filters[:, -1 if params.get("causal") else filters.shape[1] // 2] = tap
        added = made.operator.features(made.x) - plain.operator.features(made.x)
        torch.testing.assert_close(added, made.operator.v(made.x), rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("params", [{"conv": 3, "layout": "grid"}, {"gate": True}, {"decay": True, "causal": True}])
def test_inheritance_starts_near_the_plain_one(rig: Callable[..., Any], params: dict[str, Any]) -> None:
    base = {"causal": True} if "decay" in params else {}
    made, plain = rig("linear_attention", "dit.attn", **params), rig("linear_attention", "dit.attn", **base)
    for each in (made, plain):
        each.operator.inherit(each.teacher())
    expected = plain.mix()
    assert 0 < (made.mix() - expected).norm() < 0.3 * expected.norm()


def test_decays_start_as_those_of_retention(rig: Callable[..., Any]) -> None:
    operator = rig("linear_attention", "llama.attn", decay=True).operator
    expected = 1 - 2.0 ** -(5 + torch.arange(4, dtype=torch.float64))
    torch.testing.assert_close(operator.decay.sigmoid(), expected, rtol=1e-7, atol=0)


def test_relu2_knows_no_scale(rig: Callable[..., Any]) -> None:
    """Both features are homogeneous: queries and keys twice as long leave the weights as they were."""
    made = rig("linear_attention", "dit.attn", feature="relu2", eps=1e-12)
    before = made.mix()
    for part in (made.operator.q, made.operator.k):
        for parameter in part.parameters():
            parameter.data.mul_(2.0)
    torch.testing.assert_close(made.mix(), before, rtol=1e-9, atol=1e-10)


OPTIONS = [
    {"conv": 4},
    {"decay": True},
    {"conv": 1, "gate": True, "feature": "relu2"},
    {"conv": 3, "gate": True, "decay": True, "feature": "relu2"},
]


@pytest.mark.parametrize("params", OPTIONS, ids=str)
@pytest.mark.parametrize("steps", [[1] * 20, [7, 1, 1, 11], [2, 18]], ids=str)
def test_steps_with_options_equal_the_whole(rig: Callable[..., Any], params: dict[str, Any], steps: list[int]) -> None:
    made, cache, parts, start = rig("linear_attention", "llama.attn", **params), DynamicCache(), [], 0
    for count in steps:
        parts.append(made.at(start, start + count, cache=cache))
        start += count
        assert cache.get_seq_length() == start
    torch.testing.assert_close(torch.cat(parts, 1), made.mix(), rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("params", OPTIONS, ids=str)
def test_padding_with_options(rig: Callable[..., Any], params: dict[str, Any]) -> None:
    made = rig("linear_attention", "qwen.attn", **params)
    mask = torch.ones(2, 20, dtype=torch.bool)
    mask[0, :5] = mask[1, 3:6] = False
    real = mask[..., None].expand_as(made.x)
    torch.testing.assert_close(made.mix(mask=mask)[real], made.reference(mask=mask)[real], rtol=1e-12, atol=1e-13)


def test_long_decayed_input_equals_reference(rig: Callable[..., Any]) -> None:
    made = rig("linear_attention", "llama.attn", tokens=2 * CHUNK + 3, batch=1, decay=True, conv=2)
    made.operator.decay.data.fill_(2.0)
    torch.testing.assert_close(made.mix(), made.reference(), rtol=1e-10, atol=1e-12)
