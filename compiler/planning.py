"""The plan: which tasks teach the new parts, in which order, at what price.

    fit        a closed-form read-out or merge, for each part whose init is least_squares
    regress    each part to its teacher's output, when the spec has a `distill` stanza
    finetune   the whole model
    evaluate   measurement of the result

A regression comes after the fit of its part, a group after what is inside it, a sequential fit after all fits before
it in the network. Tasks of one kind that do not need one another share a run of the teacher, a *wave*, as long as what
must be held at once fits the stated budget: Gram matrices of fits, cached activations of regressions. The `why` of a
fit says how many waves, and so runs of the teacher, that makes; results do not depend on it.

A regression caches the teacher's activations when those of its site fit the stanza's budget and it would need them more
than once; else the teacher runs along with it, once for all sites of the wave. The task's `why` says which, and why.

A key hashes all that a result depends on (its part of the program, the base's content, the data's identity, settings,
the keys of what it needs) and nothing else, such as names, paths or waves: another finetune leaves finished fits valid.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from archspec.compiler.taught import Taught, inside, taught_parts
from archspec.instructions import Install, Instruction, Relist, added, to_json
from archspec.language.edits import Freeze, Init
from archspec.language.stages import Distill
from archspec.plan import VERSION, Cost, Plan, Task, TaskKind, digest
from archspec.quantity import quantity
from archspec.runtime.learn.keep import judged_steps
from archspec.runtime.learn.least_squares import gram_bytes
from archspec.semantics.resolve import ResolvedSpec, explicit

CALIBRATION_BATCH = 64
CACHED_BYTES, EXACT_BYTES = 2, 4
"""Of one number in the activation cache of a regression, and in what is kept of the teacher for fits."""


@dataclass(frozen=True)
class Prices:
    """Forward FLOPs per example: of host and result, and of the part that stands at a path of the base."""

    host: int = 0
    result: int = 0
    sites: Mapping[str, int] = field(default_factory=dict)
    tokens: int | None = None
    """Of the priced example."""


@dataclass(frozen=True)
class Sources:
    """What results depend on beside the spec. `base` and `data` are written into the plan; they hold no path of this
    machine. Identities are content hashes."""

    base: Mapping[str, Any]
    fingerprint: str
    objective: str
    """What `objective: auto` means for this host: flow, epsilon or lm."""
    data: Mapping[str, Any] | None = None
    identities: Mapping[str, str] = field(default_factory=dict)
    """Of the data of `distill`, `finetune` and `eval`."""
    files: Mapping[str, str] = field(default_factory=dict)
    """Path, as the spec writes it -> content, of weights that parts begin with, and of the classifier."""


def make_plan(
    resolved: ResolvedSpec, program: Sequence[Instruction], sources: Sources, prices: Prices = Prices()
) -> Plan:
    """Return the plan that teaches the result of `program`."""
    planner = _Planner(resolved, tuple(program), sources, prices)
    return Plan(VERSION, resolved.spec.name, sources.base, sources.data, planner.tasks())


@dataclass(frozen=True)
class _Planner:
    resolved: ResolvedSpec
    program: tuple[Instruction, ...]
    sources: Sources
    prices: Prices

    @cached_property
    def spec(self) -> dict[str, Any]:
        return self.resolved.to_json()

    @cached_property
    def distill(self) -> dict[str, Any]:
        """The stanza that calibration follows too; its defaults where the spec has none."""
        given: dict[str, Any] = self.spec["distill"] or explicit(Distill())
        return given

    @cached_property
    def parts(self) -> tuple[Taught, ...]:
        return taught_parts(self.resolved, self.program)

    @cached_property
    def frozen(self) -> list[str]:
        return sorted({p for e in self.resolved.edits if isinstance(e.edit, Freeze) for s in e.sites for p in s.paths})

    @property
    def _added(self) -> list[list[str]]:
        """The places of what has no teacher."""
        return [[place] for i in self.program if isinstance(i, Relist) for place, _, _ in added(i)]

    def tasks(self) -> tuple[Task, ...]:
        grams = min((part.init.grams for part in self.parts if part.fitted), default=0)
        fits = counted(waves(list(self._fits()), grams), grams)
        regressions = waves(list(self._regressions()), self.distill["cache"])
        taught = tuple(task.id for task in (*fits, *regressions))
        finetune = [self._finetune(taught)] if self.spec["finetune"] else []
        last = ("finetune",) if finetune else taught
        evaluate = [self._evaluate(last)] if self.spec["eval"] else []
        return self._keyed([*fits, *regressions, *finetune, *evaluate])

    def _keyed(self, tasks: Sequence[Task]) -> tuple[Task, ...]:
        """Give each task, in topological order, the key that hashes all it depends on."""
        keys: dict[str, str] = {}
        for task in tasks:
            needs = sorted(keys[need] for need in task.needs)
            parts = [
                task.kind,
                task.sites,
                _decisive(task.settings),
                needs,
                self.sources.fingerprint,
                self._depends(task),
            ]
            keys[task.id] = digest(parts)
        return tuple(replace(task, key=keys[task.id], settings=self._told(task)) for task in tasks)

    def _told(self, task: Task) -> Mapping[str, Any]:
        """Return a task's settings with the identity of its examples, which a run holds the data to."""
        found = self.sources.identities.get(_stage(task))
        return {**task.settings, "examples": found} if found else task.settings

    def _depends(self, task: Task) -> list[Any]:
        """What a task's result hangs on beside its settings: its part of the program, or all of it, and the data."""
        whole = not task.sites or task.settings.get("sequential")
        program = [i for i in self.program if whole or _concerns(i, task.sites)]
        first = [
            [part.sites, part.init.kind, part.init.seed, *_chosen(part.init), *self._read(part.init)]
            for part in self.parts
            if whole or inside(part.sites, task.sites)
        ]
        found = [to_json(tuple(program)), first, self.sources.identities.get(_stage(task))]
        return [*found, self._file(task.settings.get("classifier"))] if task.kind == "evaluate" else found

    def _read(self, init: Init) -> list[str | None]:
        """What weights that are read from a file add to what first weights hang on."""
        return [self._file(init.from_)] if init.kind == "artifact" else []

    def _file(self, name: str | None) -> str | None:
        return self.sources.files.get(name, name) if name else None

    def _within(self, part: Taught) -> list[Taught]:
        return [other for other in self.parts if other is not part and inside(other.sites, part.sites)]

    def _fits(self) -> Iterator[Task]:
        before: list[str] = []
        for part in (p for p in self.parts if p.fitted):
            needs = before if part.init.sequential else [f"fit/{p.name}" for p in self._within(part) if p.fitted]
            init = {name: getattr(part.init, name) for name in ("ridge", "samples", "sequential", "seed")}
            shared = {"gate_weighted": self.distill["gate_weighted"], "objective": self._objective(self.distill)}
            settings = {**init, **shared, "batch": CALIBRATION_BATCH}
            donor = {"donor": {role: weight.to_json() for role, weight in part.donor.items()}} if part.donor else {}
            settings["passes"] = len(_grams(part))
            if self._keepable(part):
                settings["teacher"] = self._teacher(part, settings, "exact")
            yield self._task("fit", part, needs, settings | donor, self._fit_cost(part))
            before.append(f"fit/{part.name}")

    def _keepable(self, part: Taught) -> bool:
        """Whether what the teacher shows a fit may be kept for other fits at its site: not what depends on the edited
        model, nor what is read within a site, nor more than the cache's budget."""
        depends = part.init.sequential or (part.donor is not None and part.site.exit is not None)
        held = self._held(part, part.init.samples, EXACT_BYTES)
        return not depends and held <= self.distill["cache"]

    def _fit_cost(self, part: Taught) -> Cost:
        """Passes of the teacher and of the part, the products of the Gram matrices, and the bytes of the largest: one
        is gone before the next begins."""
        tokens, samples = part.site.shape.tokens or self.prices.tokens or 1, part.init.samples
        passes = [(maps, features, width) for maps, features, width in _grams(part)]
        products = sum(maps * features * (features + width) for maps, features, width in passes)
        flops = samples * (len(passes) * (self.prices.host + self._price(part)) + 2 * tokens * products)
        return Cost(samples, flops, max(maps * gram_bytes(features, width) for maps, features, width in passes))

    def _regressions(self) -> Iterator[Task]:
        if self.spec["distill"] is None:
            return
        replaced = {part.sites[0] for part in self.parts if len(part.sites) == 1}
        own = ("samples", "epochs", "batch", "lr", "warmup", "schedule", "weight_decay", "clip", "huber_delta")
        for part in (p for p in self.parts if p.has_weights):
            needs = [f"fit/{part.name}"] if part.fitted else []
            needs += [f"regress/{other.name}" for other in self._within(part) if other.has_weights]
            settings = {name: self.distill[name] for name in (*own, "gate_weighted", "cache", "seed")}
            cached, settings["why"] = self._cached(part)
            settings["cache"] = settings["cache"] if cached else 0
            settings["loss"] = self.distill["loss"].get(part.site.role, "l2")
            settings["frozen"] = [p for p in self.frozen if p not in replaced and inside((p,), part.sites)]
            settings["objective"] = self._objective(self.distill)
            if cached:
                settings["teacher"] = self._teacher(part, settings)
            yield self._task("regress", part, needs, settings, self._regress_cost(part, cached))

    def _teacher(self, part: Taught, settings: Mapping[str, Any], form: str = "teacher") -> str:
        """Return the key of what the teacher shows a part: equal for all parts, whatever they are, that imitate the
        same site on the same examples, and keep it in the same form."""
        fed = {name: settings[name] for name in ("samples", "batch", "seed", "gate_weighted", "objective")}
        return digest([form, self.sources.fingerprint, self.sources.identities.get("distill"), part.sites, fed])

    def _cached(self, part: Taught) -> tuple[bool, str]:
        """Return whether the teacher's activations are cached, and why."""
        samples, budget, epochs = (self.distill[name] for name in ("samples", "cache", "epochs"))
        held = self._held(part, samples, CACHED_BYTES)
        size = quantity(held, "bytes")
        if budget == 0:
            return False, "online: the cache is switched off"
        if held > budget:
            return False, f"online: {size} do not fit the cache of {quantity(budget, 'bytes')}"
        if epochs == 1:
            return False, "online: every example is seen once"
        return True, f"cached: {size} save {epochs - 1} of {epochs} runs of the teacher"

    def _held(self, part: Taught, samples: int, size: int) -> int:
        """Bytes of the inputs and outputs of a site, and of the gates behind it where they are asked for, of so many
        examples, a number of `size` bytes."""
        tokens, arrays = part.site.shape.tokens or self.prices.tokens or 1, 3 if self.distill["gate_weighted"] else 2
        return arrays * size * int(samples) * tokens * part.site.shape.width

    def _regress_cost(self, part: Taught, cached: bool) -> Cost:
        samples, epochs = self.distill["samples"], self.distill["epochs"]
        teacher = samples * self.prices.host * (1 if cached else epochs)
        flops = teacher + 3 * samples * epochs * self._price(part)
        return Cost(samples * epochs, flops, self._held(part, samples, CACHED_BYTES) if cached else 0)

    def _finetune(self, needs: tuple[str, ...]) -> Task:
        stage = dict(self.spec["finetune"])
        objective = self._objective(stage)
        for name in ("times", "label_dropout"):
            del stage[name]
        lora, alone, keep = stage.pop("lora"), stage.pop("train") == "new", stage.pop("keep")
        new = [list(part.sites) for part in self.parts] + self._added if alone or lora else None
        low = {"lora": self._lora(lora)} if lora else {}
        taught, seen = self.prices.host if stage["distill_weight"] else 0, stage["steps"] * stage["batch"]
        flops = seen * (3 * self.prices.result + taught)
        judged = self._judged(stage["steps"], keep) if keep["which"] == "best" else {}
        if judged:
            times = len(judged_steps(stage["steps"], judged["keep"]["every"]))
            taught = self.prices.host if keep["by"] == "teacher" else taught
            flops += times * keep["samples"] * (self.prices.result + taught)
        settings = {**stage, "objective": objective, "new": new, "frozen": self.frozen, **low, **judged}
        return Task("finetune", "finetune", "", (), needs, settings, Cost(seen, flops))

    def _judged(self, steps: int, keep: Mapping[str, Any]) -> dict[str, Any]:
        """Return how the best weights of so many steps are told, and that in words."""
        every = keep["every"] or math.ceil(steps / 10)
        by = {"loss": "the loss", "teacher": "the distance to the teacher"}[keep["by"]]
        why = f"keeps the best by {by} on {keep['samples']} held-out examples: before, every {every} steps, at the end"
        return {"keep": {"by": keep["by"], "every": every, "samples": keep["samples"]}, "why": why}

    def _lora(self, stage: Mapping[str, Any]) -> dict[str, Any]:
        """Return the settings of low-rank training, its targets as the sites that hold old weights."""
        replaced = {i.path for i in self.program if isinstance(i, Install)}
        old = (site for site in self.resolved.adapted if site.path not in replaced)
        sites = [path for site in old for path in site.paths if not inside((path,), self.frozen)]
        alpha = stage["rank"] if stage["alpha"] is None else stage["alpha"]
        return {"rank": stage["rank"], "alpha": alpha, "dropout": stage["dropout"], "sites": sites}

    def _evaluate(self, needs: tuple[str, ...]) -> Task:
        stage = self.spec["eval"]
        calls = stage["samples"] * stage["steps"] * (2 if stage["guidance"] > 1 else 1)
        cost = Cost(stage["samples"], calls * (self.prices.host + self.prices.result))
        return Task("evaluate", "evaluate", "", (), needs, stage, cost)

    def _objective(self, stage: Mapping[str, Any]) -> dict[str, Any]:
        asked = stage.get("objective", "auto")
        name = self.sources.objective if asked == "auto" else asked
        return {"name": name, "times": stage["times"], "label_dropout": stage["label_dropout"]}

    def _price(self, part: Taught) -> int:
        return sum(self.prices.sites.get(path, 0) for path in part.sites)

    def _task(
        self, kind: TaskKind, part: Taught, needs: Sequence[str], settings: Mapping[str, Any], cost: Cost
    ) -> Task:
        return Task(f"{kind}/{part.name}", kind, "", part.sites, tuple(needs), settings, cost)


