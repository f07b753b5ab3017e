"""Operators against their sites, and initializations against their operators.

A signature yields what is wrong with a config at a site (`problems`) and with inheriting there (`obstacles`). The same
mistake at many sites is one finding that names them, shown at the parameter to blame. A host of no known family has
sites whose shape only a capture can tell (width 0): those are left to the compiler, which checks again.
"""

from __future__ import annotations

from collections.abc import Iterator

from archspec.diagnostics import Collector, Label
from archspec.families import FAMILIES
from archspec.host.structure import Site
from archspec.language.edits import Init, Insert, Replace
from archspec.operators.base import Problem, Signature
from archspec.semantics.check.places import listed, written_keys
from archspec.semantics.resolve import ResolvedEdit, ResolvedSpec
from archspec.source import Span

Finding = tuple[str, Problem]
TAUGHT = ("inherit", "least_squares")
TEXTS = ("text", "encoder")
"""Tasks of hosts whose tokens are those of texts."""


def operators_fit(resolved: ResolvedSpec, collector: Collector) -> None:
    """Report operators that cannot fill their sites and initializations that cannot fill their operators."""
    for edit in resolved.edits:
        if isinstance(edit.edit, Replace | Insert) and edit.configs:
            _check(edit, edit.edit, resolved, collector)


def _check(edit: ResolvedEdit, verb: Replace | Insert, resolved: ResolvedSpec, collector: Collector) -> None:
    found: dict[Finding, list[Site]] = {}
    family = FAMILIES.get(resolved.structure.family)
    for site, place, config in zip(edit.sites, edit.places, edit.configs, strict=True):
        for finding in _findings(place, config, verb, family is not None and family.task in TEXTS):
            found.setdefault(finding, []).append(site)
    for (code, problem), sites in found.items():
        _report(code, problem, sites, verb, collector)


def _report(code: str, problem: Problem, sites: list[Site], verb: Replace | Insert, collector: Collector) -> None:
    hints = (problem.hint,) if problem.hint else ()
    span = _span(verb, code, problem.field)
    if code in ("AS234", "AS301", "AS302", "AS620"):
        message = f"{verb.with_.op} does not fit {listed(sites)}: {problem.message}"
        collector.report(code, message, span, *hints)
        return
    message = f"init {verb.init.kind} is not possible at {listed(sites)}: {problem.message}"
    asked = verb.init.span("kind")
    related = (Label(asked, "asked for here"),) if asked and asked != span else ()
    collector.report(code, message, span, *hints, related=related)


def _findings(site: Site, config: Signature, verb: Replace | Insert, texts: bool) -> Iterator[Finding]:
    if site.shape.beside and config.single and site.role in config.slots:
        message = f"joint attention mixes two streams, and {config.name} cannot: {config.single}"
        yield "AS620", Problem(None, message, f"insert {config.name} behind the block, or take another operator")
        return
    if site.slot != "module" and not config.fills(site):
        hint = f"{config.name} fills {', '.join(sorted(config.slots))}"
        yield "AS301", Problem(None, f"it does not fill the slot '{site.slot}'", hint)
        return
    if site.shape.width == 0:
        return
    problems = tuple(config.problems(site.shape))
    yield from (("AS302", problem) for problem in problems)
    if not problems and texts and _blind(site, config):
        message = "it mixes tokens, and the host tells this site neither which of them are padding nor what was before"
        yield "AS234", Problem(None, message, f"put {config.name} in place of an attention, or insert it behind blocks")
    if not problems and isinstance(verb, Insert) and verb.init.kind in TAUGHT:
        hint = "write init identity, random or artifact"
        yield "AS310", Problem(None, "nothing stood there that it could learn from", hint)
    elif not problems:
        yield from _initial(site, config, verb.init)


def _blind(site: Site, config: Signature) -> bool:
    """Whether an operator mixes tokens of texts, which are padded and decoded bit by bit, where it is not told so."""
    return site.shape.tokens is None and site.port.mask is None and config.facts(site.shape).reach != 0


def _initial(site: Site, config: Signature, init: Init) -> Iterator[Finding]:
    if init.kind in (None, "artifact"):
        return
    if init.kind not in config.inits:
        known = ", ".join(config.inits)
        yield "AS310", Problem(None, f"{config.name} has no such initialization", f"{config.name} supports {known}")
    elif init.kind == "inherit" and init.neurons == "greedy":
        message = "greedy chooses neurons by data, and inherit reads none"
        yield "AS310", Problem(None, message, "write init least_squares, or neurons nearest")
    elif init.kind == "inherit":
        yield from (("AS311", obstacle) for obstacle in config.obstacles(site.shape))
        missing = [name for name in config.inherits(site.shape) if f"{name}.weight" not in site.teacher]
        if missing:
            message = f"no tensor of the base is known to hold the teacher's {', '.join(missing)}"
            yield "AS311", Problem(None, message, "write init random or least_squares")


def _span(verb: Replace | Insert, code: str, field: str | None) -> Span | None:
    """Return the span of the parameter to blame; that of the operator's name, or of the init, where none is written."""
    call = verb.with_
    if field and field.rstrip("_") in written_keys(call):
        return call.span(field.rstrip("_"))
    if code.startswith("AS31"):
        return verb.init.span("kind")
    return (call.span("op") if "op" in written_keys(call) else call.span()) or verb.span("with")
