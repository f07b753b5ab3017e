"""How each kind of task of a plan is run: `RUNNERS[kind](context, tasks of one wave, main)`.

`main` is whether this process writes what all processes made together. Every runner ends by keeping an artifact per
task.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar

from torch import Tensor

from archspec.diagnostics import fail
from archspec.host.excerpt import Excerpt
from archspec.plan import Task
from archspec.runtime.learn.feed import Feed
from archspec.runtime.learn.outcome import Outcome
from archspec.runtime.learn.parts import Part, find_part, places
from archspec.runtime.learn.settings import read_settings
from archspec.runtime.learn.shown import Shown

if TYPE_CHECKING:
    from archspec.runtime.execution.execute import Context

T = TypeVar("T")
Runner = Callable[["Context", Sequence[Task], bool], None]


def settings_of(cls: type[T], task: Task) -> T:
    try:
        return read_settings(cls, task.settings)
    except ValueError as error:
        raise fail("AS721", f"malformed plan: in task '{task.id}', {error}") from error


def _feed(context: Context, task: Task) -> Feed:
    objective = context.objective(task.settings.get("objective", {}))
    seed, batch = task.settings.get("seed", 0), task.settings.get("batch", 64)
    return Feed(context.dataset(), objective, seed, batch, context.device)


def _kept(part: Part) -> dict[str, Tensor]:
    return dict(part.module.state_dict())


def _report(task: Task, outcomes: Sequence[Outcome], spent: Spent, **facts: Any) -> dict[str, Any]:
    return {"task": task.id, "kind": task.kind, "outcomes": [asdict(o) for o in outcomes]} | spent.to_json() | facts


@dataclass(frozen=True)
class Spent:
    """`wall` and `cpu` are seconds; `cpu` is of this process, all its threads."""

    wall: float
    cpu: float

    def __truediv__(self, parts: int) -> Spent:
        return Spent(self.wall / parts, self.cpu / parts)

    def to_json(self) -> dict[str, float]:
        return {"seconds": round(self.wall, 3), "cpu_seconds": round(self.cpu, 3)}


class _Watch:
    """Tells what was spent since it was last asked."""

    def __init__(self) -> None:
        self._last = Spent(time.perf_counter(), time.process_time())

    def lap(self) -> Spent:
        now = Spent(time.perf_counter(), time.process_time())
        last, self._last = self._last, now
        return Spent(now.wall - last.wall, now.cpu - last.cpu)


def run_fits(context: Context, tasks: Sequence[Task], main: bool) -> None:
    """Fit a wave. Its tasks differ in what they fit, not in how: those of other settings form groups of their own."""
    from archspec.runtime.learn.fit import FitSettings, Remembered, Teacher, fit

    for group in _alike(tasks, ("samples", "ridge", "sequential", "gate_weighted", "seed", "batch", "objective")):
        watch, settings = _Watch(), settings_of(FitSettings, group[0])
        keys = {"+".join(t.sites): str(t.settings["teacher"]) for t in group if "teacher" in t.settings}
        shown = Shown(context.workspace.artifacts, keys, context.teachers)
        student = context.student(group)
        parts = [find_part(student, context.program, task.sites) for task in group]
        donors = {p.name: _donor(t) for p, t in zip(parts, group, strict=True) if t.settings.get("donor")}
        teacher, feed = Teacher(context.host, student if settings.sequential else None), _feed(context, group[0])
        with (
            context.workspace.scratch(group[0].key) as scratch,
            context.journal.progress(f"fit {_many(group)}", settings.samples),
        ):
            if len(keys) == len(parts) and any(map(shown.serves, keys)):
                teacher = Remembered.of(context.host, parts, feed, settings, shown, scratch)
            found = fit(parts, teacher, feed, settings, donors, context.journal.advance)
        spent = watch.lap() / len(group)
        for task, part in zip(group, parts, strict=True):
            report = _report(task, [found[part.name]], spent, held_out=feed.held_out, **shown.borrowings(part.name))
            context.workspace.keep(task.key, report, _kept(part))


def _donor(task: Task) -> dict[str, Excerpt]:
    """Return where the host has the weights among whose neurons a fit chooses."""
    given = task.settings["donor"]
    try:
        if not isinstance(given, Mapping):
            raise ValueError("'donor' is no object")
        return {str(role): Excerpt.from_json(weight) for role, weight in given.items()}
    except ValueError as error:
        raise fail("AS721", f"malformed plan: in task '{task.id}', {error}") from error


def run_regressions(context: Context, tasks: Sequence[Task], main: bool) -> None:
    """Regress a wave; tasks whose teacher runs differ form groups of their own."""
    for group in _alike(tasks, ("samples", "epochs", "batch", "cache", "gate_weighted", "seed", "objective")):
        _regress_together(context, group)


def _regress_together(context: Context, group: Sequence[Task]) -> None:
    """Regress parts that share the teacher's run; each is kept as soon as it is done."""
    from archspec.runtime.learn.regress import RegressSettings, regress

    watch = _Watch()
    settings = [settings_of(RegressSettings, task) for task in group]
    student = context.student(group)
    parts = [find_part(student, context.program, task.sites) for task in group]
    by_name = {part.name: (task, part) for part, task in zip(parts, group, strict=True)}

    def finished(outcome: Outcome) -> None:
        task, part = by_name[outcome.site]
        report = _report(task, [outcome], watch.lap(), held_out=feed.held_out, **shown.borrowings(outcome.site))
        context.workspace.keep(task.key, report, _kept(part))

    def log(name: str, step: int, numbers: Mapping[str, float]) -> None:
        context.journal.log(by_name[name][0].id, step, numbers)
        context.journal.advance("loss" in numbers)

    frozen = {part.name: _frozen_inside(context, part, task) for task, part in by_name.values()}
    pairs, feed = list(zip(parts, settings, strict=True)), _feed(context, group[0])
    keys = {name: str(task.settings["teacher"]) for name, (task, _) in by_name.items() if "teacher" in task.settings}
    shown = Shown(context.workspace.artifacts, keys, context.teachers)
    total = settings[0].steps * len(group)
    with context.workspace.scratch(group[0].key) as scratch, context.journal.progress(f"regress {_many(group)}", total):
        regress(pairs, context.host, feed, scratch, frozen, log, finished, shown)


