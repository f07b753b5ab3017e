"""Narrower MLPs from weights alone: merging keeps what copies did, and pairs go in the order that the paper says."""

from __future__ import annotations

from typing import Any, get_args

import pytest
import torch
from torch import Tensor

from archspec.runtime.learn.narrowing import Way, narrowed


def mlp(hidden: int, gated: bool, seed: int = 0) -> dict[str, Tensor]:
    draws = torch.Generator().manual_seed(seed)
    sizes: dict[str, Any] = {
        "up.weight": (hidden, 6),
        "up.bias": (hidden,),
        "down.weight": (5, hidden),
        "down.bias": (5,),
    }
    sizes |= {"gate.weight": (hidden, 6)} if gated else {}
    return {name: torch.randn(size, generator=draws, dtype=torch.float64) for name, size in sizes.items()}


def run(weights: dict[str, Tensor], x: Tensor) -> Tensor:
    h = torch.nn.functional.silu(x @ weights["up.weight"].T + weights["up.bias"])
    h = h * (x @ weights["gate.weight"].T) if "gate.weight" in weights else h
    return h @ weights["down.weight"].T + weights["down.bias"]


@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("way", ["nearest", "clusters"])
def test_copies_are_merged_without_loss(way: Way, gated: bool) -> None:
    teacher = mlp(12, gated)
    order = torch.arange(12).repeat(2)[torch.randperm(24, generator=torch.Generator().manual_seed(1))]
    wide = {n: v[order] if n.startswith(("up.", "gate.")) else v for n, v in teacher.items()}
    wide["down.weight"] = torch.randn(5, 24, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    found, x = narrowed(wide, 12, way), mlp(30, False, seed=3)["up.weight"]
    assert found["up.weight"].shape == (12, 6)
    torch.testing.assert_close(run(found, x), run(wide, x), rtol=1e-6, atol=1e-6)
    assert (run(narrowed(wide, 12, "strongest"), x) - run(wide, x)).norm() > 0.1 * run(wide, x).norm()


def test_pairs_go_in_the_order_of_srinivas_and_babu() -> None:
    """By going through all pairs anew after each: the least |down_j|² |w_i - w_j|² first, down_i taking down_j."""
    teacher = mlp(14, False)
    rows = torch.cat((teacher["up.weight"], teacher["up.bias"][:, None]), 1)
    down, alive = teacher["down.weight"].clone(), list(range(14))
    for _ in range(6):
        pairs = [(i, j) for i in alive for j in alive if i != j]
        cost = [float(down[:, j].square().sum() * (rows[i] - rows[j]).square().sum()) for i, j in pairs]
        keep, gone = pairs[cost.index(min(cost))]
        down[:, keep] += down[:, gone]
        alive.remove(gone)
    found = narrowed(teacher, 8, "nearest")
    torch.testing.assert_close(found["up.weight"], teacher["up.weight"][alive], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(found["down.weight"], down[:, alive], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("way", get_args(Way))
def test_nothing_is_narrowed_that_is_not_wider(way: Way) -> None:
    teacher = mlp(7, True)
    for hidden in (7, 9):
        assert all(torch.equal(value, teacher[name]) for name, value in narrowed(teacher, hidden, way).items())
    small = narrowed(teacher, 1, way)
    assert small["down.weight"].shape == (5, 1)
    assert all(bool(value.isfinite().all()) for value in small.values())


def test_no_group_is_empty() -> None:
    """Three neurons alike and the strongest two of them chosen as centres: the third group still gets one."""
    teacher = mlp(6, False)
    teacher["up.weight"][:5] = teacher["up.weight"][0]
    teacher["up.bias"][:5] = teacher["up.bias"][0]
    teacher["down.weight"][:, 5] *= 1e-3
    found = narrowed(teacher, 4, "clusters")
    assert all(bool(value.isfinite().all()) for value in found.values())
    x = mlp(20, False, seed=3)["up.weight"]
    torch.testing.assert_close(run(found, x), run(teacher, x), rtol=1e-4, atol=1e-4)
