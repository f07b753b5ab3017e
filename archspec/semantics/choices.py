"""The `search` of a spec resolved: which operators could stand at which sites, and what the budget counts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from archspec.diagnostics import ArchspecError, Collector
from archspec.host.structure import Site, Structure, inside
from archspec.language.build import build_signature
from archspec.language.edits import Init, OperatorCall, Replace
from archspec.language.expectations import Expectation
from archspec.language.selectors import Selector, parse_selector, select
from archspec.language.spec import Search, Spec
from archspec.operators.base import Signature

COUNTED = ("params", "flops", "weights", "latency")
"""Metrics that add up over sites, so that a budget can be held to them."""


@dataclass(frozen=True)
class Candidate:
    """An operator, and the sites that it fits with the parameters that it has there."""

    call: OperatorCall
    configs: Mapping[str, Signature]
    """Module path -> complete config."""

    @property
    def name(self) -> str:
        """As a spec would write the call."""
        told = ", ".join(f"{key}={value}" for key, value in self.call.params.items())
        return f"{self.call.op}({told})" if told else self.call.op

    def edit(self, sites: Sequence[Site], init: Init) -> Replace:
        """Return the edit that puts it in place of these sites."""
        return Replace(target=parse_selector(" | ".join(site.name for site in sites)), with_=self.call, init=init)


@dataclass(frozen=True)
class Choices:
    """`sites` in the host's order; `candidates` that fit at least one of them."""

    search: Search
    sites: tuple[Site, ...]
    candidates: tuple[Candidate, ...]


def resolve_search(spec: Spec, structure: Structure, problems: Collector) -> Choices | None:
    """Return what there is to choose from, None after a report. AS662, AS663."""
    search = spec.search
    if search is None:
        return None
    for key in ("candidates", "budget"):
        if not getattr(search, key):
            problems.report("AS663", f"a search needs {key}", search.span(key), f"write at least one in '{key}'")
    for expectation in search.budget:
        _bounds(expectation, problems)
    if spec.edits:
        hint = "write the edits into what the search gives, or search a host that has them"
        problems.report("AS663", "a spec that searches has no edits of its own", spec.edits[0].target.span, hint)
    sites = _selected(search.sites, spec, structure, problems)
    found = [c for call in search.candidates for c in _candidate(call, sites, problems)]
    _apart({path for candidate in found for path in candidate.configs}, search, problems)
    return Choices(search, sites, tuple(found)) if found and not problems.has_errors else None


def _bounds(expectation: Expectation, problems: Collector) -> None:
    if expectation.metric not in COUNTED or expectation.op != "<=":
        hint = f"write the most that {', '.join(COUNTED[:-1])} or {COUNTED[-1]} may be, as `flops(tokens=256) <= 0.9x`"
        problems.report("AS663", f"'{expectation.text.strip()}' is no budget", expectation.span, hint)


def _selected(selector: Selector, spec: Spec, structure: Structure, problems: Collector) -> tuple[Site, ...]:
    try:
        return select(selector, structure, spec.let)
    except ArchspecError as error:
        problems.add(error.diagnostics)
        return ()


def _apart(paths: set[str], search: Search, problems: Collector) -> None:
    """Report sites within one another: what one costs would be counted twice."""
    inner = next((path for path in sorted(paths) if inside(path.rpartition(".")[0], paths)), None)
    if inner is not None:
        hint = "search blocks or what is in them, not both"
        problems.report("AS663", f"'{inner}' is inside another of the searched sites", search.sites.span, hint)


def _candidate(call: OperatorCall, sites: Sequence[Site], problems: Collector) -> Iterator[Candidate]:
    config = build_signature(call, problems)
    if config is None or not sites:
        return
    fitting: dict[str, Signature] = {}
    reasons: list[str] = []
    for site in sites:
        whole = config.complete(site.shape) if site.shape.width else config
        wrong = [p.message for p in whole.problems(site.shape)] if config.fills(site) else []
        if config.fills(site) and not wrong:
            fitting[site.path] = whole
        reasons += wrong
    if fitting:
        yield Candidate(call, fitting)
        return
    slots = ", ".join(sorted({site.slot for site in sites}))
    reason = reasons[0] if reasons else f"it fills {', '.join(sorted(config.slots))}, the sites are {slots}"
    message = f"{call.op} fits none of the sites: {reason}"
    problems.report("AS662", message, call.span("op") or call.span(), "leave it out")
