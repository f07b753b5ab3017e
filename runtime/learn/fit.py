"""Closed form: the linear map at the end of each new part, by least squares on the teacher's outputs. No gradient step.

An operator is features, then one linear read-out; a container of parallel blocks is branches, then a merge. With the
features fixed, the best read-out is a ridge regression whose normal equations are features x features: they grow while
the teacher runs, so nothing is cached, and a site's tokens are dropped before the next site is reached. Where a
narrower MLP inherits, the neurons that stay are chosen first, by the same activations (see `neurons`). Held at once are
the Gram matrices of all parts (the planner's waves keep them to a budget) and, while one part is solved, a few copies
of its own.

`sequential`: a part is fed what the already edited model feeds it, while its target stays the teacher's output, so it
makes up for the errors of the parts before it. Errors are measured on examples that no fit has seen; a fit that is
worse there than the weights it started from is not kept.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from archspec.diagnostics import InternalError, fail
from archspec.host.excerpt import Excerpt
from archspec.runtime.learn.cache import ActivationCache
from archspec.runtime.learn.feed import Feed, Purpose
from archspec.runtime.learn.least_squares import GramAccumulator
from archspec.runtime.learn.least_squares import fit as solve
from archspec.runtime.learn.neurons import NeuronWatch
from archspec.runtime.learn.outcome import Outcome, RelativeError
from archspec.runtime.learn.parts import Part, place_on_grid
from archspec.runtime.learn.shown import Shown
from archspec.runtime.learn.taps import Record, record, watch
from archspec.runtime.operators.base import Operator

Tick = Callable[[int], None]
"""Called with the number of examples done."""
See = Callable[[Part, Record], None]


@dataclass(frozen=True)
class FitSettings:
    """`ridge` is a fraction of the mean Gram diagonal; `samples` are examples, each with its own noise."""

    samples: int = 1024
    ridge: float = 1e-4
    sequential: bool = False
    gate_weighted: bool = False


@dataclass(frozen=True)
class Teacher:
    """The host, and (for sequential fits) the edited model as far as it has learned."""

    host: nn.Module
    student: nn.Module | None = None

    def show(
        self,
        parts: Sequence[Part],
        feed: Feed,
        count: int,
        purpose: Purpose,
        see: See,
        gates: bool = False,
        tick: Tick = lambda _: None,
    ) -> None:
        """Run the host on `count` examples, batch after batch, and give `see` each part with the call to imitate."""
        for start, keywords in feed.batches(count, purpose):
            self._run(parts, keywords, see, gates)
            tick(min(feed.batch, count - start))

    def _run(self, parts: Sequence[Part], keywords: Mapping[str, Any], see: See, gates: bool) -> None:
        """Show one batch: the host's output on the host's inputs, of which one is held at a time; or on the edited
        model's, of which all are (sequential parts come one by one)."""
        known = {part.name: part for part in parts}
        taps = [part.tap for part in parts]
        if self.student is None:
            watch(self.host, taps, keywords, lambda name, seen: see(known[name], seen), gates=gates)
            return
        found = record(self.host, taps, keywords, gates=gates)
        own = [replace(p.tap, first=p.paths[0], last=p.paths[0], foreign=0) for p in parts]
        for name, fed in record(self.student, own, keywords).items():
            found[name].args, found[name].kwargs = fed.args, fed.kwargs
            see(known[name], found[name])


@dataclass(frozen=True)
class Remembered(Teacher):
    """A teacher that runs once for all parts, or, where another run has kept what it showed, not at all. Everything is
    as its run would show it again, to the bit: what is kept is exact, and batches are the same."""

    cache: ActivationCache | None = None
    samples: int = 0

    @staticmethod
    def of(
        host: nn.Module, parts: Sequence[Part], feed: Feed, settings: FitSettings, shown: Shown, folder: Path
    ) -> Remembered:
        """Gather what the parts are shown, learning and held-out examples. `folder`: where it goes when memory is
        short."""
        cache = ActivationCache(settings.samples + feed.held_out, folder, exact=True)
        taps = {part.name: part.tap for part in parts}
        spans: tuple[tuple[int, int, Purpose], ...]
        spans = ((0, settings.samples, "train"), (settings.samples, feed.held_out, "held-out"))

        def show(names: Sequence[str]) -> None:
            for offset, count, purpose in spans:
                for start, keywords in feed.batches(count, purpose):
                    seen = record(host, [taps[name] for name in names], keywords, gates=settings.gate_weighted)
                    cache.write(offset + start, seen)

        shown.fill(cache, list(taps), show)
        return Remembered(host, None, cache, settings.samples)

    def show(
        self,
        parts: Sequence[Part],
        feed: Feed,
        count: int,
        purpose: Purpose,
        see: See,
        gates: bool = False,
        tick: Tick = lambda _: None,
    ) -> None:
        assert self.cache is not None  # `of` sees to it
        first = self.samples if purpose == "held-out" else 0
        for start in range(first, first + count, feed.batch):
            rows = range(start, min(start + feed.batch, first + count))
            for part in parts:
                see(part, self.cache.read(part.name, rows, feed.device))
            tick(len(rows))


