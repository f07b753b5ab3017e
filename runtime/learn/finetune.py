"""Finetuning of the whole edited model on its task: stage 2 of 2506.05340 (Eq. 1), with accelerate.

Step s is a function of the weights after step s - 1 and of s alone: its examples, noise, times, dropped labels and
dropout masks hang on (seed, s, process), its rate on s. So a run that was killed goes on from its last checkpoint to
the same bytes as one that was not. A checkpoint is accelerate's own folder (model, optimizer, moving average, scaler),
made under another name and renamed when whole; the one before is removed only then.

`accelerate launch` gives DDP, FSDP and mixed precision; a batch is the whole batch of all processes. A teacher, where
there is one, adds `distill_weight` times the distance to its output on the same inputs. With `keep` the weights that
were best on held-out examples stay (`keep.py`), and no step trains on those.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from archspec.diagnostics import fail
from archspec.runtime.learn.draws import Stream, batch_of, generator, seed_of
from archspec.runtime.learn.feed import Feed
from archspec.runtime.learn.keep import Judge, KeepSettings
from archspec.runtime.learn.schedule import Schedule, rate
from archspec.runtime.learn.taps import presence
from archspec.runtime.objectives import quiet_label_dropout

LOG_EVERY = 10
"""Steps between two lines of the metric log."""


@dataclass(frozen=True)
class FinetuneSettings:
    """As `archspec.language.stages.Finetune`."""

    steps: int = 1000
    batch: int = 256
    lr: float = 1e-4
    warmup: int = 0
    schedule: Schedule = "constant"
    milestones: tuple[int, ...] = ()
    weight_decay: float = 0.0
    clip: float | None = 1.0
    ema: float | None = 0.999
    distill_weight: float = 0.0
    precision: Literal["no", "bf16", "fp16"] = "no"
    checkpoint: int = 200
    seed: int = 0


@dataclass(frozen=True)
class Course:
    """What a finetuning works on. `folder` holds its checkpoints; `log` gets (step, numbers)."""

    dataset: Any
    objective: Any
    folder: Path
    device: torch.device
    teacher: nn.Module | None = None
    keep: KeepSettings | None = None
    """How the best weights are told; None: the last ones stay."""
    log: Callable[[int, Mapping[str, float]], None] = lambda *_: None


class Finetuning:
    """The moving parts of one run."""

    def __init__(self, model: nn.Module, course: Course, settings: FinetuneSettings) -> None:
        from accelerate import Accelerator
        from accelerate.state import AcceleratorState
        from diffusers.training_utils import EMAModel

        AcceleratorState._reset_state()  # of an earlier run in this process, whose precision may differ
        self.settings, self.course = settings, course
        self.accelerator = Accelerator(mixed_precision=settings.precision, cpu=course.device.type == "cpu")
        self._check_batch()
        model.float().train()
        quiet_label_dropout(model)
        self.weights = [p for p in model.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(self.weights, lr=settings.lr, weight_decay=settings.weight_decay)
        self.model, self.optimizer = self.accelerator.prepare(model, optimizer)
        self.ema = EMAModel(self.weights, decay=settings.ema) if settings.ema is not None else None
        if self.ema is not None:
            self.ema.to(self.accelerator.device)
            self.accelerator.register_for_checkpointing(self.ema)
        self.teacher = course.teacher.to(self.accelerator.device).eval() if course.teacher is not None else None
        feed = Feed(course.dataset, course.objective, settings.seed, settings.batch, self.accelerator.device)
        self.judge = Judge(feed, course.keep, settings.steps) if course.keep is not None else None
        if self.judge is not None:
            self.accelerator.register_for_checkpointing(self.judge)
        self.examples = range(len(course.dataset)) if self.judge is None else feed.indices("train")
        self.stream = Stream(len(self.examples), settings.batch, seed_of(settings.seed, "finetune"))

    def _check_batch(self) -> None:
        processes, batch = self.accelerator.num_processes, self.settings.batch
        if batch % processes:
            hint = f"write batch: {batch // processes * processes or processes}"
            raise fail("AS732", f"a batch of {batch} does not divide among {processes} processes", None, hint)

    def run(self) -> dict[str, Any]:
        """Train to the end, from the last checkpoint if there is one, and leave averaged weights in the model: the
        last, or the best."""
        s, first = self.settings, self._resume()
        sums: list[dict[str, float]] = []
        with torch.random.fork_rng(devices=[]):
            self._judge(first)
            for step in range(first, s.steps):
                sums.append(self._step(step))
                self._judge(step + 1)
                if (step + 1) % LOG_EVERY == 0 or step + 1 == s.steps:
                    self.course.log(step + 1, {k: sum(x[k] for x in sums) / len(sums) for k in sums[0]})
                    last, sums = sums[-1], []
                if (step + 1) % s.checkpoint == 0 and step + 1 < s.steps:
                    self._save(step + 1)
        if self.judge is not None:
            self.judge.restore(self.weights)
        elif self.ema is not None:
            self.ema.copy_to(self.weights)
        found = {"steps": s.steps, "resumed_at": first} | ({"loss": last["loss"]} if first < s.steps else {})
        return found | (self.judge.report() if self.judge is not None else {})

    def _step(self, step: int) -> dict[str, float]:
        """Take one optimizer step. A loss that is not finite ends the run."""
        s, process = self.settings, self.accelerator.process_index
        chosen = [self.examples[i] for i in self.stream[step][process :: self.accelerator.num_processes]]
        batch = batch_of(self.course.dataset, chosen, self.accelerator.device)
        keywords, target = self.course.objective.inputs(batch, generator(s.seed, "noise", step, process))
        torch.manual_seed(seed_of(s.seed, "dropout", step, process))
        factor = rate(step, s.steps, warmup=s.warmup, schedule=s.schedule, milestones=s.milestones)
        for group in self.optimizer.param_groups:
            group["lr"] = s.lr * factor
        loss, parts = self._loss(keywords, target)
        if not math.isfinite(loss.item()):
            raise fail("AS727", f"the finetuning diverged at step {step}", None, "use a smaller lr, or clip")
        self.optimizer.zero_grad(set_to_none=True)
        self.accelerator.backward(loss)
        norm = self.accelerator.clip_grad_norm_(self.weights, s.clip if s.clip is not None else math.inf)
        self.optimizer.step()
        if self.ema is not None:
            self.ema.step(self.weights)
        return parts | {"lr": s.lr * factor, "gradient_norm": float(norm) if norm is not None else math.nan}

    def _loss(self, keywords: Mapping[str, Any], target: Tensor) -> tuple[Tensor, dict[str, float]]:
        objective = self.course.objective
        prediction = objective.output(self.model(**keywords))
        task = objective.loss(prediction, target)
        if self.teacher is None or not self.settings.distill_weight:
            return task, {"loss": task.item()}
        distance = self._distance(prediction, keywords)
        total = task + self.settings.distill_weight * distance
        return total, {"loss": total.item(), "task_loss": task.item(), "teacher_distance": distance.item()}

    def _distance(self, prediction: Tensor, keywords: Mapping[str, Any]) -> Tensor:
        """Return the distance of a prediction to what the teacher says on the same inputs."""
        assert self.teacher is not None
        objective = self.course.objective
        with torch.no_grad(), self.accelerator.autocast():
            taught = objective.output(self.teacher(**keywords))
        return to_teacher(objective.name, prediction, taught, presence(keywords.get("attention_mask"), taught))

    @torch.no_grad()
    def _judge(self, step: int) -> None:
        """Judge the weights that would stay after `step` steps, where that is due. Every process runs all held-out
        examples, and the mean of what they found counts, so that all keep the same."""
        if self.judge is None or not self.judge.is_due(step):
            return
        with self._averaged():
            own = torch.tensor(self.judge.measure(self._held_out), device=self.accelerator.device)
            value = float(self.accelerator.reduce(own, "mean"))
            self.judge.offer(step, value, self.weights)
        self.course.log(step, {"held_out": value})

    def _held_out(self, keywords: Mapping[str, Any], target: Tensor) -> float:
        """Measure what weights are judged by on one batch."""
        if self.course.keep is not None and self.course.keep.by == "teacher":
            return self._distance(self.course.objective.output(self.model(**keywords)), keywords).item()
        return self._loss(keywords, target)[0].item()

    @contextmanager
    def _averaged(self) -> Iterator[None]:
        """Have the averaged weights in the model, which is evaluated, not trained."""
        self.model.eval()
        if self.ema is not None:
            self.ema.store(self.weights)
            self.ema.copy_to(self.weights)
        yield
        if self.ema is not None:
            self.ema.restore(self.weights)
        self.model.train()

    def _save(self, step: int) -> None:
        home = self.course.folder
        home.mkdir(parents=True, exist_ok=True)
        whole, partial = home / f"step-{step:08d}", home / "partial"
        if self.accelerator.is_main_process:
            shutil.rmtree(partial, ignore_errors=True)
        self.accelerator.wait_for_everyone()
        self.accelerator.save_state(str(partial))
        self.accelerator.wait_for_everyone()
        if self.accelerator.is_main_process:
            partial.rename(whole)
            for old in checkpoints(home)[:-1]:
                shutil.rmtree(old)

    def _resume(self) -> int:
        found = checkpoints(self.course.folder)
        if not found:
            return 0
        self.accelerator.load_state(str(found[-1]))
        return int(found[-1].name.removeprefix("step-"))


def checkpoints(folder: Path) -> list[Path]:
    """Return the whole checkpoints in a folder, the newest last."""
    return sorted(p for p in folder.glob("step-*") if p.is_dir())


def to_teacher(objective: str, prediction: Tensor, taught: Tensor, present: Tensor | None = None) -> Tensor:
    """Return the distance of outputs: mean squared, or for logits (..., vocabulary) the KL divergence per token; of
    the tokens that are `present` (batch, tokens), None: of all."""
    if present is not None:
        prediction, taught = prediction[present], taught[present]
    if objective in ("lm", "mlm", "classification"):
        own, theirs = (F.log_softmax(x.float(), dim=-1).flatten(0, -2) for x in (prediction, taught))
        return F.kl_div(own, theirs, reduction="batchmean", log_target=True)
    return F.mse_loss(prediction.float(), taught.float())


def choose_trainable(model: nn.Module, new: Iterable[str] | None, frozen: Iterable[str], *, none: bool = False) -> None:
    """Let the parameters under the paths `new` (None: all) train, except those under the paths `frozen`. AS733 where
    nothing does, unless `none` may."""

    def under(name: str, paths: Iterable[str]) -> bool:
        return any(name == path or name.startswith(path + ".") for path in paths)

    trained, fixed = None if new is None else list(new), list(frozen)
    for name, parameter in model.named_parameters():
        wanted = trained is None or under(name, trained)
        parameter.requires_grad_(wanted and not under(name, fixed))
    if not none and not any(p.requires_grad for p in model.parameters()):
        raise fail("AS733", "nothing is left to train", None, "freeze fewer sites, or write train all")


def finetune(model: nn.Module, course: Course, settings: FinetuneSettings) -> dict[str, Any]:
    """Train `model` in place (its parameters that require gradients) and return what can be said of the run."""
    return Finetuning(model, course, settings).run()