def _grams(part: Taught) -> list[tuple[int, int, int]]:
    """Return (matrices, inputs, outputs) of each run of the teacher in which a fit gathers sums: for the choice of
    neurons among the teacher's, for a router, for the read-out."""
    width = part.site.shape.width
    choice = [(1, part.site.shape.hidden or 0, width)] if part.donor else []
    router = [(1, width, part.experts)] if part.experts else []
    return [*choice, *router, (part.maps, part.features, width)]


def counted(fits: Sequence[Task], budget: int) -> list[Task]:
    """Say of each fit how many runs of the teacher all waves together are."""
    found: dict[tuple[int, str], int] = {}
    for task in fits:  # in a wave, those of other settings run by themselves
        shared = digest(
            {name: value for name, value in task.settings.items() if name not in ("donor", "passes", "teacher")}
        )
        found[task.wave, shared] = max(task.settings["passes"], found.get((task.wave, shared), 0))
    turns = len({wave for wave, _ in found})
    in_turns = "in one turn" if turns == 1 else f"in {turns} turns"
    held, passes = quantity(budget, "bytes"), sum(found.values())
    why = f"{in_turns}, of at most {held} of Gram matrices: {passes} passes of the teacher"
    return [replace(task, settings={**task.settings, "why": why}) for task in fits]


