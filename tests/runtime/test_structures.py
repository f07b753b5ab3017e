"""Parallel and Tied: the arithmetic of merges, what they answer for, copying, pickling, moving."""

from __future__ import annotations

import copy
import io
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from archspec.runtime.model.structures import Inserted, Linked, Parallel, Tied, plain_merge, plain_skip

WIDTH = 6


class Block(nn.Module):
    """A block like a host's: takes more than its tokens, may return a tuple, has something that hosts read."""

    gradient_checkpointing = False

    def __init__(self, *, pair: bool = False, layer: int | None = None) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH)
        self.map = nn.Linear(WIDTH, WIDTH)
        self.pair, self.kind = pair, "full"
        self.attention = nn.Identity()
        if layer is not None:
            self.attention.layer_idx = layer  # type: ignore[assignment]
        self.seen: list[int] = []

    def forward(self, hidden: Tensor, scale: float = 1.0, **extra: Any) -> Any:
        self.seen.append(self.attention.__dict__.get("layer_idx", -1))
        y = hidden + scale * self.map(self.norm(hidden))
        return (y, "rest") if self.pair else y


@pytest.fixture
def x() -> Tensor:
    torch.manual_seed(0)
    return torch.randn(2, 5, WIDTH, dtype=torch.float64)


def blocks(count: int = 2, **options: Any) -> list[Block]:
    torch.manual_seed(1)
    return [Block(**options).double() for _ in range(count)]


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("kind", ["linear", "residual_linear", "sum", "average"])
def test_merges_are_the_formulas(x: Tensor, kind: str, count: int) -> None:
    parts = blocks(count)
    model = Parallel(parts, kind, WIDTH, dtype=torch.float64)
    ys = [part(x) for part in parts]
    if kind == "linear":
        assert model.merge is not None
        wanted = torch.cat(ys, -1) @ model.merge.weight.T + model.merge.bias
    elif kind == "residual_linear":
        assert model.merge is not None
        wanted = x + torch.cat([y - x for y in ys], -1) @ model.merge.weight.T + model.merge.bias
    elif kind == "sum":
        wanted = x + sum((y - x for y in ys), torch.zeros(()))
    else:
        wanted = sum(ys, torch.zeros(())) / count
    torch.testing.assert_close(model(x), wanted, rtol=0, atol=1e-14)


@pytest.mark.parametrize(("kind", "same"), [("linear", "average"), ("residual_linear", "sum")])
def test_a_learned_merge_starts_as_the_plain_one(x: Tensor, kind: str, same: str) -> None:
    parts = blocks(3)
    learned, plain = Parallel(parts, kind, WIDTH, dtype=torch.float64), Parallel(parts, same, WIDTH)
    learned.identify()
    torch.testing.assert_close(learned(x), plain(x), rtol=0, atol=1e-14)
    plain.identify()
    assert plain.merge is None
    assert plain_merge("linear", 3, 2).shape == (2, 6)


def test_unknown_merge_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown merge 'max'"):
        Parallel(blocks(), "max", WIDTH)


def test_parallel_passes_every_argument_on(x: Tensor) -> None:
    parts = blocks()
    model = Parallel(parts, "sum", WIDTH)
    torch.testing.assert_close(model(x, 0.0), x)
    torch.testing.assert_close(model(x, scale=0.0, anything=object()), x)
    torch.testing.assert_close(model(hidden=x, scale=0.0), x)


def test_parallel_returns_what_a_block_returns(x: Tensor) -> None:
    merged, rest = Parallel(blocks(pair=True), "average", WIDTH)(x)
    assert rest == "rest"
    torch.testing.assert_close(merged, Parallel(blocks(), "average", WIDTH)(x))


def test_parallel_answers_for_its_first_block() -> None:
    parts = blocks()
    model = Parallel(parts, "linear", WIDTH)
    assert model.norm is parts[0].norm
    assert model.kind == "linear"  # its own attributes come first
    assert model.pair is False
    with pytest.raises(AttributeError, match="nothing"):
        _ = model.nothing
    with pytest.raises(AttributeError):
        _ = model._hf_hook


def test_parallel_names_its_tensors() -> None:
    names = {name for name, _ in Parallel(blocks(), "linear", WIDTH).named_parameters()}
    parts = {f"branches.{k}.{rest}" for k in (0, 1) for rest in ("norm.weight", "norm.bias", "map.weight", "map.bias")}
    assert names == parts | {"merge.weight", "merge.bias"}


