"""Running the plan of a compiled checkpoint, from whatever was finished before.

    execute(folder, base=..., ...) -> RunReport

Tasks run in the plan's order, those of a wave together, since one run of the teacher feeds them all. What a task gives
is stored under its key in one rename, and a finished key is never run again: a run that was killed at any moment goes
on where it was, a finetuning from its last checkpoint. When nothing is left to learn, the learned weights take their
places in the checkpoint in one rename, the result is measured, and the lock says what was done.

Several processes: `shard=(i, n)` runs the i-th of n parts of the independent tasks and leaves the rest; under
`accelerate launch` each process is such a shard until the finetuning, which all do together.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
from torch import nn

from archspec.diagnostics import fail
from archspec.families import describe
from archspec.host.fingerprint import identity_of
from archspec.host.headers import read_folder
from archspec.host.strict_json import read_json
from archspec.plan import Plan, Task, TaskKind
from archspec.runtime.execution.journal import Journal
from archspec.runtime.execution.workspace import Workspace
from archspec.runtime.store.files import room
from archspec.runtime.store.home import Home, home
from archspec.runtime.store.lock import PLAN, Lock, read_lock
from archspec.runtime.store.opening import best_device, open_model

INDEPENDENT: frozenset[str] = frozenset({"fit", "regress"})
"""Kinds of tasks that shards take part in."""


@dataclass(frozen=True)
class Done:
    """A task as far as a run got with it. `state`: ran now, was finished before, or waits (for `reason`)."""

    task: Task
    state: str
    report: Mapping[str, Any] = field(default_factory=dict)
    reason: str = ""


@dataclass(frozen=True)
class RunReport:
    plan: Plan
    tasks: tuple[Done, ...]
    published: bool

    @property
    def complete(self) -> bool:
        return all(done.state in ("ran", "finished") for done in self.tasks)


def read_plan(folder: Path) -> Plan:
    """Return the plan of a compiled checkpoint. AS720, AS721."""
    path = folder / PLAN
    if not path.is_file():
        hint = "compile a spec first: `archspec compile SPEC -o OUT`"
        raise fail("AS720", f"'{folder}' is not a compiled checkpoint: it has no {PLAN}", None, hint)
    try:
        return Plan.from_json(read_json(path, "AS721"))
    except ValueError as error:
        raise fail("AS721", f"'{path}' is malformed: {error}") from error


def execute(
    folder: Path,
    *,
    base: Path | None = None,
    near: Path | None = None,
    only: Sequence[TaskKind] = (),
    shard: tuple[int, int] | None = None,
    device: str | None = None,
    journal: Journal | None = None,
    teachers: Collection[str] = (),
) -> RunReport:
    """Run the plan in `folder`. `base`: the host's model folder; `near`: where relative paths of data start.

    `only`: kinds of tasks to run (none: all). `shard`: (i, n), i from 1. `teachers`: keys of what the teacher shows
    (`Task.settings["teacher"]`) that is kept like the result of a task, because others will need it. AS631 when the
    disk is full: what is finished is kept.
    """
    plan, lock = read_plan(folder), read_lock(folder)
    workspace = Workspace(folder)
    workspace.check_store()
    origin = workspace.origin()
    base, near = base or origin.get("base"), near or origin.get("near") or Path.cwd()
    context = Context(plan, lock, workspace, base, near, device, frozenset(teachers))
    name = f"shard-{shard[0]}-of-{shard[1]}" if shard else "run"
    with room(folder), workspace.alone(name), journal or Journal(workspace.root) as context.journal:
        return _Execution(context, tuple(only), shard).run()


class Context:
    """What tasks work with, opened when it is first needed."""

    journal: Journal

    def __init__(
        self,
        plan: Plan,
        lock: Lock,
        workspace: Workspace,
        base: Path | None,
        near: Path,
        device: str | None,
        teachers: frozenset[str] = frozenset(),
    ) -> None:
        self.plan, self.lock, self.workspace, self.base, self.near = plan, lock, workspace, base, near
        self.teachers = teachers
        self.held_to: set[str] = set()
        """Identities that the data were held to: once in a run."""
        self.device = torch.device(device or best_device())
        self.program = lock.instructions

    @property
    def folder(self) -> Path:
        return self.workspace.folder

    @property
    def model_folder(self) -> Path:
        return self.folder / self.lock.subfolder if self.lock.subfolder else self.folder

    @cached_property
    def host_home(self) -> Home:
        if self.base is None or not self.base.exists():
            hint = "say where it is: `archspec run OUT --base PATH`"
            raise fail("AS722", f"the base '{self.lock.host.get('from')}' is not at hand", None, hint)
        place = home(self.base)
        stated = self.lock.host.get("fingerprint")
        if stated and _identity(place.model) != stated:
            hint = "give the base that the spec was compiled for, or compile again"
            raise fail("AS723", f"'{self.base}' is another base than the plan's", None, hint)
        return place

    @cached_property
    def host(self) -> nn.Module:
        """The teacher, without gradients."""
        return open_model(self.host_home, self.device).requires_grad_(False)

    def student(self, tasks: Sequence[Task]) -> nn.Module:
        """Return the edited model as compiled, with all that these tasks need already learned."""
        from archspec.runtime.learn.install import install_learned
        from archspec.runtime.store.publish import compiled_weights

        model = open_model(home(self.model_folder), self.device)
        model.load_state_dict(compiled_weights(self.workspace), strict=False)
        needed = {need.id for task in tasks for need in self.plan.ancestors(task)}
        install_learned(model, self.program, self.workspace, [t for t in self.plan.tasks if t.id in needed])
        return model

    def dataset(self, stage: Mapping[str, Any] | None = None, fraction: float = 1.0) -> Any:
        """Return the examples of a stage's own `data`, or of the spec's."""
        from archspec.runtime.data import open_data
        from archspec.runtime.data.needs import needs_of

        data = stage or self.plan.data
        if data is None:
            raise fail("AS728", "the plan learns from data, and its spec names none", None, "add a data stanza")
        if fraction < 1:
            data = {**data, "fraction": data.get("fraction", 1.0) * fraction}
        return open_data(data, self.near, needs_of(self.host_home.top))

    def check_sources(self, tasks: Iterable[Task]) -> None:
        """Refuse a base and data that are not those of the plan: results would be kept under keys of others. AS722,
        AS723, AS738."""
        from archspec.runtime.data.describe import identity

        assert self.host_home
        for task in tasks:
            data, stated = task.settings.get("data") or self.plan.data, task.settings.get("examples")
            if not data or not stated or stated in self.held_to:
                continue
            self.held_to.add(stated)
            if identity(data, self.near) != stated:
                hint = "compile again: `archspec compile`, or `archspec sweep`, which finds what is still of use"
                raise fail("AS738", f"the data of '{task.id}' are not what the plan was made for", None, hint)

    def objective(self, settings: Mapping[str, Any]) -> Any:
        from archspec.runtime.objectives import make_objective

        try:
            name, times, dropout = settings["name"], settings["times"], float(settings["label_dropout"])
        except (KeyError, TypeError, ValueError) as error:
            raise fail("AS721", f"malformed plan: objective {error}") from error
        return make_objective(self.host_home, name, times, dropout)


def _identity(folder: Path) -> str:
    """Return the content identity of a host."""
    structure = describe(read_json(folder / "config.json", "AS602"), read_folder(folder))
    return identity_of(structure.config, structure.tensors or {})


class _Execution:
    """One run."""

    def __init__(self, context: Context, only: tuple[str, ...], shard: tuple[int, int] | None) -> None:
        self.context, self.only = context, only
        self.processes = _Processes()
        self.shard = shard or self.processes.shard
        self.sharded = shard is not None

    def run(self) -> RunReport:
        plan = self.context.plan
        self._foresee()
        for kind in ("fit", "regress", "finetune"):
            if self._wanted(kind):
                self._run_kind([t for t in plan.tasks if t.kind == kind])
                self.processes.wait()
        published = False
        if not self.sharded and self.processes.main:
            published = self._publish()
            if self._wanted("evaluate"):
                self._run_kind([t for t in plan.tasks if t.kind == "evaluate"])
            self._record()
        self.processes.wait()
        return RunReport(plan, tuple(map(self._state, plan.tasks)), published)

    def _foresee(self) -> None:
        """Refuse measurements that cannot be made before hours go into what they are to measure."""
        from archspec.runtime.measure.evaluate import foresee

        if self._wanted("evaluate") and not self.sharded:
            context = self.context
            for task in (t for t in context.plan.tasks if t.kind == "evaluate"):
                if not context.workspace.finished(task.key):
                    foresee(context.folder, context.host_home.top, task.settings, context.near)

    def _wanted(self, kind: str) -> bool:
        return (not self.only or kind in self.only) and (kind in INDEPENDENT or not self.sharded)

    def _run_kind(self, tasks: Sequence[Task]) -> None:
        from archspec.runtime.execution.tasks import RUNNERS

        for _, wave in groupby(tasks, key=lambda task: task.wave):
            ready = [task for task in wave if self._is_mine(task) and self._is_ready(task)]
            with self._claimed(ready):
                ready = [task for task in ready if self._is_ready(task)]  # another run may have made some meanwhile
                if not ready:
                    continue
                self.context.check_sources(ready)
                self.context.journal.begun |= {task.id for task in ready}
                try:
                    RUNNERS[ready[0].kind](self.context, ready, self.processes.main)
                except torch.OutOfMemoryError as error:
                    hint = "lower distill.cache or the batch, or run on another device"
                    raise fail("AS734", f"out of memory in '{ready[0].id}'", None, hint) from error

    @contextmanager
    def _claimed(self, tasks: Sequence[Task]) -> Iterator[None]:
        """Make artifacts alone. What all processes of a launch make together, its first writes: nobody claims it."""
        together = self.processes.count > 1 and any(task.kind not in INDEPENDENT for task in tasks)
        names = {task.key: task.id for task in tasks}
        with self.context.workspace.artifacts.claim(
            () if together else names, lambda key: self.context.journal.tell(f"{names[key]}: waits for another run")
        ):
            yield

    def _is_ready(self, task: Task) -> bool:
        finished = self.context.workspace.finished
        return not finished(task.key) and all(finished(t.key) for t in self.context.plan.ancestors(task))

    def _is_mine(self, task: Task) -> bool:
        if self.shard is None or task.kind not in INDEPENDENT:
            return True
        return shares(self.context.plan)[task.id] % self.shard[1] == self.shard[0] - 1

    def _state(self, task: Task) -> Done:
        workspace = self.context.workspace
        if workspace.finished(task.key):
            return Done(
                task, "ran" if task.id in self.context.journal.begun else "finished", workspace.report(task.key)
            )
        missing = [t.id for t in self.context.plan.ancestors(task) if not workspace.finished(t.key)]
        return Done(task, "waits", reason=f"needs {missing[0]}" if missing else "was not asked for")

    def _publish(self) -> bool:
        from archspec.runtime.store.publish import publish_learned

        return publish_learned(self.context.workspace, self.context.model_folder, self.context.plan)

    def _record(self) -> None:
        from archspec.runtime.quality import update_card
        from archspec.runtime.store.publish import record_measured

        record_measured(self.context.workspace, self.context.plan)
        update_card(self.context.workspace, self.context.plan)


def shares(plan: Plan) -> dict[str, int]:
    """Return independent task -> number of its component: tasks that need one another are of one shard."""
    found: dict[str, int] = {}
    for task in (t for t in plan.tasks if t.kind in INDEPENDENT):
        joined = sorted({found[need] for need in task.needs if need in found})
        number = joined[0] if joined else max(found.values(), default=-1) + 1
        found = {id: number if part in joined else part for id, part in found.items()} | {task.id: number}
    order = {part: position for position, part in enumerate(dict.fromkeys(found.values()))}
    return {id: order[part] for id, part in found.items()}


class _Processes:
    """The processes of `accelerate launch`; one, without it."""

    def __init__(self) -> None:
        self.count = int(os.environ.get("WORLD_SIZE", "1"))
        self.rank = int(os.environ.get("RANK", "0"))

    @property
    def main(self) -> bool:
        return self.rank == 0

    @property
    def shard(self) -> tuple[int, int] | None:
        return (self.rank + 1, self.count) if self.count > 1 else None

    def wait(self) -> None:
        if self.count > 1:
            from accelerate import PartialState

            PartialState().wait_for_everyone()