def _frozen_inside(context: Context, part: Part, task: Task) -> list[str]:
    """Return the names, within a part, of the modules that stay fixed."""
    found = _homes(context, task.settings.get("frozen", ()))
    return [place.removeprefix(f"{part.paths[0]}.") for place in found]


def run_finetune(context: Context, tasks: Sequence[Task], main: bool) -> None:
    """Finetune the whole model, from the last checkpoint if a run was killed."""
    from archspec.runtime.learn.draws import seed_of
    from archspec.runtime.learn.finetune import Course, FinetuneSettings, choose_trainable, finetune
    from archspec.runtime.learn.keep import KeepSettings
    from archspec.runtime.learn.lora import LoraSettings, adapt, merge

    (task,) = tasks
    watch, settings = _Watch(), settings_of(FinetuneSettings, task)
    model = context.student([task])
    new = task.settings.get("new")
    trained = None if new is None else [path for sites in new for path in _places(context, sites)]
    frozen = _homes(context, task.settings.get("frozen", ()))
    lora = task.settings.get("lora")
    choose_trainable(model, trained, frozen, none=bool(lora))
    if lora:
        low = settings_of(LoraSettings, replace(task, settings=lora))
        adapt(model, low, _homes(context, low.sites), seed_of(settings.seed, "lora"))

    def log(step: int, numbers: Mapping[str, float]) -> None:
        context.journal.log(task.id, step, numbers)
        context.journal.advance(step - log.last)  # type: ignore[attr-defined]
        log.last = step  # type: ignore[attr-defined]

    log.last = 0  # type: ignore[attr-defined]
    dataset = context.dataset(task.settings.get("data"), task.settings.get("fraction", 1.0))
    objective = context.objective(task.settings.get("objective", {}))
    keep = settings_of(KeepSettings, replace(task, settings=task.settings["keep"])) if "keep" in task.settings else None
    teacher = context.host if settings.distill_weight or (keep and keep.by == "teacher") else None
    course = Course(dataset, objective, context.workspace.work(task.key), context.device, teacher, keep, log)
    with context.journal.progress("finetune", settings.steps):
        facts = finetune(model, course, settings)
    merged = set(merge(model)) if lora else set()
    if main:
        everything = model.named_parameters(remove_duplicate=False)
        weights = {name: p for name, p in everything if p.requires_grad or name in merged}
        context.workspace.keep(task.key, _report(task, [], watch.lap(), **facts), weights)


def _homes(context: Context, sites: Sequence[str]) -> list[str]:
    return [place for path in sites for place in places(context.program, path)]


def _places(context: Context, sites: Sequence[str]) -> tuple[str, ...]:
    from archspec.runtime.learn.parts import group_places

    return places(context.program, sites[0]) if len(sites) == 1 else group_places(context.program, sites)


def run_evaluate(context: Context, tasks: Sequence[Task], main: bool) -> None:
    """Measure the published checkpoint beside its host."""
    from archspec.runtime.measure.evaluate import evaluate
    from archspec.runtime.measure.kept import Kept

    for task in tasks:
        watch, kept = _Watch(), Kept(context.workspace.artifacts, str(context.lock.host.get("fingerprint")))
        found = evaluate(context.folder, context.host_home.top, task.settings, context.near, context.device, kept=kept)
        context.workspace.keep(task.key, _report(task, [], watch.lap(), measured=found))


def _alike(tasks: Sequence[Task], names: Sequence[str]) -> list[list[Task]]:
    """Group tasks whose settings `names` agree, in order."""
    groups: dict[str, list[Task]] = {}
    for task in tasks:
        groups.setdefault(repr([task.settings.get(name) for name in names]), []).append(task)
    return list(groups.values())


def _many(tasks: Sequence[Task]) -> str:
    first = tasks[0].id.partition("/")[2]
    return first if len(tasks) == 1 else f"{first} and {len(tasks) - 1} more"


RUNNERS: Mapping[str, Runner] = {
    "fit": run_fits,
    "regress": run_regressions,
    "finetune": run_finetune,
    "evaluate": run_evaluate,
}
