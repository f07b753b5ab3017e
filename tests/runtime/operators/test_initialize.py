from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from archspec.diagnostics import InternalError
from archspec.operators import OPERATORS, signature
from archspec.runtime.learn.scores import norm_scores, select_neurons
from archspec.runtime.model.initialize import can_inherit, initialize, path_seed
from archspec.runtime.operators import module_class

SLOTS = {"dit.attn": "attn", "dit.mlp": "mlp", "llama.attn": "attn", "llama.mlp": "mlp", "qwen.attn": "attn"}
CASES = [(name, site) for name in OPERATORS for site, slot in SLOTS.items() if slot in signature(name).slots]
cases = pytest.mark.parametrize(("name", "site"), CASES, ids=[f"{n}@{s}" for n, s in CASES])
Make = Callable[..., Any]


def state(made: Any) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in made.operator.state_dict().items()}


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@cases
def test_random_depends_on_the_seed_alone(rig: Make, name: str, site: str) -> None:
    made = rig(name, site)
    initialize(made.operator, "random", {}, seed=11)
    first = state(made)
    torch.rand(17)
    initialize(made.operator, "random", {}, seed=12)
    other = state(made)
    before = torch.get_rng_state()
    initialize(made.operator, "random", {}, seed=11)
    assert torch.equal(before, torch.get_rng_state()), "the global random state moved"
    assert same(first, state(made))
    if any(value.dim() > 1 for value in first.values()):
        assert not same(first, other)


def test_random_does_not_depend_on_the_dtype(rig: Make) -> None:
    made = rig("hyena_x", "dit.attn")
    made.operator.float()
    initialize(made.operator, "random", {}, seed=3)
    single = state(made)
    made.operator.bfloat16()
    initialize(made.operator, "random", {}, seed=3)
    assert same({name: value.bfloat16() for name, value in single.items()}, state(made))


def test_random_has_torchs_spread(rig: Make) -> None:
    made = rig("attention", "dit.attn")
    initialize(made.operator, "random", {}, seed=0)
    bound = 24**-0.5
    for linear in (made.operator.q, made.operator.readout):
        assert 0.9 * bound < linear.weight.abs().max() <= bound
    assert not torch.equal(made.operator.q.weight, made.operator.k.weight)


def test_path_seeds_differ_and_stay() -> None:
    assert path_seed(0, "transformer_blocks.1.attn1") == 3022338405313320972, "a seed may never change between versions"
    seeds = {path_seed(seed, f"blocks.{i}.attn") for seed in range(4) for i in range(50)}
    assert len(seeds) == 200
    assert all(0 <= seed < 2**63 for seed in seeds)


@cases
def test_identity_changes_nothing_in_the_stream(rig: Make, name: str, site: str) -> None:
    made = rig(name, site)
    initialize(made.operator, "identity", {}, seed=1)
    expected = made.x if name == "identity" else torch.zeros_like(made.x)
    torch.testing.assert_close(made.mix(), expected, rtol=0, atol=0)
    if made.operator.readout is not None:
        made.mix().sum().backward()
        assert made.operator.readout.weight.grad.abs().max() > 0, "it must be able to leave zero"


@cases
def test_least_squares_starts_as_inherit_or_random(rig: Make, name: str, site: str) -> None:
    made = rig(name, site)
    teacher = made.teacher()
    initialize(made.operator, "least_squares", teacher, seed=2)
    found = state(made)
    initialize(made.operator, "inherit" if can_inherit(made.operator, teacher) else "random", teacher, seed=2)
    assert same(found, state(made))
    initialize(made.operator, "least_squares", {}, seed=2)
    found = state(made)
    initialize(made.operator, "random", {}, seed=2)
    assert same(found, state(made))


@pytest.mark.parametrize("site", ["dit.attn", "llama.attn", "qwen.attn"])
def test_inherited_attention_is_the_teacher(rig: Make, site: str) -> None:
    made = rig("attention", site)
    teacher = made.teacher()
    initialize(made.operator, "inherit", teacher, seed=0)
    renamed = {name.replace("o.", "readout.") if name[0] == "o" else name: value for name, value in teacher.items()}
    assert same(state(made), renamed)
    for name, params in (("local_attention", {"window": 19}), ("low_rank", {"rank": 24})):
        other = rig(name, site, **params)
        initialize(other.operator, "inherit", teacher, seed=0)
        atol = 0 if name == "local_attention" else 1e-12
        torch.testing.assert_close(other.mix(), made.mix(), rtol=0, atol=atol)


@pytest.mark.parametrize("kv_heads", [1, 2, 4])
def test_key_value_heads_are_pooled_or_repeated(rig: Make, kv_heads: int) -> None:
    full, made = rig("attention", "llama.attn"), rig("attention", "llama.attn", kv_heads=kv_heads)
    teacher = full.teacher()
    initialize(made.operator, "inherit", teacher, seed=0)
    if kv_heads == 1:
        pooled = teacher["k.weight"].view(2, 6, 24).mean(0)
        torch.testing.assert_close(made.operator.k.weight, pooled, rtol=1e-14, atol=0)
        return
    initialize(full.operator, "inherit", teacher, seed=0)
    torch.testing.assert_close(made.mix(), full.mix(), rtol=1e-12, atol=1e-13)


