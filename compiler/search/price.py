"""What each candidate costs at each of its sites, as changes of the whole model's metrics."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from archspec.compiler.derive import Clock, derive
from archspec.compiler.pricing.cost import Cost, CostReport
from archspec.host.structure import Structure
from archspec.language.edits import Init
from archspec.language.expectations import Expectation
from archspec.language.spec import Spec
from archspec.semantics.choices import Candidate, Choices
from archspec.semantics.resolve import resolve

Changes = Mapping[str, float]
"""Module path -> what the model's metric changes by when the candidate stands there."""


@dataclass(frozen=True)
class Priced:
    """A metric of the budget: the host's value, the bound, and per candidate (by its place) the changes."""

    expectation: Expectation
    host: float
    changes: tuple[Changes, ...]

    @property
    def bound(self) -> float:
        value = float(self.expectation.value)
        return value * self.host if self.expectation.relative else value


def reports(spec: Spec, structure: Structure, choices: Choices) -> list[CostReport]:
    """Prove and price each candidate at all of its sites at once."""
    return [_report(spec, structure, choices, candidate) for candidate in choices.candidates]


def _report(spec: Spec, structure: Structure, choices: Choices, candidate: Candidate) -> CostReport:
    sites = [site for site in choices.sites if site.path in candidate.configs]
    edits = (candidate.edit(sites, Init()),)
    alone = replace(spec, search=None, edits=edits, expect=(), distill=None, finetune=None)
    return derive(resolve(alone, structure), Clock()).cost


def priced(expectation: Expectation, found: list[CostReport], choices: Choices) -> Priced:
    """Return a metric's changes. The sites of a search do not contain one another, so changes add up."""
    args: Any = expectation.args
    at = [report.at(**args) for report in found]
    metric = expectation.metric
    changes = tuple(
        {
            site.path: _value(site.result, metric) - _value(site.host, metric)
            for site in report.sites
            if site.path in candidate.configs
        }
        for report, candidate in zip(at, choices.candidates, strict=True)
    )
    return Priced(expectation, float(getattr(at[0].host, metric)), changes)


def _value(cost: Cost | None, metric: str) -> float:
    assert cost is not None
    return float(getattr(cost, metric))
