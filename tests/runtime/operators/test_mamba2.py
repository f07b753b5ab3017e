from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers import DynamicCache

from archspec.host.structure import SiteShape
from archspec.runtime.model.initialize import initialize
from archspec.runtime.operators.base import reset
from archspec.runtime.operators.mamba2 import RATE, STEP
from archspec.runtime.operators.scan import has_kernel, scan, segment_sums, selective_scan

HEADS = {"groups": 3, "head_dim": 8, "state": 8, "expand": 1, "bias": True, "out_bias": True}
"""The heads of the teacher at dit.attn."""


def draw(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)).to(dtype)


def problem(tokens: int, dtype: torch.dtype = torch.float64) -> Any:
    """x, dt, rate, b, c with 4 heads in 2 groups, 5 values, 3 features."""
    x, b, c = draw(2, tokens, 4, 5, seed=1), draw(2, tokens, 2, 3, seed=2), draw(2, tokens, 2, 3, seed=3)
    dt, rate = draw(2, tokens, 4, seed=4).exp(), draw(4, seed=5).exp()
    return tuple(part.to(dtype) for part in (x, dt, rate, b, c))


def recurrence(x: Any, dt: Any, rate: Any, b: Any, c: Any, h: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """h (batch, heads, features, values)."""
    shared, rows = x.shape[2] // b.shape[2], []
    b, c = b.repeat_interleave(shared, 2), c.repeat_interleave(shared, 2)
    for i in range(x.shape[1]):
        h = h * (-rate * dt[:, i]).exp()[..., None, None]
        h = h + b[:, i, :, :, None] * (dt[:, i, :, None] * x[:, i])[:, :, None]
        rows.append(torch.einsum("bhnp,bhn->bhp", h, c[:, i]))
    return torch.stack(rows, 1), h


@pytest.mark.parametrize("chunk", [1, 3, 8, 64])
@pytest.mark.parametrize("tokens", [1, 2, 7, 8, 9, 37])
def test_chunks_equal_the_recurrence(tokens: int, chunk: int) -> None:
    x, dt, rate, b, c = problem(tokens)
    for h in (torch.zeros(2, 4, 3, 5, dtype=torch.float64), draw(2, 4, 3, 5, seed=6)):
        state = torch.unflatten(h, 1, (2, 2)).transpose(2, 3) if h.any() else None
        y, last = selective_scan(x, dt, rate, b, c, state, chunk)
        expected, end = recurrence(x, dt, rate, b, c, h)
        torch.testing.assert_close(y, expected, rtol=1e-11, atol=1e-12)
        torch.testing.assert_close(last.transpose(2, 3).flatten(1, 2), end, rtol=1e-11, atol=1e-12)


def test_segments_keep_their_digits_behind_long_ones() -> None:
    """After 1e7, a float32 running sum moves in steps of one: its differences would lose an exponent of -0.3."""
    a = torch.tensor([-1e7, -0.3, -0.2])
    sums = segment_sums(a)
    assert sums[2, 0].item() == pytest.approx(-0.5, rel=1e-6)
    assert sums[2, 1].item() == pytest.approx(-0.2, rel=1e-6)
    assert torch.isinf(sums.triu(1)[0, 1])


def test_extreme_steps_stay_finite() -> None:
    x, dt, rate, b, c = problem(40, torch.float32)
    x, dt, rate, b, c = parts = [part.requires_grad_() for part in (x, dt * 1e4, rate, b, c)]
    y, last = selective_scan(x, dt, rate, b, c, None, 16)
    grads = torch.autograd.grad(y.sum() + last.sum(), parts)
    assert all(torch.isfinite(found).all() for found in (y, last, *grads))


def test_initialization_is_that_of_mamba(rig: Callable[..., Any]) -> None:
    operator = rig("mamba2", SiteShape(width=512), tokens=1).operator.float()
    reset(operator, 0)
    step, rate = torch.nn.functional.softplus(operator.dt_bias), operator.a_log.exp()
    assert len(step) == 64
    assert STEP[0] * 0.999 < step.min() < 2e-3
    assert 5e-2 < step.max() < STEP[1] * 1.001
    middle = math.sqrt(STEP[0] * STEP[1])
    assert 20 < (step < middle).sum() < 44, "log-uniform"
    assert RATE[0] <= rate.min() < 3
    assert 14 < rate.max() <= RATE[1]
    assert 6.5 < rate.mean() < 10.5
    assert (operator.skip == 1).all()
    drawn = operator.dt_bias.clone()
    reset(operator, 0)
    assert torch.equal(operator.dt_bias, drawn)
    reset(operator, 1)
    assert not torch.equal(operator.dt_bias, drawn)


def test_bidirectional_mirrors(rig: Callable[..., Any]) -> None:
    made = rig("mamba2", "dit.attn", causal=False)
    torch.testing.assert_close(made.mix(made.x.flip(1)).flip(1), made.mix(), rtol=1e-11, atol=1e-12)
    alone = rig("mamba2", "dit.attn", causal=True)
    both = alone.operator._mix, made.operator._mix
    u = draw(2, 20, len(made.operator.conv.weight))
    dt = draw(2, 20, 3, seed=9)
    torch.testing.assert_close(both[0](u, dt, None, made.context), both[1](u, dt, None, made.context), rtol=0, atol=0)


def test_padding_on_the_left_changes_nothing(rig: Callable[..., Any]) -> None:
    made = rig("mamba2", "llama.attn")
    alone = made.mix()
    padded = torch.cat((torch.full((2, 3, 24), 9.0, dtype=torch.float64), made.x), 1)
    mask = torch.arange(23).expand(2, 23) >= 3
    torch.testing.assert_close(made.mix(padded, mask=mask)[:, 3:], alone, rtol=1e-11, atol=1e-12)


def test_the_cache_holds_one_state_and_the_last_inputs(rig: Callable[..., Any]) -> None:
    made, cache = rig("mamba2", "llama.attn", groups=3, state=5), DynamicCache()
    for start, end in ((0, 2), (2, 17), (17, 18)):
        made.at(start, end, cache=cache)
        assert cache.layers[0].keys.shape == (2, 3, 5, 1, 16)
        assert cache.layers[0].values.shape == (2, 3, 48 + 2 * 15)
    assert cache.get_seq_length() == 18


def test_inherits_values_keys_and_queries(rig: Callable[..., Any]) -> None:
    """With no decay, no gate's say and a wide linear part of silu, features are an unnormalised linear attention,
    normalised per head."""
    made = rig("mamba2", "dit.attn", causal=False, **HEADS)
    operator, teacher = made.operator, made.teacher()
    initialize(operator, "inherit", teacher, 0)
    _, x, b, c, dt = operator.project.weight.split(made.config.parts(made.shape))
    for part, name in ((x, "v"), (b, "k"), (c, "q")):
        torch.testing.assert_close(part, teacher[f"{name}.weight"], rtol=0, atol=0)
    assert not dt.any()
    torch.testing.assert_close(operator.readout.weight, teacher["o.weight"], rtol=0, atol=0)
    operator.a_log.data.fill_(-30.0)
    operator.project.weight.data[:24] = 0.0
    u = torch.nn.functional.linear(made.x, operator.project.weight, operator.project.bias)[..., 24:96]
    v, k, q = torch.unflatten(torch.nn.functional.silu(u), -1, (9, 8)).transpose(1, 2).chunk(3, 1)
    step = torch.nn.functional.softplus(operator.dt_bias)[:, None, None]
    weights = (q @ k.transpose(-1, -2)) * (1 + torch.eye(20, dtype=torch.float64))  # a token itself: in both directions
    y = ((step * weights) @ v) * torch.nn.functional.silu(torch.ones(1, dtype=torch.float64))
    y = y / (y.square().mean(-1, keepdim=True) + 1e-5).sqrt()
    torch.testing.assert_close(operator.features(made.x), y.transpose(1, 2).flatten(2), rtol=1e-9, atol=1e-10)


def test_inherits_grouped_heads(rig: Callable[..., Any]) -> None:
    made = rig("mamba2", "llama.attn", expand=1, head_dim=6, state=6, groups=4)
    teacher = made.teacher()
    initialize(made.operator, "inherit", teacher, 0)
    x = made.operator.project.weight.split(made.config.parts(made.shape))[1].unflatten(0, (4, 6))
    heads = teacher["v.weight"].unflatten(0, (2, 6))
    torch.testing.assert_close(x, heads[[0, 0, 1, 1]], rtol=0, atol=0)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="the kernel runs on CUDA")