def teacher_maps(made: Any, teacher: dict[str, torch.Tensor]) -> tuple[torch.Tensor, ...]:
    """q, k and v of the teacher, key/value heads repeated, each with the norms of its rows."""
    zero = torch.zeros(1, dtype=torch.float64)
    heads = teacher["q.weight"].shape[0] // teacher["k.weight"].shape[0]

    def widened(t: torch.Tensor, name: str) -> torch.Tensor:
        groups = 1 if name == "q" else heads
        apart = t.reshape(*t.shape[:-1], -1, made.shape.head_dim)
        return apart.repeat_interleave(groups, -2).flatten(-2)

    found = {n: widened(made.x @ teacher[f"{n}.weight"].T + teacher.get(f"{n}.bias", zero), n) for n in "qkv"}
    norms = {n: widened(teacher[f"{n}.weight"].norm(dim=1), n) for n in "qk"}
    return found["q"], found["k"], found["v"], norms["q"], norms["k"]


@pytest.mark.parametrize("site", ["dit.attn", "llama.attn"])
@pytest.mark.parametrize("params", [{}, {"kernel": 1}, {"layout": "grid", "kernel": 3}])
def test_hyena_inherits_projections_with_gates_near_one(rig: Make, site: str, params: dict[str, Any]) -> None:
    if params.get("layout") and site == "llama.attn":
        return
    made = rig("hyena_x", site, filters="identity", **params)
    teacher = made.teacher()
    initialize(made.operator, "inherit", teacher, seed=0)
    q, k, v, q_norm, k_norm = teacher_maps(made, teacher)
    expected = (1 + 0.1 * q / q_norm) * (1 + 0.1 * k / k_norm) * v
    expected = expected @ teacher["o.weight"].T + teacher.get("o.bias", torch.zeros(1, dtype=torch.float64))
    torch.testing.assert_close(made.mix(), expected, rtol=1e-11, atol=1e-12)


def test_hyena_keeps_the_drawn_filters_of_the_values(rig: Make) -> None:
    """The gates are of the token itself, the values are mixed by the random filters."""
    made = rig("hyena_x", "dit.attn", kernel=3)
    initialize(made.operator, "random", {}, seed=0)
    drawn = made.operator.conv.weight.detach().clone()
    initialize(made.operator, "inherit", made.teacher(), seed=0)
    weight, bias, inner = made.operator.conv.weight, made.operator.conv.bias, made.operator.readout.in_features
    torch.testing.assert_close(weight[2 * inner :], drawn[2 * inner :], rtol=0, atol=0)
    assert weight[: 2 * inner, :, :2].abs().max() == 0
    assert bias.tolist() == [1.0] * (2 * inner) + [0.0] * inner


def test_hyena_with_dead_query_channels(rig: Make) -> None:
    """A channel without weights gets a filter of one, not of 1 / 0."""
    made = rig("hyena_x", "dit.attn", kernel=3)
    teacher = made.teacher()
    teacher["q.weight"][:] = 0.0
    initialize(made.operator, "inherit", teacher, seed=0)
    inner = made.operator.readout.in_features
    assert made.operator.conv.weight[:inner, 0, -1].tolist() == [1.0] * inner


@pytest.mark.parametrize("site", ["dit.attn", "dit.mlp", "llama.mlp"])
def test_low_rank_is_the_best_approximation(rig: Make, site: str) -> None:
    made = rig("low_rank", site, rank=5)
    teacher = made.teacher()
    initialize(made.operator, "inherit", teacher, seed=0)
    name, child = next((n, c) for n, c in made.operator.body.named_children() if hasattr(c, "expand"))
    product = child.expand.weight @ child.reduce.weight
    tail = torch.linalg.svdvals(teacher[f"{name}.weight"])[5:]
    torch.testing.assert_close((product - teacher[f"{name}.weight"]).norm(), tail.norm(), rtol=1e-10, atol=0)


def test_a_bias_that_the_teacher_has_not_is_zero(rig: Make) -> None:
    made, plain = rig("attention", "llama.attn", bias=True, out_bias=True), rig("attention", "llama.attn")
    for each in (made, plain):
        initialize(each.operator, "inherit", plain.teacher(), seed=0)
    torch.testing.assert_close(made.mix(), plain.mix(), rtol=1e-12, atol=1e-13)


def test_what_cannot_be_inherited_is_refused(rig: Make) -> None:
    made = rig("attention", "dit.attn", heads=6)
    with pytest.raises(InternalError, match="the teacher has 3 heads, not 6"):
        initialize(made.operator, "inherit", made.teacher(), seed=0)
    with pytest.raises(InternalError, match="the teacher's weights are nothing"):
        initialize(rig("attention", "dit.attn").operator, "inherit", {}, seed=0)
    with pytest.raises(InternalError, match="no initialization is called 'best'"):
        initialize(made.operator, "best", {}, seed=0)


def test_meta_operators_stay_meta(rig: Make) -> None:
    made = rig("attention", "dit.attn")
    with torch.device("meta"):
        operator = module_class("attention")(made.config, made.shape)
    initialize(operator, "random", {}, seed=0)
    assert all(p.is_meta for p in operator.parameters())


def test_selection_breaks_ties_by_order() -> None:
    scores = torch.tensor([1.0, 3.0, 3.0, 2.0, 3.0])
    assert select_neurons(scores, 2).tolist() == [1, 2]
    assert select_neurons(scores, 4).tolist() == [1, 2, 3, 4]
    assert select_neurons(scores, 9).tolist() == [0, 1, 2, 3, 4]


def test_scores() -> None:
    teacher = {
        "up.weight": torch.tensor([[3.0, 4.0], [1.0, 0.0]]),
        "down.weight": torch.tensor([[2.0, 0.0], [0.0, 7.0]]),
    }
    assert norm_scores(teacher).tolist() == [10.0, 7.0]
    gated = {**teacher, "gate.weight": torch.tensor([[1.0, 0.0], [0.0, 2.0]])}
    assert norm_scores(gated).tolist() == [10.0, 14.0]