def test_tied_has_no_tensors_and_the_same_function(x: Tensor) -> None:
    (block,) = blocks(1)
    tied = Tied(block)
    assert list(tied.parameters()) == [] == list(tied.state_dict())
    torch.testing.assert_close(tied(x), block(x), rtol=0, atol=0)
    assert tied.norm is block.norm
    assert Tied(tied).target is block


def chain(target: Block, layer: int | None = None) -> Any:
    return nn.Sequential(target, nn.LayerNorm(WIDTH).double(), Tied(target, layer))


def test_a_copied_model_keeps_its_ties(x: Tensor) -> None:
    model = chain(blocks(1)[0])
    twin = copy.deepcopy(model)
    assert twin[2].target is twin[0] is not model[0]
    torch.testing.assert_close(twin(x), model(x), rtol=0, atol=0)


def test_a_pickled_model_keeps_its_ties(x: Tensor) -> None:
    model = chain(blocks(1)[0], 7)
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    twin = torch.load(file, weights_only=False)
    assert twin[2].target is twin[0]
    assert twin[2].layer_idx == 7
    torch.testing.assert_close(twin(x), model(x), rtol=0, atol=0)


def test_parallel_is_copied_and_pickled(x: Tensor) -> None:
    model = Parallel(blocks(), "linear", WIDTH, dtype=torch.float64)
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    for twin in (copy.deepcopy(model), torch.load(file, weights_only=False)):
        torch.testing.assert_close(twin(x), model(x), rtol=0, atol=0)


def test_moving_a_model_moves_the_target_once(x: Tensor) -> None:
    model = chain(blocks(1)[0]).float()
    assert model[2].target.map.weight.dtype == torch.float32
    assert model(x.float()).dtype == torch.float32
    before = model[0].map.weight.clone()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(2)
    torch.testing.assert_close(model[2].target.map.weight, 2 * before)


def test_gradients_of_both_uses_add_up(x: Tensor) -> None:
    (block,) = blocks(1)
    model = nn.Sequential(block, Tied(block))
    model(x).sum().backward()
    with_tie = block.map.weight.grad
    block.map.weight.grad = None
    block(block(x)).sum().backward()
    torch.testing.assert_close(with_tie, block.map.weight.grad, rtol=0, atol=0)


def test_tied_numbers_its_target_for_the_time_of_the_call(x: Tensor) -> None:
    (block,) = blocks(1, layer=2)
    model = nn.Sequential(block, Tied(block, 5), Tied(block))
    model(x)
    assert block.seen == [2, 5, 2]
    assert block.attention.layer_idx == 2


def test_the_number_is_put_back_when_the_call_fails() -> None:
    (block,) = blocks(1, layer=2)
    with pytest.raises(TypeError):
        Tied(block, 5)(None)
    assert block.attention.layer_idx == 2


@pytest.mark.parametrize("kind", ["linear", "residual_linear", "sum"])
def test_skips_are_the_formulas(x: Tensor, kind: str) -> None:
    first, second = blocks(2)
    source = Linked(first)
    target = Linked(second, source, kind, WIDTH, dtype=torch.float64)
    s = source(x)
    y = target(s, 2.0)
    if target.merge is None:
        wanted = s + s
    elif kind == "linear":
        wanted = torch.cat([s, s], -1) @ target.merge.weight.T + target.merge.bias
    else:
        wanted = s + s @ target.merge.weight.T + target.merge.bias
    torch.testing.assert_close(y, second(wanted, 2.0))
    assert torch.equal(s, first(x))


@pytest.mark.parametrize("kind", ["linear", "residual_linear"])
def test_a_plain_skip_changes_nothing(x: Tensor, kind: str) -> None:
    source, block = Linked(nn.Linear(WIDTH, WIDTH, dtype=torch.float64)), blocks(1)[0]
    target = Linked(block, source, kind, WIDTH, dtype=torch.float64)
    assert target.merge is not None
    with torch.no_grad():
        target.merge.weight.copy_(plain_skip(kind, WIDTH))
        target.merge.bias.zero_()
    source(torch.ones_like(x))
    torch.testing.assert_close(target(x), block(x), rtol=0, atol=0)


