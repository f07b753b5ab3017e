from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from archspec.diagnostics import ArchspecError
from archspec.runtime.data.examples import Part
from archspec.runtime.learn.feed import Feed
from archspec.runtime.learn.finetune import (
    Course,
    FinetuneSettings,
    checkpoints,
    choose_trainable,
    finetune,
    to_teacher,
)
from archspec.runtime.learn.keep import Judge, KeepSettings

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


KEEP = KeepSettings(by="loss", every=3, samples=40)


def test_a_stopped_run_keeps_the_same_best_and_judges_no_step_twice(
    student: Makes, install: Makes, feed: Feed, host: nn.Module, tmp_path: Path
) -> None:
    settings, keep = replace(SHORT, distill_weight=0.5), replace(KEEP, by="teacher")
    whole, stopped = model_of(student, install), model_of(student, install)
    facts = finetune(whole, course(feed, tmp_path / "whole", teacher=host, keep=keep), settings)
    judged: list[int] = []

    def log(step: int, numbers: Mapping[str, float]) -> None:
        judged.extend([step] if "held_out" in numbers else [])
        if step == 6 and len(judged) == 3:
            raise Stopped

    with pytest.raises(Stopped):
        finetune(stopped, course(feed, tmp_path / "parts", teacher=host, keep=keep, log=log), settings)
    again = model_of(student, install)
    resumed = finetune(again, course(feed, tmp_path / "parts", teacher=host, keep=keep, log=log), settings)
    assert judged == [0, 3, 6, 6, 9]  # what was judged after the last checkpoint is judged again, with the same result
    assert resumed == facts | {"resumed_at": 4}
    assert all(torch.equal(tensor, again.state_dict()[name]) for name, tensor in whole.state_dict().items())


def test_a_finetuning_that_does_harm_leaves_the_start(
    student: Makes, install: Makes, feed: Feed, host: nn.Module, tmp_path: Path
) -> None:
    model, settings = student(()), replace(SHORT, lr=1e-2)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    facts = finetune(model, course(feed, tmp_path, teacher=host, keep=replace(KEEP, by="teacher")), settings)
    values = dict(facts["judged"])
    assert facts["kept"] == 0
    assert values[0] == 0 < min(values[3], values[6], values[9])  # the student is its teacher, until it learns
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("ema", [None, 0.2])
def test_what_is_kept_is_what_was_judged(
    student: Makes, install: Makes, feed: Feed, tmp_path: Path, ema: float | None
) -> None:
    """The best of a long run is, to the bit, what a run of so many steps leaves, and measures as was said."""
    settings = replace(SHORT, lr=6e-2, warmup=0, schedule="constant", ema=ema, steps=21)
    best = model_of(student, install)
    facts = finetune(best, course(feed, tmp_path / "best", keep=KEEP), settings)
    assert 0 < facts["kept"] < 21
    held_out = replace(feed, seed=settings.seed, batch=settings.batch)
    examples = Part(feed.dataset, np.array(held_out.indices("train")))
    short = model_of(student, install)
    finetune(short, course(feed, tmp_path / "short", dataset=examples), replace(settings, steps=facts["kept"]))
    assert all(torch.equal(tensor, short.state_dict()[name]) for name, tensor in best.state_dict().items())
    count, total = 0, 0.0
    for _, keywords, target in held_out.tasks(KEEP.samples, "held-out"):
        with torch.no_grad():
            output = feed.objective.output(best.eval()(**keywords))
        total, count = total + float((output - target).square().mean()) * len(target), count + len(target)
    assert count == KEEP.samples
    assert dict(facts["judged"])[facts["kept"]] == pytest.approx(total / count, rel=1e-5)


def test_no_step_trains_on_held_out_examples(student: Makes, install: Makes, feed: Feed, tmp_path: Path) -> None:
    seen: list[int] = []

    class Examples(Part):
        def batch(self, indices: Any) -> Any:
            seen.extend(indices)
            return super().batch(indices)

    everything = np.arange(len(feed.dataset))
    finetune(
        model_of(student, install), course(feed, tmp_path / "a", dataset=Examples(feed.dataset, everything)), SHORT
    )
    seed = replace(feed, seed=SHORT.seed)
    assert set(seen) & set(seed.indices("held-out"))
    seen.clear()
    judged = course(feed, tmp_path / "b", dataset=Examples(feed.dataset, everything), keep=replace(KEEP, samples=20))
    finetune(model_of(student, install), judged, SHORT)
    times = Counter(seen)
    assert {times[i] for i in seed.indices("held-out")} == {4}  # once at each of the four judgements, never else


def test_numbers_that_are_none_are_not_kept(feed: Feed) -> None:
    judge = Judge(feed, KEEP, 9)
    with pytest.raises(ArchspecError) as caught:
        judge.offer(0, math.nan, [])
    assert caught.value.diagnostics[0].code == "AS727"


def test_of_equal_weights_the_earliest_stay(feed: Feed) -> None:
    judge = Judge(feed, KEEP, 9)
    for step, value in ((0, 2.0), (3, 1.0), (6, 1.0), (9, 1.5)):
        judge.offer(step, value, [torch.tensor(float(step))])
    weight = torch.zeros(())
    judge.restore([weight])
    assert (weight.item(), judge.report()["kept"]) == (3, 3)
