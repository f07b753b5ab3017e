"""Expectations against values: the one place where a broken `expect` becomes a diagnostic.

Each metric is known at one stage: what the config and the headers tell (`STATIC`, at validate), what running the host
on fake tensors tells (`PRICED`, at compile and plan), what only samples and clocks tell (`MEASURED`, at eval). Every
stage hands its values to `evaluate_expectation` and leaves the rest to those behind it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from archspec.diagnostics import Diagnostic, Label
from archspec.language.expectations import METRICS, Expectation

STATIC = frozenset({"depth", "params", "weights", "sites", "causal", "reach"})
PRICED = frozenset({"flops", "activations"})
MEASURED = frozenset({"fd", "agreement", "paired", "perplexity", "latency"})

Number = int | float | bool


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


def quantity(value: Number, unit: str) -> str:
    """Return a value as a person reads it.

    >>> quantity(712_043_520, "count"), quantity(3 * 2**30, "bytes"), quantity(math.inf, "tokens")
    ('712.04M', '3.00GiB', 'all')
    """
    if isinstance(value, bool):
        return str(value).lower()
    if value == math.inf:
        return "all"
    if unit == "bytes":
        return _scaled(value, 1024, ("B", "KiB", "MiB", "GiB", "TiB"))
    if unit == "count":
        return _scaled(value, 1000, ("", "k", "M", "G", "T", "P"))
    if unit == "fraction":
        return f"{100 * value:.4g}%"
    return f"{1000 * value:.4g}ms" if unit == "seconds" else f"{value:.6g}"


def _scaled(value: float, step: int, suffixes: tuple[str, ...]) -> str:
    for suffix in suffixes[:-1]:
        if abs(value) < step:
            return f"{value:.2f}{suffix}" if isinstance(value, float) and value % 1 else f"{value:.0f}{suffix}"
        value /= step
    return f"{value:.2f}{suffixes[-1]}"