def test_a_skip_is_read_once_per_run_and_forgotten(x: Tensor) -> None:
    source = Linked(blocks(1)[0]).eval()
    target = Linked(blocks(1)[0], source, "sum", WIDTH).eval()
    with pytest.raises(RuntimeError, match="has not run"):
        target(x)
    with torch.no_grad():
        target(source(x))
    assert source.__dict__["held"] is None
    pair = nn.ModuleList([source, target])
    other = copy.deepcopy(pair)
    assert other[1].__dict__["source"] is other[0]
    torch.testing.assert_close(other[1](other[0](x)), target(source(x)))
    again = copy.deepcopy(pair)  # after a run whose output is still held, with its gradient
    torch.testing.assert_close(again[1](again[0](x)), target(source(x)))


def test_tuples_go_through_a_skip(x: Tensor) -> None:
    source = Linked(blocks(1, pair=True)[0])
    target = Linked(blocks(1, pair=True)[0], source, "sum", WIDTH)
    tokens, rest = target(hidden=source(x)[0])
    assert rest == "rest"
    assert tokens.shape == x.shape


def test_an_inserted_operator_is_a_residual_branch(x: Tensor) -> None:
    block, operator = blocks(1)[0], nn.Linear(WIDTH, WIDTH, dtype=torch.float64)
    model = Inserted(operator, block, WIDTH)
    wanted = x + operator(torch.nn.functional.layer_norm(x, (WIDTH,), eps=1e-6))
    torch.testing.assert_close(model(x), wanted)
    assert model.kind == "full"
    assert {name for name, _ in model.named_parameters()} == {"operator.weight", "operator.bias"}


STREAMS = (("image", 1), ("text", 0))


class Pair(nn.Module):
    """A block of two streams, text first in what it returns; the last one ends it."""

    def __init__(self, *, ends: bool = False) -> None:
        super().__init__()
        self.map = nn.Linear(2 * WIDTH, 2 * WIDTH, dtype=torch.float64)
        self.ends = ends

    def forward(self, image: Tensor, text: Tensor, scale: float = 1.0) -> tuple[Tensor | None, Tensor]:
        both = self.map(torch.cat([image, text.mean(1, keepdim=True).expand_as(image)], -1))
        moved, told = both.chunk(2, -1)
        return None if self.ends else text + scale * told.mean(1, keepdim=True), image + scale * moved


@pytest.fixture
def text() -> Tensor:
    return torch.randn(2, 3, WIDTH, dtype=torch.float64, generator=torch.Generator().manual_seed(4))


@pytest.mark.parametrize("by_place", [True, False])
@pytest.mark.parametrize("kind", ["linear", "residual_linear", "sum", "average"])
def test_each_stream_is_merged_by_a_map_of_its_own(x: Tensor, text: Tensor, kind: str, by_place: bool) -> None:
    parts = [Pair(), Pair()]
    model = Parallel(parts, kind, WIDTH, dtype=torch.float64, streams=STREAMS, beside=["text"])
    told, moved = model(x, text, 2.0) if by_place else model(scale=2.0, text=text, image=x)
    results = [part(x, text, 2.0) for part in parts]
    assert torch.equal(moved, model.combine(x, [image for _, image in results]))
    assert torch.equal(told, model.combine(text, [words for words, _ in results if words is not None], "merge_text"))
    assert list(model.maps) == (["merge", "merge_text"] if "linear" in kind else [])
    assert told.shape == text.shape


def test_a_stream_that_does_not_come_out_of_all_is_ended(x: Tensor, text: Tensor) -> None:
    model = Parallel([Pair(), Pair(ends=True)], "average", WIDTH, streams=STREAMS)
    told, moved = model(x, text)
    assert told is None
    assert moved.shape == x.shape


def test_what_is_inserted_lets_the_other_stream_by(x: Tensor, text: Tensor) -> None:
    operator = Taking()
    model = Inserted(operator, Pair(), WIDTH, STREAMS)
    told, moved = model(image=x, text=text)
    assert told is text
    torch.testing.assert_close(moved, x + 2 * torch.nn.functional.layer_norm(x, (WIDTH,), eps=1e-6))
    assert model(x, None)[0] is None


class Taking(nn.Module):
    def forward(self, image: Tensor, text: Tensor | None) -> Tensor:
        return 2 * image


def test_a_skip_is_of_the_own_stream(x: Tensor, text: Tensor) -> None:
    first, second = Pair(), Pair()
    source = Linked(first, streams=STREAMS)
    target = Linked(second, source, "sum", WIDTH, streams=STREAMS)
    told, moved = source(x, text)
    again, found = target(image=moved, text=told)
    wanted = second(moved + moved, told)
    assert torch.equal(found, wanted[1])
    assert torch.equal(again, wanted[0])
