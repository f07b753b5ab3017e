"""Low-rank training: adapters on old maps alone, merged to plain weights, the same bytes after a kill."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from archspec.diagnostics import ArchspecError
from archspec.runtime.learn.feed import Feed
from archspec.runtime.learn.finetune import checkpoints, choose_trainable, finetune
from archspec.runtime.learn.lora import LoraSettings, adapt, merge

from .test_finetune import SHORT, B, Stopped, course, model_of

Makes = Callable[..., Any]
LOW = LoraSettings(rank=2, alpha=4.0, sites=(f"{B}.0.attn1", f"{B}.2.ff"))
OLD = {f"{B}.0.attn1.{name}.weight" for name in ("to_q", "to_k", "to_v", "to_out.0")}
OLD |= {f"{B}.2.ff.net.0.proj.weight", f"{B}.2.ff.net.2.weight"}


def ready(student: Makes, install: Makes) -> nn.Module:
    model = model_of(student, install)
    choose_trainable(model, [f"{B}.1.attn1"], [], none=True)
    adapt(model, LOW, LOW.sites, seed=3)
    return model


def test_adapters_begin_as_nothing_and_merge_to_plain_weights(student: Makes, install: Makes) -> None:
    model, plain = ready(student, install), model_of(student, install)
    assert set(merge(model)) == OLD
    assert model.state_dict().keys() == plain.state_dict().keys()
    for name, tensor in plain.state_dict().items():
        assert torch.equal(tensor, model.state_dict()[name])


def test_new_parts_and_targets_change_and_nothing_else(
    student: Makes, install: Makes, feed: Feed, tmp_path: Path
) -> None:
    model, before = ready(student, install), model_of(student, install).state_dict()
    finetune(model, course(feed, tmp_path), SHORT)
    merge(model)
    changed = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    new = {name for name in changed if name.startswith(f"{B}.1.attn1.")}
    assert new
    assert changed - new == OLD
    for name in OLD:
        delta = model.state_dict()[name] - before[name]
        assert int(torch.linalg.matrix_rank(delta.double(), rtol=1e-4)) <= LOW.rank


def test_a_stopped_run_ends_with_the_same_bytes(student: Makes, install: Makes, feed: Feed, tmp_path: Path) -> None:
    whole, stopped, again = (ready(student, install) for _ in range(3))
    finetune(whole, course(feed, tmp_path / "whole"), SHORT)

    class Examples:
        calls = 0

        def __len__(self) -> int:
            return len(feed.dataset)

        def batch(self, indices: Any) -> Any:
            self.calls += 1
            if self.calls == 7:
                raise Stopped
            return feed.dataset.batch(indices)

    with pytest.raises(Stopped):
        finetune(stopped, course(feed, tmp_path / "parts", dataset=Examples()), SHORT)
    assert checkpoints(tmp_path / "parts")
    finetune(again, course(feed, tmp_path / "parts"), SHORT)
    assert merge(whole) == merge(again)
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name]), name


def test_no_map_to_add_to_is_an_error(student: Makes, install: Makes) -> None:
    with pytest.raises(ArchspecError) as caught:
        adapt(model_of(student, install), LOW, (), seed=0)
    assert caught.value.diagnostics[0].code == "AS733"


def test_transposed_maps_of_gpt2_are_linear_maps(tiny_gpt2: Path, recwarn: pytest.WarningsRecorder) -> None:
    from transformers import GPT2LMHeadModel

    model: Any = GPT2LMHeadModel.from_pretrained(tiny_gpt2).eval()
    place, ids = "transformer.h.1.attn", torch.arange(8)[None]
    before, plain = model.state_dict()[f"{place}.c_attn.weight"].clone(), model(ids).logits
    adapt(model, LoraSettings(rank=2, alpha=4.0), [place], seed=3)
    assert torch.equal(model(ids).logits, plain)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, generator=torch.Generator().manual_seed(0))
    adapted = model(ids).logits
    assert merge(model) == [f"{place}.c_attn.weight", f"{place}.c_proj.weight"]
    torch.testing.assert_close(model(ids).logits, adapted)
    assert not torch.equal(adapted, plain)
    delta = model.state_dict()[f"{place}.c_attn.weight"] - before
    assert int(torch.linalg.matrix_rank(delta.double(), rtol=1e-4)) == 2
    assert [str(w.message) for w in recwarn if "fan_in" in str(w.message)] == []
