"""What archspec says about a user's mistake, as data.

A stage makes a `Collector`, reports everything it finds, and ends with `raise_if_errors()`: all errors of a stage are
reported together and no later stage runs on broken input. Rendering (text, JSON, GitHub, SARIF) lives in `render.py`;
codes and their explanations in `codes/`. Library functions raise `ArchspecError`; only the CLI prints.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from enum import StrEnum

from archspec.source import Span

FEW = 4
"""Mistakes of one cause that are told one by one."""


class Severity(StrEnum):
    ERROR = "error"
    WARNING = "warning"
    NOTE = "note"


@dataclass(frozen=True)
class Label:
    """A span and, if it needs one, a short text to print under it."""

    span: Span
    text: str = ""


@dataclass(frozen=True)
class Diagnostic:
    """One finding. `message` is a terse phrase with the offending name in quotes; `hints` are actions."""

    code: str
    message: str
    primary: Label | None = None
    related: tuple[Label, ...] = ()
    hints: tuple[str, ...] = ()
    severity: Severity = Severity.ERROR

    def __str__(self) -> str:
        place = f"{self.primary.span}: " if self.primary else ""
        return f"{place}{self.severity}[{self.code}]: {self.message}"


class ArchspecError(Exception):
    """Anything the user can cause. Carries at least one diagnostic of severity error."""

    def __init__(self, *diagnostics: Diagnostic) -> None:
        super().__init__("\n".join(map(str, diagnostics)))
        self.diagnostics = diagnostics


class InternalError(Exception):
    """A bug of archspec: the message names the stage or pass, never the user's spec as the cause."""


def fail(code: str, message: str, span: Span | None = None, *hints: str) -> ArchspecError:
    """Return (to be raised) the error of a single diagnostic."""
    return ArchspecError(Diagnostic(code, message, Label(span) if span else None, hints=hints))


class Collector:
    """Gathers the diagnostics of one stage."""

    def __init__(self) -> None:
        self._found: list[Diagnostic] = []

    def add(self, diagnostics: Iterable[Diagnostic]) -> None:
        self._found.extend(diagnostics)

    def report(
        self,
        code: str,
        message: str,
        span: Span | None = None,
        *hints: str,
        severity: Severity = Severity.ERROR,
        label: str = "",
        related: Sequence[Label] = (),
    ) -> None:
        primary = Label(span, label) if span else None
        self._found.append(Diagnostic(code, message, primary, tuple(related), hints, severity))

    def report_few(self, code: str, messages: Iterable[str], others: str, span: Span | None, *hints: str) -> None:
        """Report the first of many mistakes of one cause, and how many `others` there are."""
        found = list(messages)
        shown = found if len(found) <= FEW + 1 else found[:FEW]
        for message in shown:
            self.report(code, message, span, *hints)
        if len(found) > len(shown):
            self.report(code, f"and {len(found) - len(shown)} more {others}", span)

    @property
    def has_errors(self) -> bool:
        return any(d.severity is Severity.ERROR for d in self._found)

    def __iter__(self) -> Iterator[Diagnostic]:
        """Yield in the order of the text; those without a place come last. Repeats are dropped."""
        return iter(sorted(dict.fromkeys(self._found), key=_order))

    def raise_if_errors(self) -> None:
        if self.has_errors:
            raise ArchspecError(*self)


def _order(diagnostic: Diagnostic) -> tuple[bool, str, int]:
    span = diagnostic.primary.span if diagnostic.primary else None
    return (span is None, span.source.name if span else "", span.start if span else 0)


def nearest(word: str, known: Iterable[str]) -> tuple[str, ...]:
    """Return the hint "did you mean 'x'?" when some known word is near, else no hint.

    >>> nearest("raito", ["ratio", "kernel"])
    ("did you mean 'ratio'?",)
    """
    near = meant(word, known)
    return (f"did you mean '{near}'?",) if near else ()


def meant(word: str, known: Iterable[str]) -> str | None:
    """Return the known word that is near, if any is.

    >>> meant("raito", ["ratio", "kernel"])
    'ratio'
    """
    return next(iter(get_close_matches(word, list(known), n=1, cutoff=0.6)), None)


def setting(near: Span | None, key: str, value: str, *, bare: bool = False) -> str:
    """Return how a setting is written in the spelling of the spec that `near` is a part of; `bare`: never in quotes.

    >>> setting(None, "subfolder", "transformer")
    'subfolder: transformer'
    """
    if near is None or not near.source.name.endswith(".arch"):
        return f"{key}: {value}"
    return f"{key} = {value}" if bare or value.startswith(("[", "...")) else f'{key} = "{value}"'
