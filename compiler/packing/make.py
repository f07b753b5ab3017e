"""A pack made: differences looked at one by one, bytes shared out, differences encoded one by one.

Two passes over the tensors, so that memory holds one difference and its decomposition at a time, whatever the size of
the model. Between them stand the curves of all tensors: sizes and errors, no weights.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import sqrt
from pathlib import Path
from typing import Any

from archspec.compiler.packing.allocate import Curves, allocate
from archspec.compiler.packing.choices import Choice, choices
from archspec.compiler.packing.progress import Watch, told, unwatched
from archspec.compiler.packing.recipe import Step, build, squared, total
from archspec.compiler.packing.request import Request, Subject
from archspec.compiler.packing.sources import Headers, Source, finite
from archspec.compiler.packing.write import PackWriter
from archspec.diagnostics import ArchspecError, Collector, Diagnostic, Label, Severity, fail
from archspec.host.excerpt import Excerpt
from archspec.host.headers import BITS
from archspec.packs.header import Change, Header, part_name
from archspec.packs.terms import to_json
from archspec.quantity import quantity
from archspec.runtime.model.excerpts import taken

PER_TENSOR, PER_PART = 260, 90
"""Bytes that a tensor and a part take in the header, beside their names; measured when the file is written."""
ROUNDS, SLACK = 5, 0.02
"""Times that a file is written to come this near to its budget from below."""
MORE = 16
"""Bytes that the header may grow by when another budget stands in it."""


@dataclass(frozen=True)
class Made:
    """`size` of the file and `whole` of what differs, in bytes; `header` has every tensor's error. `warnings`: of what
    it does not keep."""

    header: Header
    size: int
    whole: int
    warnings: tuple[Diagnostic, ...] = ()

    @property
    def error(self) -> float:
        return self.header.error

    def to_json(self, path: Path) -> dict[str, Any]:
        tensors = {n: {"terms": [to_json(term) for term in c.terms], "bytes": c.size, "norm": c.norm, "error": c.error}
                   for n, c in self.header.tensors.items()}  # fmt: skip
        for name, change in self.header.tensors.items():
            tensors[name] |= {"outputs": change.outputs} if change.outputs else {}
        told = {"pack": str(path), "name": self.header.name, "base": dict(self.header.base)}
        errors = {"error": self.error, "output_error": self.header.output_error}
        warnings = [str(warning) for warning in self.warnings]
        return told | {"bytes": self.size, "of": self.whole, **errors, "tensors": tensors, "warnings": warnings}


@dataclass(frozen=True)
class Measured:
    """What can be done with each tensor that differs, and the bytes of all of these: the same whatever the budget."""

    curves: Curves[Excerpt]
    whole: int


def make_pack(
    request: Request,
    base: Headers,
    source: Source,
    out: Path,
    watch: Watch = unwatched,
    known: Measured | None = None,
) -> Made:
    """Write the pack of a source's differences to `out`; `known`: what was measured for another budget. AS683 for
    differences that are no numbers, AS684 for a budget that cannot be met, AS685 where nothing differs."""
    known = known or measured(request, base, source, watch)
    curves, whole = known.curves, known.whole
    budget = _budget(request, whole)
    if budget is None:
        best = {name: curve[-1] for name, curve in curves.items()}
        return _written(request, base, source, best, out, None, watch, whole)
    room, best_made = budget, None
    for _ in range(ROUNDS):  # what the header takes is known when it is written
        chosen = allocate(curves, room) or {name: curve[0] for name, curve in curves.items()}
        made = _written(request, base, source, chosen, out, budget, watch, whole)
        best_made = made if made.size <= budget else best_made
        spare = budget - made.size
        if 0 <= spare <= SLACK * budget or (_is_least(chosen, curves) and (spare < 0 or not _has_more(curves))):
            break
        room = max(room, sum(choice.size for choice in chosen.values())) + spare
    if best_made is None:
        raise _too_small(request, made.size + MORE, budget)
    if _has_more(curves) and not any(change.terms for change in best_made.header.tensors.values()):
        first = _written(request, base, source, _first(curves), out, 0, watch, whole)  # to see how large it would be
        return replace(best_made, warnings=(_nothing_kept(request, int((1 + SLACK) * first.size)),))
    return best_made


def _first(curves: Curves[Excerpt]) -> dict[Excerpt, Choice]:
    """Return the smallest choices, but for the one that the fewest bytes make better."""
    name = min((name for name, curve in curves.items() if len(curve) > 1), key=lambda n: _step(curves[n]))
    return {other: curve[other == name] for other, curve in curves.items()}


def _step(curve: Sequence[Choice]) -> int:
    return curve[1].size - curve[0].size


def _nothing_kept(request: Request, enough: int) -> Diagnostic:
    message = "the budget is so small that nothing of the difference is kept"
    hint = f"write {enough} bytes or more, which a first tensor fits into"
    label = Label(request.span) if request.span else None
    return Diagnostic("AS684", message, label, hints=(hint,), severity=Severity.WARNING)


def _is_least(chosen: Mapping[Excerpt, Choice], curves: Curves[Excerpt]) -> bool:
    return all(chosen[name] is curve[0] for name, curve in curves.items())


def _has_more(curves: Curves[Excerpt]) -> bool:
    """Whether more than the smallest choices can be bought."""
    return any(len(curve) > 1 for curve in curves.values())


def _written(
    request: Request,
    base: Headers,
    source: Source,
    chosen: Mapping[Excerpt, Choice],
    out: Path,
    budget: int | None,
    watch: Watch,
    whole: int,
) -> Made:
    """Encode what was chosen; the file appears if it keeps to the budget."""
    with PackWriter(out) as writer:
        header = _encode(request, base, source, chosen, writer, watch)
        size = header.size + len(writer.head(header))
        if budget is None or size <= budget:
            writer.publish(header)
    return Made(header, size, whole)


def measured(request: Request, base: Headers, source: Source, watch: Watch = unwatched) -> Measured:
    """Try every encoding of every tensor that differs."""
    problems, found, whole = Collector(), dict[Excerpt, list[Choice]](), 0
    for name in told("measuring", list(source.names()), base, watch):
        delta = source.delta(name)
        if not finite(delta, name, problems, request.source) or not delta.any():
            continue
        subject = request.subject(name, delta)
        for excerpt in subject.excerpts:
            offered = _offered(subject, excerpt, request)
            found[excerpt] = [_weighed(choice, excerpt, subject.size) for choice in offered]
        whole += delta.numel() * BITS[base[name].dtype] // 8
    problems.raise_if_errors()
    if not found:
        raise fail("AS685", "nothing differs from the base", request.source, "are both the same checkpoint?")
    return Measured(found, whole)


def _offered(subject: Subject, excerpt: Excerpt, request: Request) -> Sequence[Choice]:
    recipe, metric = request.recipe_of(excerpt), subject.metric_of(excerpt)
    matrix = taken(excerpt, subject.matrix).contiguous()
    if not matrix.any():  # another part of the tensor differs
        return [Choice(0, 0.0)]
    if recipe is None:
        if request.budget is None and request.limit is None:
            message = f"no rule names '{excerpt.tensor}', and there is no budget that it could have a part of"
            raise fail("AS684", message, request.span, "write `budget: 6%`, or a rule for every role")
        return choices(matrix, metric)
    encoded = build(recipe, matrix, metric)
    return [Choice(sum(e.size for e in encoded), metric.squared(matrix - total(encoded, matrix)), recipe)]


def _weighed(choice: Choice, excerpt: Excerpt, size: float) -> Choice:
    """Add what a choice takes in the header, and take its error as a part of `size`."""
    parts = sum(_parts(step) for step in choice.recipe)
    added = PER_TENSOR + parts * PER_PART + (parts + 1) * len(excerpt.tensor)
    return replace(choice, size=choice.size + added, error=choice.error / size)


def _parts(step: Step) -> int:
    """Return how many parts a step's term has, or about."""
    if step.op != "svd":
        return 1 if step.op == "dense" else 2
    bands = 5 if step.price is not None else len(step.bands or (1,))
    return 1 + 4 * bands