@torch.no_grad()
def fit(
    parts: Sequence[Part],
    teacher: Teacher,
    feed: Feed,
    settings: FitSettings,
    donors: Mapping[str, Mapping[str, Excerpt]] | None = None,
    tick: Tick = lambda _: None,
) -> dict[str, Outcome]:
    """Fit all parts from one pass of the teacher (one more where neurons are chosen, and where a router is fitted).
    Parts must not contain one another.

    `donors`: part name -> canonical weight names to where the host has them, for narrower MLPs whose neurons are to be
    chosen.
    """
    place_on_grid(parts, teacher.host, feed)
    starts = {p.name: {k: t.clone() for k, t in p.module.state_dict().items()} for p in parts}
    before = _errors(parts, teacher, feed)
    if donors:
        _choose_neurons([p for p in parts if p.name in donors], teacher, feed, settings, donors)
    _calibrate(parts, teacher, feed, settings)
    _solve(parts, teacher, feed, settings, tick)
    after = _errors(parts, teacher, feed)
    found = {}
    for part in parts:
        kept = after[part.name] <= before[part.name]
        if not kept:
            part.module.load_state_dict(starts[part.name])
        found[part.name] = Outcome(part.name, before[part.name], after[part.name], kept, {"samples": settings.samples})
    return found


def _choose_neurons(
    parts: Sequence[Part],
    teacher: Teacher,
    feed: Feed,
    settings: FitSettings,
    donors: Mapping[str, Mapping[str, Excerpt]],
) -> None:
    watches = {p.name: NeuronWatch(teacher.host, p.tap.first, donors[p.name]) for p in parts}
    teacher.show(parts, feed, settings.samples, "train", lambda part, seen: watches[part.name].update(seen))
    for part in parts:
        if not isinstance(part.module, Operator):
            raise InternalError(f"fit: '{part.name}' chooses neurons and is no operator")
        part.module.inherit(watches.pop(part.name).choose(part.module.config.hidden))


def _calibrate(parts: Sequence[Part], teacher: Teacher, feed: Feed, settings: FitSettings) -> None:
    """Let operators that have more than a read-out to fit see the tokens first."""
    operators = {p.name: p.module for p in parts if isinstance(p.module, Operator)}
    calibrations = {name: found for name, op in operators.items() if (found := op.calibration()) is not None}
    if not calibrations:
        return
    chosen = [p for p in parts if p.name in calibrations]

    def see(part: Part, seen: Record) -> None:
        calibrations[part.name].update(seen.real(operators[part.name].tokens(seen.args, seen.kwargs)))

    teacher.show(chosen, feed, settings.samples, "train", see)
    for calibration in calibrations.values():
        calibration.finish(settings.ridge)


def _solve(parts: Sequence[Part], teacher: Teacher, feed: Feed, settings: FitSettings, tick: Tick) -> None:
    sums: dict[str, list[GramAccumulator]] = {}

    def see(part: Part, seen: Record) -> None:
        pieces = part.split(seen)
        if part.name not in sums:
            sums[part.name] = [GramAccumulator.empty(f.shape[-1], r.shape[-1], f.device) for f, r in pieces]
        sizes = [rest.shape[1] for _, rest in pieces]
        weight = token_weights(seen) if settings.gate_weighted and not part.group else _counted(seen)
        weights = [None] * len(sizes) if weight is None else torch.split(weight, sizes, dim=1)
        wanted = torch.split(seen.output, sizes, dim=1)
        for one, (features, rest), target, w in zip(sums[part.name], pieces, wanted, weights, strict=True):
            one.update(features, target - rest, w)

    teacher.show(parts, feed, settings.samples, "train", see, settings.gate_weighted, tick)
    for part in parts:
        _write(part, sums.pop(part.name), settings.ridge)


def _write(part: Part, sums: Sequence[GramAccumulator], ridge: float) -> None:
    for readout, one in zip(part.readouts, sums, strict=True):
        weight, bias = solve(one, ridge, bias=readout.bias is not None)
        readout.weight.copy_(weight)
        if bias is not None:
            readout.bias.copy_(bias)


def token_weights(seen: Record) -> Tensor:
    """Return (batch, tokens): the mean square, over channels, of the gate behind each token.

    A read-out has one Gram matrix for all its outputs, so a gate per channel enters by its mean.
    """
    if seen.gate is None:
        hint = "write gate_weighted false: this host multiplies the site's output by nothing"
        raise fail("AS726", "gate_weighted is set, and the host has no gate behind the site", None, hint)
    weights = seen.gate.float().square().mean(-1).expand(seen.output.shape[:-1])
    return weights if seen.present is None else weights * seen.present


def _counted(seen: Record) -> Tensor | None:
    """Return (batch, tokens) weights of zero and one where some tokens are padding."""
    return None if seen.present is None else seen.present.float()


def _errors(parts: Sequence[Part], teacher: Teacher, feed: Feed) -> dict[str, float]:
    found = {p.name: RelativeError() for p in parts}

    def see(part: Part, seen: Record) -> None:
        found[part.name].update(part.run(seen), seen, part.baseline(seen))

    teacher.show(parts, feed, feed.held_out, "held-out", see)
    return {name: error.value for name, error in found.items()}
