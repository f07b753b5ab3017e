"""Ways of learning three skills in a row, each measured on all tasks after every skill.

Trained models, packs, routers and measures are kept in a folder per seed and found again there.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import archspec
from archspec.compiler.merging.layout import lay_out
from archspec.compiler.merging.write import write_merge
from archspec.compiler.packing.pack import pack_spec
from archspec.compiler.routing.make import fitted, write_router
from archspec.host.fingerprint import digest_of
from archspec.host.headers import read_folder
from archspec.host.locate import fingerprint
from archspec.language.knowledge import Route
from archspec.language.merging import load_merge
from archspec.packs.router import Active, Embedding, Routing, Task
from archspec.runtime.packs.reading import open_pack
from archspec.runtime.routing.embed import BaseEmbedding
from archspec.runtime.routing.routed import Routed
from benchmarks.continual import (
    BASE,
    FIRST,
    LETTERS,
    PROMPT,
    SEEN,
    SHAPE,
    SKILLS,
    TASKS,
    WORDS,
    Course,
    new_model,
    opened,
    right,
    sequences,
)
from benchmarks.continual import train as teach

BUDGETS = (5, 10, 20)
"""Of packs, in per cent of the bytes of what differs. The last serves where one is asked for."""
EXAMPLES = 32
"""Prompts of a task that a router is made of."""
RANK = 8
"""Of each LoRA."""


@dataclass(frozen=True)
class Plan:
    """How much is trained and measured."""

    base: Course = Course(400, 64)
    skill: Course = Course(400, 32)
    lora: Course = Course(400, 32, 4e-3)
    joint: Course = Course(800, 32)
    tests: int = 512


@dataclass(frozen=True)
class Row:
    """One way of learning. `stages`: after each skill, the part of right answers of each of `TASKS`. `size`: bytes that
    are kept at the end beside the base (in its place, where it is not needed any more)."""

    title: str
    stages: list[list[float]]
    size: int


@dataclass(frozen=True)
class Measured:
    """All of one seed. `routed`: kind of router -> part of requests that go to their task, whose word was seen and was
    not. `exact`: whether answers of packs stayed the same, bit by bit, while later skills were learnt."""

    rows: list[Row]
    routed: dict[str, tuple[float, float]]
    exact: bool
    switch: float
    """Milliseconds from one skill to another."""
    exchanged: int
    """Tensors that differ between them."""


class Study:
    """The models of a seed, trained when they are asked for and kept in `out`."""

    def __init__(self, out: Path, seed: int, plan: Plan) -> None:
        self.out, self.seed, self.plan = out, seed, plan
        tests = {task: sequences(task, plan.tests, torch.Generator().manual_seed(10_000 + i), WORDS)
                 for i, task in enumerate(TASKS)}  # fmt: skip
        self.tests, self.labels = torch.cat(list(tests.values())), [t for t in TASKS for _ in range(plan.tests)]

    @property
    def base(self) -> Path:
        learn = partial(teach, tasks=[BASE], course=self.plan.base, seed=self.seed, words=True)
        return self._kept("base", lambda: learnt(new_model(self.seed), learn))

    def tuned(self, skill: str) -> Path:
        return self._taught(skill, self.base, [skill], self.plan.skill)

    def sequential(self, stage: int) -> Path:
        """Return the model that was finetuned on one skill after another; the first is as by itself."""
        if stage == 0:
            return self.tuned(SKILLS[0])
        return self._taught(f"after-{SKILLS[stage]}", self.sequential(stage - 1), [SKILLS[stage]], self.plan.skill)

    @property
    def joint(self) -> Path:
        return self._taught("joint", self.base, TASKS, self.plan.joint)

    def _taught(self, name: str, start: Path, tasks: Sequence[str], course: Course) -> Path:
        learn = partial(teach, tasks=tasks, course=course, seed=self.seed + 1)
        return self._kept(name, lambda: learnt(opened(start), learn))

    def lora(self, skill: str, before: Path | None = None) -> Path:
        """Return the adapter of a skill; `before`: the adapter that goes on learning."""
        from peft import LoraConfig, PeftModel, get_peft_model

        def make() -> Any:
            model = opened(self.base)
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(self.seed)
                if before is None:
                    config = LoraConfig(r=RANK, lora_alpha=2 * RANK, target_modules="all-linear")
                    found: Any = get_peft_model(model, config)
                else:
                    found = PeftModel.from_pretrained(model, before, is_trainable=True)
            teach(found, [skill], self.plan.lora, self.seed + 1)
            return found

        return self._kept(f"lora-{'after-' if before else ''}{skill}", make)

    def _kept(self, name: str, make: Callable[[], Any]) -> Path:
        folder, partial_ = self.out / name, self.out / f".{name}"
        if not folder.exists():
            start = time.process_time()
            model = make()
            shutil.rmtree(partial_, ignore_errors=True)
            model.save_pretrained(partial_)
            partial_.rename(folder)
            print(f"seed {self.seed}: {name}, {time.process_time() - start:.0f} CPU s", flush=True)
        return folder

    def pack(self, skill: str, budget: int) -> Path:
        path = self.out / f"{skill}-{budget}.skillpack.safetensors"
        if not path.exists():
            spec = self.out / f"{skill}-{budget}.yaml"
            pack = f"{{tuned: {self.tuned(skill).name}, budget: {budget}%}}"
            spec.write_text(f"name: {skill}-{budget}\nbase: ./{self.base.name}\npack: {pack}\n", "utf-8")
            pack_spec(spec, path)
        return path

    def router(self, by: str, skills: Sequence[str], budget: int, top: int = 1) -> Path:
        """Return the router of the skills learnt so far; what the base can do is a task of no pack."""
        path = self.out / f"{by}-{len(skills)}-{budget}-{top}.router.safetensors"
        base = {"from": "base", "fingerprint": fingerprint(self.base)}
        active = {skill: (Active(self.pack(skill, budget).name),) for skill in skills}
        tasks = tuple(Task(task, active.get(task, ())) for task in (BASE, *skills))
        if by == "map":
            write_router(Routing("skills", "map", base, tasks), None, path)
            return path
        embed = BaseEmbedding(opened(self.base), Embedding("base", SHAPE["hidden_size"], None, PROMPT))
        draws = torch.Generator().manual_seed(20_000 + self.seed)
        rows = {task.name: embed(sequences(task.name, EXAMPLES, draws)) for task in tasks}
        route: Any = Route(by=by, tasks=(), top=top, length=PROMPT, seed=self.seed)  # type: ignore[arg-type]
        digests = {name: digest_of(header).hex() for name, header in read_folder(self.base).items()}
        write_router(*fitted("skills", route, base, tasks, rows, digests), path)
        return path

    def accuracies(self, logits: Tensor) -> list[float]:
        """Return the part of right answers of each task, from logits of all tests."""
        pairs = zip(logits.chunk(len(TASKS)), self.tests.chunk(len(TASKS)), strict=True)
        return [right(some, batch) for some, batch in pairs]

    def of(self, model: Any) -> list[float]:
        with torch.no_grad():
            return self.accuracies(model(self.tests).logits)


def learnt(model: Any, learn: Callable[[Any], None]) -> Any:
    learn(model)
    return model


def size_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.glob("*.safetensors"))


STAGES = range(len(SKILLS))


def tuned_rows(study: Study) -> Iterator[Row]:
    """Whole models: one per skill with the task given, one that goes on, one of everything at once."""
    whole = size_of(study.base)
    base = study.of(opened(study.base))
    each = [study.of(opened(study.tuned(skill))) for skill in SKILLS]
    yield Row("a model per skill, task given", given(base, each), len(SKILLS) * whole)
    yield Row("sequential finetuning", [study.of(opened(study.sequential(stage))) for stage in STAGES], whole)
    yield Row("all tasks at once (joint)", [study.of(opened(study.joint))] * len(SKILLS), whole)


def given(base: list[float], each: Sequence[list[float]]) -> list[list[float]]:
    """Return stages of models that each answer their own skill, the base what is not learnt yet."""
    return [
        [each[t - 1][t] if 1 <= t <= stage + 1 else base[t] for t in range(len(TASKS))] for stage in range(len(each))
    ]


def lora_rows(study: Study) -> Iterator[Row]:
    from peft import PeftModel

    def measured(adapter: Path) -> list[float]:
        return study.of(PeftModel.from_pretrained(opened(study.base), adapter).eval())

    base = study.of(opened(study.base))
    each, on = [study.lora(skill) for skill in SKILLS], [study.lora(SKILLS[0])]
    for skill in SKILLS[1:]:
        on.append(study.lora(skill, on[-1]))
    yield Row("a LoRA per skill, task given", given(base, list(map(measured, each))), sum(map(size_of, each)))
    yield Row("one LoRA, sequentially", list(map(measured, on)), size_of(on[-1]))


def pack_rows(study: Study) -> Iterator[Row]:
    for budget in BUDGETS:
        rows = list(routed_stages(study, "map", budget))
        yield Row(f"packs of {budget} %, task given", rows, kept(study, budget))
    for by, top in (("prototypes", 1), ("classifier", 1), ("classifier", 2)):
        title = f"packs of {BUDGETS[-1]} %, routed by {by}" + (f", {top} averaged" if top > 1 else "")
        rows = list(routed_stages(study, by, BUDGETS[-1], top))
        router = study.router(by, SKILLS, BUDGETS[-1], top)
        yield Row(title, rows, kept(study, BUDGETS[-1]) + router.stat().st_size)
    sums = []
    for stage in STAGES:
        model = opened(study.base)
        with archspec.skills(model, *(study.pack(skill, BUDGETS[-1]) for skill in SKILLS[: stage + 1])):
            sums.append(study.of(model))
    yield Row(f"sum of packs of {BUDGETS[-1]} %", sums, kept(study, BUDGETS[-1]))


def kept(study: Study, budget: int) -> int:
    return sum(study.pack(skill, budget).stat().st_size for skill in SKILLS)


def routed_stages(study: Study, by: str, budget: int, top: int = 1) -> Iterator[list[float]]:
    for stage in STAGES:
        skills = SKILLS[: stage + 1]
        path = study.router(by, skills, budget, min(top, len(skills)))
        with archspec.routed(opened(study.base), path) as model, torch.no_grad():
            yield study.accuracies(model(study.tests, known(study, skills) if by == "map" else None))


def known(study: Study, skills: Sequence[str]) -> list[str | None]:
    return [task if task in skills else None for task in study.labels]


MERGES: Mapping[str, Sequence[str]] = {
    "linear": ["merge_method: linear\nparameters: {weight: 1}"],
    "task arithmetic": [f"merge_method: task_arithmetic\nparameters: {{weight: {w}}}" for w in (0.3, 0.5, 1.0)],
    "TIES": [
        f"merge_method: ties\nparameters: {{weight: 1, density: {d}, lambda: {w}}}"
        for d, w in ((0.2, 1.0), (0.5, 1.0), (0.2, 1.5))
    ],
    "DARE": [f"merge_method: dare_linear\nparameters: {{weight: {w}, density: 0.5}}" for w in (0.3, 0.5, 1.0)],
}
"""Name -> settings, of which the best on other strings is taken."""


def merge_rows(study: Study) -> Iterator[Row]:
    whole = size_of(study.base)
    first = study.of(opened(study.tuned(SKILLS[0])))
    for title, settings in MERGES.items():
        merged = [study.of(best_merge(study, title, settings, SKILLS[: stage + 1])) for stage in STAGES if stage]
        yield Row(f"merge of whole models: {title}", [first, *merged], whole)


def best_merge(study: Study, title: str, settings: Sequence[str], skills: Sequence[str]) -> Any:
    """Return the merge of the settings whose mean over the skills is best on strings that are not the tests."""
    tests = [sequences(skill, 512, torch.Generator().manual_seed(30_000 + i)) for i, skill in enumerate(skills)]
    best: tuple[float, Any] = (-1.0, None)
    for text in settings:
        model = merge(study, text, skills)
        with torch.no_grad():
            score = sum(right(model(batch).logits, batch) for batch in tests)
        best = max(best, (score, model), key=lambda pair: pair[0])
    return best[1]


def merge(study: Study, text: str, skills: Sequence[str]) -> Any:
    config, out = study.out / "merge.yaml", study.out / "merged"
    base = "" if "merge_method: linear" in text else f"base_model: ./{study.base.name}\n"
    models = "".join(f"  - model: ./{study.tuned(skill).name}\n" for skill in skills)
    config.write_text(f"{text}\n{base}models:\n{models}", "utf-8")
    write_merge(lay_out(load_merge(config), study.out), out)
    return opened(out)


def routed_right(study: Study, by: str) -> tuple[float, float]:
    """Return the part of requests that the router of all skills sends to their task: by words that skills were learnt
    with, and by the others."""
    model: Routed = archspec.routed(opened(study.base), study.router(by, SKILLS, BUDGETS[-1]))
    choices = model.route(study.tests)
    hits = torch.tensor([c.task == task for c, task in zip(choices, study.labels, strict=True)]).float()
    unseen = (study.tests[:, 1] - FIRST - LETTERS) % WORDS >= SEEN
    return float(hits[~unseen].mean()), float(hits[unseen].mean())


def stays(study: Study) -> bool:
    """Say whether what packs answer stays the same bit by bit, and the base's file too, while others are learnt."""
    before = fingerprint(study.base)
    found: dict[str, Tensor] = {}
    for stage in STAGES:
        skills = SKILLS[: stage + 1]
        with archspec.routed(opened(study.base), study.router("map", skills, BUDGETS[-1])) as model, torch.no_grad():
            logits = model(study.tests, known(study, skills))
        parts = dict(zip(TASKS, logits.chunk(len(TASKS)), strict=True))
        if not all(torch.equal(found.setdefault(skill, parts[skill].clone()), parts[skill]) for skill in skills):
            return False
    return fingerprint(study.base) == before