def waves(tasks: Sequence[Task], budget: int) -> list[Task]:
    """Number the waves and order the tasks by them.

    No wave holds two tasks of which one needs the other, nor more bytes than the budget: but one task may.
    """
    held: list[list[Task]] = []
    number: dict[str, int] = {}
    for task in tasks:
        first = max((number[need] + 1 for need in task.needs if need in number), default=0)
        size = task.cost.cache_bytes
        room = (n for n in range(first, len(held)) if size + sum(t.cost.cache_bytes for t in held[n]) <= budget)
        number[task.id] = next(room, max(first, len(held)))
        held += [[] for _ in range(number[task.id] + 1 - len(held))]
        held[number[task.id]].append(task)
    return [replace(task, wave=n) for n, wave in enumerate(held) for task in wave]


def _decisive(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out what decides nothing about the result: how often work is saved, how large the cache is (if there is
    one), how often the teacher runs, what it shows (that hangs on settings that are here), and why. Data and classifier
    are not known by their names, but by their content."""
    mute = ("checkpoint", "passes", "why", "teacher", "data", "classifier")
    found = {name: value for name, value in settings.items() if name not in mute}
    return found | ({"cache": settings["cache"] > 0} if "cache" in settings else {})


def _stage(task: Task) -> str:
    """Return the stage whose data a task sees."""
    return {"finetune": "finetune", "evaluate": "eval"}.get(task.kind, "distill")


def _chosen(init: Init) -> list[str]:
    """Return what a choice of neurons adds to what first weights hang on."""
    return [] if init.neurons == "auto" else [init.neurons]


def _concerns(instruction: Instruction, sites: Sequence[str]) -> bool:
    """Say whether an instruction decides what a part is: it is at it or within, or makes the group."""
    if isinstance(instruction, Relist):
        return len(sites) > 1 and inside(sites, (instruction.path,))
    return inside((instruction.path,), sites)
