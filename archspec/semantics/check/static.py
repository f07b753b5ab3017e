"""The expectations that can be held without running the host: depth, params, weights, sites, causal, reach."""

from __future__ import annotations

from archspec.diagnostics import ArchspecError, Collector, Label, Severity
from archspec.host.structure import Site
from archspec.language.edits import Insert, Replace
from archspec.language.expectations import Expectation
from archspec.language.selectors import Selector, select
from archspec.quantity import Number
from archspec.semantics.check.facts import Figures, host_figures, result_figures, token_bound
from archspec.semantics.check.families import metrics_of
from archspec.semantics.lower import lower
from archspec.semantics.outcomes import MEASURED, STATIC, evaluate_expectation
from archspec.semantics.resolve import ResolvedSpec


def expectations_hold(resolved: ResolvedSpec, collector: Collector, whole: bool = True) -> None:
    """Report every expectation that is broken already, does not apply to the host, or will never be measured.

    `whole`: all edits are there and agree, so the result can be told; else only what says nothing of it is held.
    """
    wanted = resolved.spec.expect
    figures = Figures(), Figures()
    if wanted and whole:
        figures = host_figures(resolved.structure), result_figures(resolved, lower(resolved))
    bound = next(token_bound(resolved), None) if whole else None
    for expectation in wanted:
        if bound is not None:
            _runs_at_its_size(expectation, bound, collector)
        if expectation.metric in STATIC:
            _hold(expectation, *figures, resolved, collector)
        elif expectation.metric in MEASURED:
            _will_be_measured(expectation, resolved, collector)


def _runs_at_its_size(expectation: Expectation, bound: tuple[Site, Replace | Insert], collector: Collector) -> None:
    """Report what is expected at a number of tokens that weights of the result are not made for."""
    (site, edit), tokens = bound, expectation.args.get("tokens")
    if tokens is None or tokens == site.shape.tokens:
        return
    name = edit.with_.op
    message = f"the result does not run on {tokens} tokens: {name} at {site.name} has weights for {site.shape.tokens}"
    asked = edit.with_.span("op") or edit.with_.span()
    related = (Label(asked, "its weights hold the number of tokens"),) if asked else ()
    hint = f"write {expectation.metric}(tokens={site.shape.tokens})"
    collector.report("AS351", message, expectation.span, hint, related=related)


def _hold(
    expectation: Expectation, before: Figures, after: Figures, resolved: ResolvedSpec, collector: Collector
) -> None:
    host: Number | None
    result: Number | None
    if expectation.metric == "sites":
        host = result = _count(expectation, resolved, collector)
    else:
        host, result = getattr(before, expectation.metric), getattr(after, expectation.metric)
    if result is None or (expectation.relative and host is None):
        return
    outcome = evaluate_expectation(expectation, host, result)
    if not outcome.holds:
        collector.add([outcome.diagnostic()])


def _count(expectation: Expectation, resolved: ResolvedSpec, collector: Collector) -> int | None:
    selector = expectation.args["sites"]
    if not isinstance(selector, Selector) or resolved.gaps.hides(selector, resolved.spec.let):
        return None
    try:
        return len(select(selector, resolved.structure, resolved.spec.let))
    except ArchspecError as error:
        collector.add(error.diagnostics)
        return None


def _will_be_measured(expectation: Expectation, resolved: ResolvedSpec, collector: Collector) -> None:
    metric, spec = expectation.metric, resolved.spec
    if metric not in metrics_of(resolved.structure):
        message = f"'{metric}' cannot be measured on {resolved.structure.architecture}"
        collector.report("AS326", message, expectation.span, "expect what fits the host, or leave it out")
    elif resolved.gaps.has("eval"):
        return
    elif spec.eval is None or (spec.eval.metrics and metric not in spec.eval.metrics):
        hint = f"add `eval` with metrics that name {metric}" if spec.eval is None else f"add {metric} to eval's metrics"
        message = f"'{metric}' is expected but never measured"
        collector.report("AS331", message, expectation.span, hint, severity=Severity.WARNING)
