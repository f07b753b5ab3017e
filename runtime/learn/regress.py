"""Regression of each part to its teacher's output by AdamW: stage 1 of 2506.05340 (Eq. 2).

Parts of a wave share one run of the teacher and nothing else: each has its own optimizer, its own order of examples
(seeded by its name) and its own judge. With a cache the teacher runs once over all examples and each part then trains
by itself; without one the teacher runs again in every epoch, on the same examples with new noise, and the parts follow
in step. The weights that stay are those that were best on held-out examples, the start included, so a regression never
ends worse than it began. Training is in float32 whatever the model's dtype.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils import _pytree as pytree

from archspec.diagnostics import ArchspecError, Collector, fail
from archspec.runtime.learn.cache import ActivationCache
from archspec.runtime.learn.draws import Stream, seed_of
from archspec.runtime.learn.feed import Feed, Purpose
from archspec.runtime.learn.outcome import Outcome, RelativeError
from archspec.runtime.learn.parts import Part, place_on_grid
from archspec.runtime.learn.schedule import Schedule, rate
from archspec.runtime.learn.shown import Shown
from archspec.runtime.learn.taps import Record, record

JUDGEMENTS = 20
"""How often a part is measured on held-out examples, at most, evenly over its steps."""

Log = Callable[[str, int, Mapping[str, float]], None]
"""Called with a part's name, a step and numbers."""


@dataclass(frozen=True)
class RegressSettings:
    """As `archspec.language.stages.Distill`; `loss` is that of this part."""

    samples: int = 8192
    epochs: int = 200
    batch: int = 64
    lr: float = 1e-4
    warmup: int = 0
    schedule: Schedule = "cosine"
    weight_decay: float = 0.0
    clip: float | None = 10.0
    loss: Literal["l1", "l2", "huber"] = "l2"
    huber_delta: float = 1.0
    gate_weighted: bool = False
    cache: int = 2 * 1024**3
    seed: int = 0

    @property
    def steps(self) -> int:
        return self.epochs * math.ceil(self.samples / self.batch)


def loss_of(prediction: Tensor, seen: Record, settings: RegressSettings) -> Tensor:
    """Return the loss of a part's output; weighted by the gate, both outputs are multiplied by it first."""
    target = seen.output
    if settings.gate_weighted:
        if seen.gate is None:
            raise no_gate()
        prediction, target = prediction * seen.gate, target * seen.gate
    prediction, target = seen.real(prediction), seen.real(target)
    match settings.loss:
        case "l1":
            return F.l1_loss(prediction, target)
        case "l2":
            return F.mse_loss(prediction, target)
        case "huber":
            return F.huber_loss(prediction, target, delta=settings.huber_delta)


def no_gate() -> Exception:
    hint = "write gate_weighted false: this host multiplies the site's output by nothing"
    return fail("AS726", "gate_weighted is set, and the host has no gate behind the site", None, hint)


