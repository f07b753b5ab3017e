"""Mixtures of the teacher's neurons: grouping, routing, and work that is left out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from archspec.runtime.learn.clusters import balanced_groups, equal_shares
from archspec.runtime.model.initialize import can_inherit, initialize

Make = Callable[..., Any]


@pytest.mark.parametrize("site", ["dit.mlp", "llama.mlp"])
def test_all_experts_together_are_the_teacher(rig: Make, site: str) -> None:
    made, plain = rig("moe", site, experts=4, top_k=4), rig("mlp", site)
    for operator in (made.operator, plain.operator):
        initialize(operator, "inherit", made.teacher(), seed=5)
    torch.testing.assert_close(made.mix(), plain.mix(), rtol=1e-12, atol=1e-13)
    assert not torch.equal(made.operator.up.weight, plain.operator.up.weight), "neurons were not grouped"


def test_groups_are_found_again(rig: Make) -> None:
    """Neurons of four clear kinds, shuffled: each expert gets those of one kind, and tokens go to the kind they are."""
    made = rig("moe", "dit.mlp", experts=4, top_k=1)
    kinds = torch.eye(4, 24, dtype=torch.float64) * 3
    order = torch.randperm(40, generator=torch.Generator().manual_seed(0))
    teacher = made.teacher()
    teacher["up.weight"] = 0.1 * teacher["up.weight"] + kinds.repeat_interleave(10, 0)[order]
    teacher["up.bias"] = torch.zeros(40, dtype=torch.float64)
    initialize(made.operator, "inherit", teacher, seed=5)
    main = made.operator.up.weight[:, :4].argmax(1).view(4, 10)
    assert (main == main[:, :1]).all()
    assert main[:, 0].unique().numel() == 4
    chosen = made.operator.features(kinds[None] * 2).view(4, 4, 10).abs().sum(-1).argmax(-1)
    assert torch.equal(main[chosen, 0], torch.arange(4))


def test_equal_shares_go_by_the_nearest_pairs() -> None:
    distances = torch.rand(60, 5, generator=torch.Generator().manual_seed(0))
    slow, room = torch.full((60,), -1), [12] * 5
    for pair in distances.flatten().argsort().tolist():
        row, group = divmod(pair, 5)
        if slow[row] < 0 and room[group]:
            slow[row], room[group] = group, room[group] - 1
    assert torch.equal(equal_shares(distances, 12), slow)


def test_groups_are_nearer_than_any_cut() -> None:
    rows = torch.randn(64, 6, generator=torch.Generator().manual_seed(0))
    groups = balanced_groups(rows, 8)
    assert torch.equal(groups.flatten().sort().values, torch.arange(64))

    def within(parts: torch.Tensor) -> float:
        return float((rows[parts] - rows[parts].mean(1, keepdim=True)).square().sum())

    assert within(groups) < 0.75 * within(torch.arange(64).view(8, 8))


def test_only_chosen_experts_are_counted_and_work(rig: Make) -> None:
    """40 tokens, of 8 experts one: an eighth of the MLP, and the router, on real tensors and in the price."""
    made = rig("moe", "dit.mlp", experts=8, top_k=1)
    tokens, width, hidden = 40, 24, 40
    made.operator.float()
    for device in ("cpu", "meta"):
        with FlopCounterMode(display=False) as counter:
            made.operator.to(device).mix(made.x.float().to(device))
        assert counter.get_total_flops() == 2 * tokens * (width * 8 + 2 * width * hidden // 8)


def test_the_masked_and_the_grouped_way_agree(rig: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    made = rig("moe", "llama.mlp", experts=6, top_k=2)
    grouped = made.mix()
    grouped.square().sum().backward()
    grads = {name: p.grad.clone() for name, p in made.operator.named_parameters()}
    made.operator.zero_grad()
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    masked = made.mix()
    torch.testing.assert_close(masked, grouped, rtol=1e-12, atol=1e-13)
    masked.square().sum().backward()
    for name, parameter in made.operator.named_parameters():
        torch.testing.assert_close(parameter.grad, grads[name], rtol=1e-10, atol=1e-12)


def test_a_fitted_router_finds_the_experts_that_matter(rig: Make) -> None:
    made = rig("moe", "dit.mlp", experts=5, top_k=1, tokens=20, batch=60)
    initialize(made.operator, "inherit", made.teacher(), seed=5)
    best = made.operator.sizes(made.x).argmax(-1)
    before = (made.operator._scores(made.x).argmax(-1) == best).double().mean()
    fit = made.operator.calibration()
    fit.update(made.x[:30])
    fit.update(made.x[30:])
    fit.finish(1e-4)
    after = (made.operator._scores(made.x).argmax(-1) == best).double().mean()
    assert after > before > 0.2


def test_a_wider_mixture_cannot_inherit(rig: Make) -> None:
    made = rig("moe", "dit.mlp", hidden=48)
    assert not can_inherit(made.operator, made.teacher())
    (obstacle,) = made.config.obstacles(made.shape)
    assert "40 neurons to group, not 48" in obstacle.message
    narrow = rig("moe", "dit.mlp", hidden=20)
    initialize(narrow.operator, "inherit", narrow.teacher(), seed=5)
    assert narrow.operator.up.out_features == 20
