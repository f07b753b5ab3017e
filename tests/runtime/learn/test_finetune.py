from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from archspec.diagnostics import ArchspecError
from archspec.runtime.learn.feed import Feed
from archspec.runtime.learn.finetune import (
    Course,
    FinetuneSettings,
    checkpoints,
    choose_trainable,
    finetune,
    to_teacher,
)

B = "transformer_blocks"
Makes = Callable[..., Any]
SHORT = FinetuneSettings(steps=9, batch=8, lr=1e-3, warmup=3, schedule="cosine", ema=0.9, checkpoint=4)


class Stopped(Exception):
    pass


def course(feed: Feed, folder: Path, **changes: Any) -> Course:
    return replace(Course(feed.dataset, feed.objective, folder, torch.device("cpu")), **changes)


def model_of(student: Makes, install: Makes) -> nn.Module:
    found: nn.Module = student((install(f"{B}.1.attn1", "attn", "hyena_x"),))
    return found


def test_a_stopped_run_ends_with_the_same_bytes(
    student: Makes, install: Makes, feed: Feed, host: nn.Module, tmp_path: Path
) -> None:
    settings = replace(SHORT, distill_weight=0.5)
    whole, stopped = model_of(student, install), model_of(student, install)
    finetune(whole, course(feed, tmp_path / "whole", teacher=host), settings)

    class Examples:
        """Fails at the seventh batch."""

        calls = 0

        def __len__(self) -> int:
            return len(feed.dataset)

        def batch(self, indices: Any) -> Any:
            self.calls += 1
            if self.calls == 7:
                raise Stopped
            return feed.dataset.batch(indices)

    with pytest.raises(Stopped):
        finetune(stopped, course(feed, tmp_path / "parts", teacher=host, dataset=Examples()), settings)
    assert [p.name for p in checkpoints(tmp_path / "parts")] == ["step-00000004"]
    again = model_of(student, install)
    facts = finetune(again, course(feed, tmp_path / "parts", teacher=host), settings)
    assert facts["resumed_at"] == 4
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name]), name


def test_half_a_checkpoint_is_not_taken_for_one(student: Makes, install: Makes, feed: Feed, tmp_path: Path) -> None:
    (tmp_path / "partial").mkdir()
    (tmp_path / "partial" / "model.safetensors").write_bytes(b"half")
    assert finetune(model_of(student, install), course(feed, tmp_path), SHORT)["resumed_at"] == 0


def test_the_average_is_what_stays(student: Makes, install: Makes, feed: Feed, tmp_path: Path) -> None:
    averaged, last = model_of(student, install), model_of(student, install)
    finetune(averaged, course(feed, tmp_path / "a"), SHORT)
    finetune(last, course(feed, tmp_path / "b"), replace(SHORT, ema=None))
    start = model_of(student, install)
    name = f"{B}.1.attn1.readout.weight"
    near, far = (float((m.get_parameter(name) - start.get_parameter(name)).detach().norm()) for m in (averaged, last))
    assert 0 < near < far


def test_global_randomness_and_order_do_not_matter(student: Makes, install: Makes, feed: Feed, tmp_path: Path) -> None:
    found = []
    for number in range(2):
        torch.manual_seed(number)
        model = model_of(student, install)
        finetune(model, course(feed, tmp_path / str(number)), replace(SHORT, steps=3))
        found.append(model.state_dict())
    assert all(torch.equal(tensor, found[1][name]) for name, tensor in found[0].items())


def test_losses_fall_and_are_logged(student: Makes, install: Makes, feed: Feed, tmp_path: Path) -> None:
    lines: list[tuple[int, dict[str, float]]] = []
    settings = replace(SHORT, steps=40, lr=3e-3, schedule="constant", milestones=(20,))
    finetune(model_of(student, install), course(feed, tmp_path, log=lambda s, n: lines.append((s, dict(n)))), settings)
    assert [step for step, _ in lines] == [10, 20, 30, 40]
    assert lines[-1][1]["loss"] < lines[0][1]["loss"]
    assert lines[-1][1]["lr"] == pytest.approx(1.5e-3)
    assert all(line["gradient_norm"] > 0 for _, line in lines)


def test_frozen_and_old_weights_stay(student: Makes, install: Makes, feed: Feed, tmp_path: Path) -> None:
    model = model_of(student, install)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    choose_trainable(model, [f"{B}.1.attn1"], [f"{B}.1.attn1.conv"])
    finetune(model, course(feed, tmp_path), SHORT)
    changed = {name for name, tensor in model.state_dict().items() if not torch.equal(before[name], tensor)}
    assert changed
    assert all(name.startswith((f"{B}.1.attn1.project", f"{B}.1.attn1.readout")) for name in changed)


def test_nothing_to_train_is_an_error(student: Makes, install: Makes) -> None:
    with pytest.raises(ArchspecError) as caught:
        choose_trainable(model_of(student, install), [f"{B}.1.attn1"], [B])
    assert caught.value.diagnostics[0].code == "AS733"


def test_divergence_is_an_error(student: Makes, install: Makes, feed: Feed, tmp_path: Path) -> None:
    model = model_of(student, install)
    nn.init.constant_(model.get_parameter(f"{B}.1.attn1.readout.weight"), math.inf)
    with pytest.raises(ArchspecError) as caught:
        finetune(model, course(feed, tmp_path), SHORT)
    assert caught.value.diagnostics[0].code == "AS727"


def test_mixed_precision_runs_beside_full(student: Makes, install: Makes, feed: Feed, tmp_path: Path) -> None:
    for precision in ("bf16", "no"):
        model = model_of(student, install)
        finetune(model, course(feed, tmp_path / precision), replace(SHORT, steps=2, precision=precision))
        assert {p.dtype for p in model.parameters()} == {torch.float32}


def test_distances_to_the_teacher() -> None:
    logits = torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(0))
    assert to_teacher("lm", logits, logits).item() == pytest.approx(0.0, abs=1e-6)
    assert to_teacher("lm", logits, logits + 1).item() == pytest.approx(0.0, abs=1e-6)  # the same distribution
    assert to_teacher("flow", logits, logits + 2).item() == pytest.approx(4.0)
