"""What follows from a resolved spec alone: the graph that it asks for, the program, its proof and its price. Needs no
weights and no data."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from archspec.compiler.capture import capture
from archspec.compiler.capture.model import build_structure, edited_paths
from archspec.compiler.pricing.cost import CostReport, price
from archspec.compiler.proof.prove import Proof, lowered_model, prove
from archspec.compiler.rewrite.graph import HostGraph
from archspec.compiler.rewrite.pipeline import run
from archspec.diagnostics import Diagnostic
from archspec.host.structure import Structure
from archspec.instructions import Instruction
from archspec.runtime.families import family
from archspec.semantics.check import check
from archspec.semantics.lower import lower
from archspec.semantics.resolve import ResolvedSpec

Progress = Callable[[str], None]


@dataclass
class Clock:
    """Tells who watches which stage begins, and notes how long each took."""

    progress: Progress = lambda stage: None
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        self.progress(stage)
        start = time.perf_counter()
        yield
        self.seconds[stage] = time.perf_counter() - start


@dataclass(frozen=True)
class Derived:
    """Of a resolved spec. `warnings`: what is left to say of it."""

    resolved: ResolvedSpec
    warnings: tuple[Diagnostic, ...]
    program: tuple[Instruction, ...]
    proof: Proof
    cost: CostReport


@dataclass
class Derivations:
    """What was derived before. Members of one spec that differ in seeds, data or training ask for the same graph, which
    is proved and priced once."""

    found: list[tuple[Structure, list[dict[str, Any]], Derived]] = field(default_factory=list)

    def of(self, resolved: ResolvedSpec) -> Derived | None:
        edits = _asked(resolved)
        same = (d for structure, other, d in self.found if other == edits and structure == resolved.structure)
        return next(same, None)

    def keep(self, derived: Derived) -> None:
        self.found.append((derived.resolved.structure, _asked(derived.resolved), derived))


def derive(resolved: ResolvedSpec, clock: Clock, known: Derivations | None = None) -> Derived:
    """Check, lower, prove and price a resolved spec, or take from `known` what is there already."""
    with clock("check"):
        warnings = _check(resolved)
    if known and (before := known.of(resolved)):
        return replace(before, resolved=resolved, warnings=warnings)
    derived = _derive(resolved, warnings, clock)
    if known is not None:
        known.keep(derived)
    return derived


def _derive(resolved: ResolvedSpec, warnings: tuple[Diagnostic, ...], clock: Clock) -> Derived:
    with clock("capture"):
        before = _capture(resolved)
    with clock("passes"):
        after = run(before, resolved)
    with clock("lower"):
        program = lower(resolved)
        models = before.model, lowered_model(resolved, program)
    with clock("prove"):
        proof = prove(resolved, program, before, after, models[1])
    with clock("price"):
        cost = price(resolved, program, models=models)
    return Derived(resolved, warnings, program, proof, cost)


def _check(resolved: ResolvedSpec) -> tuple[Diagnostic, ...]:
    """Raise on errors; return what is left to say."""
    found = check(resolved)
    found.raise_if_errors()
    return tuple(found)


def _capture(resolved: ResolvedSpec) -> HostGraph:
    structure, model = resolved.structure, build_structure(resolved.structure)
    return capture(model, family(structure.family).example(model), edited_paths(resolved))


def _asked(resolved: ResolvedSpec) -> list[dict[str, Any]]:
    """Return what decides the graph: edits with their sites and operators, without where their weights come from."""
    return [{key: value for key, value in edit.items() if key != "init"} for edit in resolved.to_json()["edits"]]