def _budget(request: Request, whole: int) -> int | None:
    shares = [request.limit, None if request.budget is None else int(request.budget * whole)]
    return min((share for share in shares if share is not None), default=None)


def _too_small(request: Request, least: int, budget: int) -> ArchspecError:
    message = f"the pack cannot be as small as {quantity(budget, 'bytes')}"
    hint = f"what rules fix and the header take {least} bytes: write at least that, or `none` for some tensors"
    return fail("AS684", message, request.span, hint)


def _encode(
    request: Request,
    base: Headers,
    source: Source,
    chosen: Mapping[Excerpt, Choice],
    writer: PackWriter,
    watch: Watch,
) -> Header:
    """Encode every tensor. One that nothing is spent on stands in the header without terms: all of it is lost."""
    tensors: dict[str, Change] = {}
    for name in told("encoding", list(dict.fromkeys(excerpt.tensor for excerpt in chosen)), base, watch):
        delta = source.delta(name)
        subject = request.subject(name, delta)
        encoded = [e for excerpt in subject.excerpts for e in subject.encoded(excerpt, chosen[excerpt].recipe)]
        for place, term in enumerate(encoded):
            for part, value in term.parts.items():
                writer.add(part_name(name, place, part), value)
        lost = subject.matrix - total(encoded, subject.matrix)
        norms = sqrt(squared(subject.matrix)), sqrt(squared(lost))
        outputs = (_short(subject.cost(subject.matrix)), _short(subject.cost(lost))) if request.calibration else None
        terms = tuple(term.term for term in encoded)
        tensors[name] = Change(tuple(delta.shape), base[name].dtype, request.digests[name], terms, *norms, outputs)
    return Header(request.name, request.base, tensors, request.made, request.licence)


def _short(square: float) -> float:
    """Return the root to six digits: the header counts."""
    return float(f"{sqrt(square):.6g}")
