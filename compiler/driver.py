"""The compiler from end to end: a spec in, a checkpoint out. One function per stage, one call of each.

    load        the spec with what it extends               attach     the base with the spec's packs on it
    draw        a base of random weights                    locate     the base in the file system
    structure   the base's config and headers               resolve    selectors to sites, nothing left open
    check       everything that needs no run                capture    the host's graph, on fake tensors
    passes      the graph that the spec asks for            lower      the program of instructions
    prove       graph and program are the same model        price      parameters, FLOPs, memory of both
    expect      the expectations that prices decide         identify   every byte of the base and the data's identity
    plan        the tasks that teach the new parts          emit       the folder, in one rename

`prepare` goes as far as the plan and writes nothing (`archspec plan`); `compile_spec` goes to the end. Only the latter
needs the base's weights and the data: a config is enough for all that is proved and priced.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from archspec.compiler.attached import with_packs
from archspec.compiler.capture.infer import complete
from archspec.compiler.derive import Clock, Derivations, Derived, Progress, derive
from archspec.compiler.drawn import Teacher, named_teacher, with_weights
from archspec.compiler.emission.card import Row, card
from archspec.compiler.emission.emit import BaseContent, Emission, check_output, emit, read_content
from archspec.compiler.planning import make_plan
from archspec.compiler.pricing.cost import CostReport
from archspec.compiler.sources import gather
from archspec.diagnostics import Collector
from archspec.host.locate import Located, check_fingerprint, find_base, folder_of, structure_of
from archspec.host.probes import with_probe
from archspec.host.structure import Structure
from archspec.language.expectations import METRICS
from archspec.language.parse import load, read_source
from archspec.language.spec import Spec
from archspec.plan import Plan, digest
from archspec.quantity import quantity
from archspec.runtime.execution.workspace import Workspace
from archspec.runtime.store.lock import Lock
from archspec.semantics.outcomes import PRICED, Outcome, evaluate_expectation
from archspec.semantics.resolve import resolve

STAGES = (
    "load", "attach", "draw", "locate", "structure", "resolve", "check", "capture", "passes", "lower", "prove",
    "price", "expect", "identify", "plan", "emit",
)  # fmt: skip
OUT = Path("out")
"""Where checkpoints go, under the spec's name, unless another folder is named."""


@dataclass(frozen=True)
class Prepared(Derived):
    """All that is known before anything is written."""

    path: Path
    located: Located
    outcomes: tuple[Outcome, ...]
    content: BaseContent
    plan: Plan
    seconds: Mapping[str, float]
    teacher: Teacher | None = None

    @property
    def spec(self) -> Spec:
        return self.resolved.spec

    @property
    def structure(self) -> Structure:
        return self.resolved.structure


@dataclass(frozen=True)
class CompileResult:
    """What the CLI prints of a compile."""

    prepared: Prepared
    out: Path
    lock: Lock
    seconds: Mapping[str, float]

    def to_json(self) -> dict[str, Any]:
        kinds = [entry.kind for entry in self.lock.tensors.values()]
        return {
            "spec": self.prepared.spec.name,
            "out": str(self.out),
            "base": dict(self.lock.base),
            "instructions": len(self.lock.instructions),
            "operators": dict(self.lock.operators),
            "tensors": {kind: kinds.count(kind) for kind in ("copied", "derived", "new")},
            "bytes": sum(record.size for record in self.lock.files.values()),
            "results": dict(self.lock.results),
            "tasks": [task.id for task in self.prepared.plan.tasks],
            "warnings": [str(warning) for warning in self.prepared.warnings],
            "seconds": {stage: round(value, 3) for stage, value in self.seconds.items()},
        }


