from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.nn.functional import linear

from archspec.diagnostics import ArchspecError


def gates(made: Any, u: torch.Tensor) -> torch.Tensor:
    q, k, v = u.chunk(3, -1)
    return linear(q * k * v, made.operator.readout.weight, made.operator.readout.bias)


@pytest.mark.parametrize(
    "params",
    [{}, {"kernel": 1}, {"causal": False}, {"causal": False, "kernel": 5}, {"layout": "grid", "kernel": 3}],
)
def test_identity_filters_leave_the_projections_alone(rig: Callable[..., Any], params: dict[str, Any]) -> None:
    made = rig("hyena_x", "dit.attn", filters="identity", **params)
    expected = gates(made, made.operator.project(made.x))
    torch.testing.assert_close(made.mix(), expected, rtol=1e-12, atol=1e-13)


def test_random_filters_are_torch_defaults(rig: Callable[..., Any]) -> None:
    made = rig("hyena_x", "dit.attn", kernel=4)
    weight = made.operator.conv.weight
    assert weight.abs().max() <= 0.5  # uniform in ±1/sqrt(kernel)
    assert weight.abs().max() > 0.4
    assert weight.std() > 0.2


def test_causal_taps_by_hand(rig: Callable[..., Any]) -> None:
    """Kernel 2: tap 0 weighs the token before, tap 1 the token itself (2506.05340: left padding, last tap now)."""
    made = rig("hyena_x", "dit.attn", kernel=2)
    u, conv = made.operator.project(made.x), made.operator.conv
    before = torch.cat((torch.zeros_like(u[:, :1]), u[:, :-1]), 1)
    mixed = before * conv.weight[:, 0, 0] + u * conv.weight[:, 0, 1] + conv.bias
    torch.testing.assert_close(made.mix(), gates(made, mixed), rtol=1e-12, atol=1e-13)


def test_parameters_as_the_paper_counts_them(rig: Callable[..., Any]) -> None:
    """Attention + 15 D for K = 4 at DiT's attention (four square maps with biases)."""
    count = {
        name: sum(p.numel() for p in rig(name, "dit.attn").operator.parameters()) for name in ("attention", "hyena_x")
    }
    assert count["hyena_x"] - count["attention"] == 15 * 24


@pytest.mark.parametrize("causal", [True, False])
def test_one_token(rig: Callable[..., Any], causal: bool) -> None:
    made = rig("hyena_x", "dit.attn", tokens=1, causal=causal)
    torch.testing.assert_close(made.mix(), made.reference(), rtol=1e-12, atol=1e-13)


def test_padding_on_the_left_changes_nothing(rig: Callable[..., Any]) -> None:
    made = rig("hyena_x", "llama.attn", bias=True)
    alone = made.mix()
    padded = torch.cat((torch.full((2, 3, 24), 9.0, dtype=torch.float64), made.x), 1)
    mask = torch.ones(2, 23, dtype=torch.bool)
    mask[:, :3] = False
    torch.testing.assert_close(made.operator.mix(padded, _context(mask))[:, 3:], alone, rtol=1e-12, atol=1e-13)


def _context(mask: torch.Tensor) -> Any:
    from archspec.runtime.operators.base import Context

    causal = torch.ones(mask.shape[1], mask.shape[1], dtype=torch.bool).tril()
    return Context(mask=causal & mask[:, None, None, :])


def test_grid_at_another_resolution(rig: Callable[..., Any]) -> None:
    made = rig("hyena_x", "dit.attn", layout="grid", kernel=3, tokens=180, batch=1)
    torch.testing.assert_close(made.mix(), made.reference(), rtol=1e-12, atol=1e-13)
    with pytest.raises(ArchspecError, match="AS790"):
        made.operator.mix(torch.zeros(1, 21, 24, dtype=torch.float64))