class Pupil:
    """One part in training: float32 weights, optimizer, order of examples, the best weights so far."""

    def __init__(self, part: Part, settings: RegressSettings, frozen: Sequence[str] = ()) -> None:
        self.settings = settings
        self.part = replace(part, module=copy.deepcopy(part.module).float().eval())
        for name, parameter in self.part.module.named_parameters():
            parameter.requires_grad_(not any(name == f or name.startswith(f + ".") for f in frozen))
        self.weights = [p for p in self.part.module.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(self.weights, lr=settings.lr, weight_decay=settings.weight_decay)
        self.order = Stream(settings.samples, settings.batch, seed_of(settings.seed, "order", part.name))
        self.start = self.best = math.inf
        self.errors: list[float] = []
        self.state: dict[str, Tensor] = {}
        self.diverged: int | None = None
        """Step at which the loss was no number: the part learns no more, the best weights so far stay."""

    def learn(self, step: int, seen: Record) -> float:
        """Take one optimizer step on a batch and return its loss."""
        s, seen = self.settings, to_float32(seen)
        for group in self.optimizer.param_groups:
            group["lr"] = s.lr * rate(step, s.steps, warmup=s.warmup, schedule=s.schedule)
        loss = loss_of(self.part.run(seen), seen, s)
        value = loss.item()
        if not math.isfinite(value):
            self.diverged = step
            return math.nan
        self.optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        if s.clip is not None:
            nn.utils.clip_grad_norm_(self.weights, s.clip)
        self.optimizer.step()
        return value

    @torch.no_grad()
    def judge(self, held_out: Iterator[Record]) -> dict[str, float]:
        """Measure on held-out examples and remember the weights when they are the best so far."""
        error, total, count = RelativeError(), 0.0, 0
        for seen in map(to_float32, held_out):
            prediction = self.part.run(seen)
            error.update(prediction, seen, self.part.baseline(seen))
            total += loss_of(prediction, seen, self.settings).item() * len(prediction)
            count += len(prediction)
        mean = total / count
        self.errors.append(error.value)
        if not self.state:
            self.start = mean
        if not self.state or mean < self.best:
            self.best, self.kept_error = mean, error.value
            self.state = {name: t.detach().clone() for name, t in self.part.module.state_dict().items()}
        return {"held_out_loss": mean, "relative_error": error.value}

    def finish(self, part: Part) -> Outcome:
        """Write the best weights into the model's own part. AS727 where even those it began with give no number."""
        if not math.isfinite(self.best):
            hint = "look at its init: the weights that it begins with overflow"
            raise fail("AS727", f"the regression of '{part.name}' diverged from the start", None, hint)
        part.module.load_state_dict(self.state)
        steps = self.settings.steps if self.diverged is None else self.diverged
        facts = {"loss_before": self.start, "loss_after": self.best, "steps": steps}
        facts |= {} if self.diverged is None else {"diverged": self.diverged}
        return Outcome(part.name, self.errors[0], self.kept_error, self.best < self.start, facts)


def to_float32(seen: Record) -> Record:
    """Return the record with its floating tensors in float32."""

    def cast(leaf: Any) -> Any:
        return leaf.float() if isinstance(leaf, Tensor) and leaf.is_floating_point() else leaf

    return Record(*pytree.tree_map(cast, tuple(vars(seen).values())))


def regress(
    parts: Sequence[tuple[Part, RegressSettings]],
    host: nn.Module,
    feed: Feed,
    folder: Path | None = None,
    frozen: Mapping[str, Sequence[str]] | None = None,
    log: Log = lambda *_: None,
    finished: Callable[[Outcome], None] = lambda _: None,
    shown: Shown | None = None,
) -> dict[str, Outcome]:
    """Train all parts of a wave. Their settings agree in all that concerns the teacher's run. One that diverges stops
    alone, with the best weights that it had; its outcome says so.

    `folder`: where the cache goes when memory is short. `frozen`: part name -> names under it that stay fixed.
    `finished` is called as soon as a part is done, so that its result can be kept. `shown`: where the teacher's
    activations are kept between runs.
    """
    shared = parts[0][1]
    place_on_grid([part for part, _ in parts], host, feed)
    pupils = {part.name: Pupil(part, settings, (frozen or {}).get(part.name, ())) for part, settings in parts}
    cached = shared.cache > 0
    lessons: _Lessons = (
        _Cached(pupils, host, feed, shared, folder, shown) if cached else _Live(pupils, host, feed, shared)
    )
    found: dict[str, Outcome] = {}
    failed = Collector()
    for names in [[name] for name in pupils] if cached else [list(pupils)]:
        _train([pupils[name] for name in names], lessons, shared, log)
        for part in (part for part, _ in parts if part.name in names):
            try:
                found[part.name] = pupils[part.name].finish(part)
                finished(found[part.name])
            except ArchspecError as error:
                failed.add(error.diagnostics)
    failed.raise_if_errors()
    return found


def _train(pupils: Sequence[Pupil], lessons: _Lessons, settings: RegressSettings, log: Log) -> None:
    every = max(1, settings.steps // JUDGEMENTS)
    for step in range(settings.steps + 1):
        pupils = [pupil for pupil in pupils if pupil.diverged is None]
        if step % every == 0 or step == settings.steps:
            for pupil in pupils:
                log(pupil.part.name, step, pupil.judge(lessons.held_out(pupil)))
        if step < settings.steps and pupils:
            losses = {p.part.name: p.learn(step, seen) for p, seen in lessons.step(pupils, step)}
            for name, loss in losses.items():
                if math.isfinite(loss):
                    log(name, step + 1, {"loss": loss})


class _Lessons:
    """Where records come from."""

    def step(self, pupils: Sequence[Pupil], step: int) -> Iterator[tuple[Pupil, Record]]:
        raise NotImplementedError

    def held_out(self, pupil: Pupil) -> Iterator[Record]:
        raise NotImplementedError


class _Cached(_Lessons):
    """One run of the teacher over all examples; held-out ones follow the others in the same arrays."""

    def __init__(
        self,
        pupils: Mapping[str, Pupil],
        host: nn.Module,
        feed: Feed,
        settings: RegressSettings,
        folder: Path | None,
        shown: Shown | None,
    ) -> None:
        self.samples, self.batch, self.device = settings.samples, settings.batch, feed.device
        self.count = settings.samples + feed.held_out
        self.cache = ActivationCache(self.count, folder)
        parts: tuple[tuple[int, int, Purpose], ...]
        parts = ((0, settings.samples, "train"), (settings.samples, feed.held_out, "held-out"))

        def show(names: Sequence[str]) -> None:
            taps = [pupils[name].part.tap for name in names]
            for offset, count, purpose in parts:
                for start, keywords in feed.batches(count, purpose):
                    self.cache.write(offset + start, record(host, taps, keywords, gates=settings.gate_weighted))

        if shown is None:
            show(list(pupils))
        else:
            shown.fill(self.cache, list(pupils), show)

    def step(self, pupils: Sequence[Pupil], step: int) -> Iterator[tuple[Pupil, Record]]:
        for pupil in pupils:
            yield pupil, self.cache.read(pupil.part.name, pupil.order[step], self.device)

    def held_out(self, pupil: Pupil) -> Iterator[Record]:
        for start in range(self.samples, self.count, self.batch):
            rows = range(start, min(start + self.batch, self.count))
            yield self.cache.read(pupil.part.name, list(rows), self.device)


class _Live(_Lessons):
    """The teacher runs for every batch, all parts learning from the same one; nothing is kept."""

    def __init__(self, pupils: Mapping[str, Pupil], host: nn.Module, feed: Feed, settings: RegressSettings) -> None:
        self.host, self.feed, self.settings = host, replace(feed, batch=settings.batch), settings
        self.taps = [p.part.tap for p in pupils.values()]
        self._epoch = -1
        self._batches: Iterator[tuple[int, Mapping[str, Any]]] = iter(())

    def _next(self, step: int) -> Mapping[str, Any]:
        epoch = step // math.ceil(self.settings.samples / self.settings.batch)
        if epoch != self._epoch:
            self._epoch, self._batches = epoch, self.feed.batches(self.settings.samples, "train", epoch)
        return next(self._batches)[1]

    def step(self, pupils: Sequence[Pupil], step: int) -> Iterator[tuple[Pupil, Record]]:
        seen = record(self.host, self.taps, self._next(step), gates=self.settings.gate_weighted)
        for pupil in pupils:
            yield pupil, seen[pupil.part.name]

    def held_out(self, pupil: Pupil) -> Iterator[Record]:
        for _, keywords in self.feed.batches(self.feed.held_out, "held-out"):
            yield record(self.host, [pupil.part.tap], keywords, gates=self.settings.gate_weighted)[pupil.part.name]