@contextmanager
def uncollected() -> Iterator[None]:
    """Leave cycles of objects alone for a while: a compile makes few, and the libraries that are loaded on the way make
    half a million objects that live for good. Collections would walk over them again and again (1 CPU second)."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


@uncollected()
def compile_spec(
    path: str | Path,
    out: str | Path | None = None,
    *,
    member: str | None = None,
    link: bool = False,
    overwrite: bool = False,
    progress: Progress = lambda stage: None,
    known: Derivations | None = None,
) -> CompileResult:
    """Compile a spec, or the `member` of its matrix, to a folder. `link`: hard-link files of the base instead of
    copying their bytes. `overwrite`: also replace a result that has been trained since. `known`: what was derived for
    other members. Raises ArchspecError; nothing is half-written then."""
    clock, path = Clock(progress), Path(path)
    with clock("load"):
        spec = load(path, member)
    target = Path(out) if out is not None else OUT / spec.name
    check_output(target, overwrite)
    with ExitStack() as stack:
        with clock("attach"):
            spec = stack.enter_context(with_packs(spec, path.parent, target))
        with clock("draw"):
            drawn = stack.enter_context(with_weights(spec, path.parent, target))
        ready = _prepare(spec, path, clock, whole=True, drawn=drawn, known=known)
        with clock("emit"):
            lock = emit(_emission(ready), target, link)
            host = ready.teacher.located if ready.teacher else ready.located
            Workspace(target).remember_origin(folder_of(host), path)
    return CompileResult(ready, target, lock, clock.seconds)


@uncollected()
def prepare(
    path: str | Path,
    progress: Progress = lambda stage: None,
    member: str | None = None,
    known: Derivations | None = None,
) -> Prepared:
    """Run every stage up to the plan. Writes nothing. `known`: what was derived for other members."""
    clock = Clock(progress)
    with clock("load"):
        spec = load(path, member)
    return _prepare(spec, Path(path), clock, whole=False, known=known)


def _prepare(
    spec: Spec,
    path: Path,
    clock: Clock,
    whole: bool,
    drawn: Located | None = None,
    known: Derivations | None = None,
) -> Prepared:
    """Run the stages up to the plan. `whole`: weights and data must be there; else a note says what is not. `drawn`:
    where the base of random weights was written."""
    with clock("locate"):
        located = drawn or find_base(spec, path.parent)
    with clock("structure"):
        structure = with_probe(read_host(located, whole), spec.probe, path.parent, spec.span("probe"))
    with clock("resolve"):
        resolved = resolve(spec, structure)
    derived = derive(resolved, clock, known)
    with clock("expect"):
        outcomes = _expect(spec, derived.cost)
    with clock("identify"):
        content = _identify(spec, located, structure)
        teacher = named_teacher(spec, path.parent, structure, whole)
    with clock("plan"):
        sources, absent = gather(resolved, located, content, path.parent, whole)
        if teacher:
            sources = replace(sources, fingerprint=digest([sources.fingerprint, teacher.fingerprint]))
        plan = make_plan(resolved, derived.program, sources, derived.cost.prices())
    return Prepared(
        **vars(replace(derived, warnings=(*derived.warnings, *absent))),
        path=path,
        located=located,
        outcomes=outcomes,
        content=content,
        plan=plan,
        seconds=clock.seconds,
        teacher=teacher,
    )


def read_host(located: Located, whole: bool) -> Structure:
    """Read a base's structure; slots that its config does not tell are inferred. `whole`: AS648 without weights."""
    return complete(structure_of(located, whole))


def _expect(spec: Spec, cost: CostReport) -> tuple[Outcome, ...]:
    """Hold the expectations that a price decides; what only a run can measure is left to `archspec run`."""
    outcomes = tuple(
        evaluate_expectation(e, *cost.value(e.metric, dict(e.args))) for e in spec.expect if e.metric in PRICED
    )
    broken = Collector()
    broken.add(outcome.diagnostic() for outcome in outcomes if not outcome.holds)
    broken.raise_if_errors()
    return outcomes


def _identify(spec: Spec, located: Located, structure: Structure) -> BaseContent:
    assert spec.base is not None
    content = read_content(structure)
    stated = spec.base.fingerprint
    if stated is not None and stated != content.fingerprint:
        check_fingerprint(spec.base, located)  # another scheme may be stated
    return content


def _emission(ready: Prepared) -> Emission:
    results = {
        "totals": {name: sides["result"] for name, sides in ready.cost.totals().items()},
        "cost": ready.cost.to_json(),
        "proof": ready.proof.to_json(),
        "expectations": [_outcome(outcome) for outcome in ready.outcomes],
    }
    return Emission(
        resolved=ready.resolved,
        program=ready.program,
        located=ready.located,
        teacher=ready.teacher.to_json() if ready.teacher else None,
        near=ready.path.parent,
        content=ready.content,
        plan=ready.plan,
        spec_digest=digest(read_source(ready.path).text),
        card=card(ready.resolved, ready.program, cost_rows(ready.cost), ready.plan, _expectations(ready.outcomes)),
        data=ready.plan.data,
        results=results,
    )


COSTS = {
    "params": ("parameters", "count"),
    "weights": ("weights", "bytes"),
    "flops": ("FLOPs", "count"),
    "activations": ("peak activations", "bytes"),
}
"""Metric -> what it is called in tables, unit."""


def cost_rows(cost: CostReport) -> list[Row]:
    """Return the cost table of base and result, as text."""
    rows = []
    for metric, (title, unit) in COSTS.items():
        host, result = cost.value(metric)
        what = f"{title} at {cost.tokens} tokens" if metric in ("flops", "activations") else title
        ratio = f"{result / host:.3f}x" if host else ""
        rows.append(Row(what, quantity(host, unit), quantity(result, unit), ratio))
    return rows


def _expectations(outcomes: tuple[Outcome, ...]) -> list[tuple[str, str, bool]]:
    units = {o.expectation.metric: METRICS[o.expectation.metric].unit for o in outcomes}
    return [(o.expectation.text, quantity(o.result, units[o.expectation.metric]), o.holds) for o in outcomes]


def _outcome(outcome: Outcome) -> dict[str, Any]:
    return {
        "text": outcome.expectation.text,
        "host": outcome.host,
        "result": outcome.result,
        "holds": outcome.holds,
    }
