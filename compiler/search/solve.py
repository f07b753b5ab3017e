"""The choice of least score within the budget: a multiple-choice knapsack with several weights, solved exactly.

    minimize sum x_sc score_sc   subject to   sum_c x_sc = 1 for every site s,   sum x_sc change_sc <= bound - host

over x_sc in {0, 1}, by HiGHS through scipy.optimize.milp.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import Bounds, LinearConstraint, milp

from archspec.compiler.search.price import Priced
from archspec.diagnostics import Collector, InternalError
from archspec.language.expectations import METRICS
from archspec.quantity import quantity

Floats = NDArray[np.float64]
Scores = Sequence[Mapping[str, float]]
"""Per candidate: module path -> score."""


@dataclass(frozen=True)
class Choice:
    """`operators`: module path -> place of the candidate, None where the site stays. `score`: the sum; `values`: what
    each metric of the budget comes to."""

    operators: Mapping[str, int | None]
    score: float
    values: tuple[float, ...]


def solve(paths: Sequence[str], scores: Scores, budget: Sequence[Priced], problems: Collector) -> Choice | None:
    """Return the best choice; None after a report of what cannot be met (AS820)."""
    pairs = [(path, place) for path in paths for place in (None, *_fitting(path, scores))]
    cost = np.array([0.0 if place is None else scores[place][path] for path, place in pairs])
    rows = np.array([[change(p, path, place) for path, place in pairs] for p in budget]).reshape(len(budget), -1)
    room = np.array([p.bound - p.host for p in budget])
    once = np.array([[float(path == other) for other, _ in pairs] for path in paths])
    found = _solved(cost, once, rows, room)
    if found is None:
        _explain(once, rows, room, budget, problems)
        return None
    chosen = {path: place for (path, place), x in zip(pairs, found, strict=True) if x}
    values = tuple(p.host + float(row @ found) for p, row in zip(budget, rows, strict=True))
    return Choice(chosen, float(cost @ found), values)


def _fitting(path: str, scores: Scores) -> list[int]:
    return [place for place, known in enumerate(scores) if path in known]


def change(metric: Priced, path: str, place: int | None) -> float:
    return 0.0 if place is None else metric.changes[place][path]


def _solved(cost: Floats, once: Floats, rows: Floats, room: Floats) -> Floats | None:
    """Return x, None where nothing is feasible. Rows are scaled to their room: FLOPs are large numbers."""
    scale = np.maximum(np.abs(rows).max(1, initial=0.0), 1.0)
    limits = [LinearConstraint(once, 1, 1)]
    if len(rows):
        limits.append(LinearConstraint(rows / scale[:, None], -np.inf, room / scale + SLACK))
    found = milp(cost, constraints=limits, integrality=np.ones_like(cost), bounds=Bounds(0, 1))
    if found.status == 2:
        return None
    if found.x is None:
        raise InternalError(f"search: the solver stopped: {found.message}")
    rounded: Floats = np.round(found.x)
    return rounded


SLACK = 1e-9
"""Of the largest change: what rounding may add to a sum."""


def _explain(once: Floats, rows: Floats, room: Floats, budget: Sequence[Priced], problems: Collector) -> None:
    """Report the bounds that no choice meets, each with the best that one can; or that they exclude one another."""
    single = False
    for number, metric in enumerate(budget):
        best = _solved(rows[number], once, rows[:0], room[:0])
        assert best is not None
        least = float(rows[number] @ best)
        if least > room[number] + SLACK * np.abs(rows[number]).max():
            single = True
            _report(metric, metric.host + least, "no choice of these operators meets it", problems)
    if single:
        return
    for number, metric in enumerate(budget):
        others = [k for k in range(len(budget)) if k != number]
        best = _solved(rows[number], once, rows[others], room[others])
        if best is not None:
            _report(metric, metric.host + float(rows[number] @ best), "the other bounds exclude it", problems)


def _report(metric: Priced, best: float, why: str, problems: Collector) -> None:
    unit = METRICS[metric.expectation.metric].unit
    told = f"{best / metric.host:.4g}x" if metric.expectation.relative else quantity(best, unit)
    message = f"'{metric.expectation.text.strip()}' cannot be met: {why}"
    problems.report("AS820", message, metric.expectation.span, f"the least that can be had is {told}")
