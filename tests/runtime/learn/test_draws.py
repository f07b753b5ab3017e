from __future__ import annotations

import pytest
import torch
from torch import nn

from archspec.runtime.learn.draws import Stream, generator, seed_of
from archspec.runtime.learn.feed import Feed
from archspec.runtime.learn.schedule import rate


def test_seeds_hang_on_every_part_and_its_type() -> None:
    assert len({seed_of(1, "a"), seed_of("1", "a"), seed_of("a", 1), seed_of(1, "b"), seed_of(1)}) == 5
    assert seed_of(0, "x") == seed_of(0, "x") < 2**63


def test_a_stream_can_be_entered_anywhere() -> None:
    steps = [Stream(10, 4, seed=5)[step] for step in (7, 0, 3, 7)]
    whole = [Stream(10, 4, seed=5)[step] for step in range(8)]
    assert steps == [whole[7], whole[0], whole[3], whole[7]]


def test_every_epoch_of_a_stream_has_each_example_once() -> None:
    flat = [i for step in range(10) for i in Stream(10, 4, seed=5)[step]]
    epochs = [flat[start : start + 10] for start in range(0, 40, 10)]
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 4


def test_a_batch_may_be_larger_than_the_data() -> None:
    counts = [Stream(3, 7, seed=0)[0].count(i) for i in range(3)]
    assert sorted(counts) == [2, 2, 3]


def test_held_out_examples_are_never_learned_from(feed: Feed) -> None:
    assert not set(feed.indices("train")) & set(feed.indices("held-out"))
    assert len(feed.indices("train")) + len(feed.indices("held-out")) == 200
    assert len(feed.indices("held-out")) == 20


def test_the_same_batch_comes_again_and_other_epochs_have_other_noise(feed: Feed) -> None:
    one, again, other = (list(feed.batches(40, epoch=epoch)) for epoch in (0, 0, 1))
    assert [start for start, _ in one] == [0, 32]
    assert all(torch.equal(a[1]["hidden_states"], b[1]["hidden_states"]) for a, b in zip(one, again, strict=True))
    assert not torch.equal(one[0][1]["hidden_states"], other[0][1]["hidden_states"])
    assert torch.equal(one[0][1]["class_labels"], other[0][1]["class_labels"])


def test_more_samples_than_examples_are_examples_with_other_noise(feed: Feed) -> None:
    batches = [keywords for _, keywords in feed.batches(380)]
    assert sum(len(b["timestep"]) for b in batches) == 380
    times = torch.cat([b["timestep"] for b in batches])
    assert len(set(times.tolist())) == 380


def test_global_randomness_is_not_touched(feed: Feed) -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    list(feed.batches(64))
    generator("anything")
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize(
    ("schedule", "expected"), [("constant", 1.0), ("cosine", 0.5), ("linear", 0.5)], ids=lambda x: str(x)
)
def test_rates_half_way(schedule: str, expected: float) -> None:
    assert rate(55, 100, warmup=10, schedule=schedule) == pytest.approx(expected)  # type: ignore[arg-type]


def test_milestones_halve_and_warm_up_never_starts_at_nothing() -> None:
    assert [rate(s, 100, milestones=(10, 20)) for s in (9, 10, 20)] == [1, 0.5, 0.25]
    assert [rate(s, 100, warmup=4) for s in range(5)] == [0.25, 0.5, 0.75, 1.0, 1.0]


def test_rate_is_one_number_for_the_optimizer() -> None:
    weight = nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.AdamW([weight], lr=rate(0, 10) * 1e-3)
    assert optimizer.param_groups[0]["lr"] == 1e-3
