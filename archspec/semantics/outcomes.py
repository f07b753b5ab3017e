"""Expectations against values: the one place where a broken `expect` becomes a diagnostic.

Each metric is known at one stage: what the config and the headers tell (`STATIC`, at validate), what running the host
on fake tensors tells (`PRICED`, at compile and plan), what only samples and clocks tell (`MEASURED`, at eval). Every
stage hands its values to `evaluate_expectation` and leaves the rest to those behind it.
"""

from __future__ import annotations

from dataclasses import dataclass

from archspec.diagnostics import Diagnostic, Label
from archspec.language.expectations import METRICS, Expectation
from archspec.quantity import Number, quantity

STATIC = frozenset({"depth", "params", "weights", "sites", "causal", "reach"})
PRICED = frozenset({"flops", "activations"})
MEASURED = frozenset({"fd", "agreement", "paired", "perplexity", "latency"})


@dataclass(frozen=True)
class Outcome:
    """An expectation with the values it was held against; `host` matters to relative ones only."""

    expectation: Expectation
    host: Number | None
    result: Number
    holds: bool

    def diagnostic(self) -> Diagnostic:
        """Return the error of a broken expectation."""
        expectation, unit = self.expectation, METRICS[self.expectation.metric].unit
        found = f"it is {quantity(self.result, unit)}"
        if expectation.relative and self.host is not None:
            bound = quantity(expectation.value * self.host, unit)
            found += f", and {expectation.value:g}x of the base's {quantity(self.host, unit)} is {bound}"
        elif unit == "flag":
            found = f"the result is {'' if self.result else 'not '}{expectation.metric}"
        label = Label(expectation.span) if expectation.span else None
        return Diagnostic("AS330", f"expectation '{expectation.text.strip()}' is broken: {found}", label)


def evaluate_expectation(expectation: Expectation, host_value: Number | None, result_value: Number) -> Outcome:
    """Hold an expectation against the measured values of base and result, in the metric's unit.

    A relative expectation needs `host_value`.
    """
    return Outcome(expectation, host_value, result_value, expectation.holds(result_value, host_value))