def switching(study: Study, rounds: int = 50) -> float:
    """Return milliseconds, the least of several, of leaving one skill and entering another."""
    with archspec.routed(opened(study.base), study.router("map", SKILLS, BUDGETS[-1])) as model:
        times = []
        for _ in range(rounds):
            start = time.perf_counter()
            with model.task(SKILLS[0]):
                pass
            with model.task(SKILLS[1]):
                pass
            times.append((time.perf_counter() - start) / 2)
    return 1000 * min(times)


GROUPS: Mapping[str, Callable[[Study], Iterator[Row]]] = {
    "packs": pack_rows,
    "tuned": tuned_rows,
    "merges": merge_rows,
    "lora": lora_rows,
}
"""Ways of learning that are measured, and kept on record, together."""


def measure(study: Study, anew: bool = True) -> Measured:
    """Return everything of a seed, from the record where it is there; else measured, or left out unless `anew`."""
    told = recorded(study, "facts", partial(facts, study), anew) or {}
    rows = []
    for name, make in GROUPS.items():
        rows += [Row(**row) for row in recorded(study, name, partial(as_data, make, study), anew) or ()]
    routed = {by: tuple(parts) for by, parts in told.get("routed", {}).items()}
    return Measured(rows, routed, told.get("exact", False), told.get("switch", 0.0), told.get("exchanged", 0))


def as_data(make: Callable[[Study], Iterator[Row]], study: Study) -> list[dict[str, Any]]:
    return [asdict(row) for row in make(study)]


def facts(study: Study) -> dict[str, Any]:
    routed = {by: routed_right(study, by) for by in ("prototypes", "classifier")}
    exchanged = len(open_pack(study.pack(SKILLS[0], BUDGETS[-1])).header.tensors)
    return {"routed": routed, "exact": stays(study), "switch": switching(study), "exchanged": exchanged}


def recorded(study: Study, name: str, make: Callable[[], Any], anew: bool) -> Any:
    """Return a record of a seed, made if need be; None where it is not there and nothing is measured anew."""
    path = study.out / f"{name}.json"
    if not path.exists():
        if not anew:
            return None
        partial_ = path.with_suffix(".partial")
        partial_.write_text(json.dumps(make()), "utf-8")
        partial_.replace(path)
        print(f"seed {study.seed}: {name} measured", flush=True)
    return json.loads(path.read_text("utf-8"))