@pytest.mark.parametrize("tokens", [1, 300])
def test_kernel_equals_the_scan(tokens: int) -> None:
    pytest.importorskip("mamba_ssm")
    x, dt, rate, b, c = (part.cuda() for part in problem(tokens, torch.float32))
    x, b, c = (torch.nn.functional.pad(part, (0, 16 - part.shape[-1])) for part in (x, b, c))
    assert has_kernel(x)
    state = draw(2, 2, 16, 2, 16, dtype=torch.float32).cuda()
    for first in (None, state):
        y, last = selective_scan(x, dt, rate, b, c, first, 32)
        expected, end = scan(x * dt[..., None], -rate * dt, b, c, first, 32)
        torch.testing.assert_close(y, expected, rtol=1e-2, atol=1e-2)  # the kernel multiplies in tf32
        torch.testing.assert_close(last, end, rtol=1e-2, atol=1e-2)


def test_the_kernel_is_called_in_its_own_layout(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without CUDA: a stand-in with the arguments of mamba_chunk_scan_combined, states (batch, heads, values, features)
    as its documentation has them."""

    def kernel(x: Any, dt: Any, A: Any, B: Any, C: Any, chunk_size: int, **options: Any) -> Any:
        assert set(options) == {"initial_states", "return_final_states"}
        first = options["initial_states"]
        h = torch.zeros(2, 4, 3, 5, dtype=x.dtype) if first is None else first.transpose(2, 3)
        y, last = recurrence(x, dt, -A, B, C, h)
        return y, last.transpose(2, 3)

    monkeypatch.setattr("archspec.runtime.operators.scan.has_kernel", lambda x: True)
    monkeypatch.setattr("archspec.runtime.operators.scan._kernel", lambda: kernel)
    x, dt, rate, b, c = problem(9)
    for state in (None, draw(2, 2, 3, 2, 5, seed=6)):
        y, last = selective_scan(x, dt, rate, b, c, state, 4)
        expected, end = scan(x * dt[..., None], -rate * dt, b, c, state, 4)
        torch.testing.assert_close(y, expected, rtol=1e-11, atol=1e-12)
        torch.testing.assert_close(last, end, rtol=1e-11, atol=1e-12)
