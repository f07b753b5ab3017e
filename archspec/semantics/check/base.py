"""A base of random weights: what it knows nothing for, and what was written in vain."""

from __future__ import annotations

from collections.abc import Iterator

from archspec.diagnostics import Collector, Severity, setting
from archspec.language.edits import Parallelize, Replace
from archspec.language.spec import Spec
from archspec.semantics.check.places import written_keys
from archspec.semantics.resolve import ResolvedSpec
from archspec.source import Span

OF_RANDOM = ("seed", "teacher")
"""Settings of a base that random weights alone read."""


def random_weights_teach_nothing(resolved: ResolvedSpec, collector: Collector) -> None:
    """What imitates a teacher needs one that was trained: a base of random weights must name it."""
    spec, base = resolved.spec, resolved.spec.base
    if base is None or resolved.gaps.has("base"):
        return
    if base.weights != "random":
        for key in (key for key in OF_RANDOM if key in written_keys(base)):
            message = f"{key} has no effect: the weights are the stored ones"
            hint = f"leave it out, or write `{setting(base.span(key), 'weights', 'random')}`"
            collector.report("AS322", message, base.span(key), hint, severity=Severity.WARNING)
        return
    if spec.attach is not None:
        message = "packs hold what tuning changed of trained weights, and those of the base are random"
        span = spec.origin.key_span("attach") if spec.origin else None
        collector.report("AS659", message, span, "leave attach out, or weights (stored ones are the default)")
    if base.teacher is None:
        name = setting(base.span(), "teacher", base.from_)
        for what, span, instead in _imitations(spec):
            hint = f"{instead}, or name a trained model in the base, such as `{name}`"
            collector.report("AS657", f"{what} imitates the base, whose weights are random", span, hint)


def _imitations(spec: Spec) -> Iterator[tuple[str, Span | None, str]]:
    """Yield (what, where, what to write instead) of all that learns from a teacher."""
    for edit in spec.edits:
        if isinstance(edit, Replace | Parallelize) and edit.init.kind == "least_squares":
            yield "init least_squares", edit.init.span("kind"), "write random in its place"
    if spec.distill:
        span = spec.origin.key_span("distill") if spec.origin else None
        yield "distill", span, "leave it out"
    if spec.finetune and spec.finetune.distill_weight:
        yield "finetune", spec.finetune.span("distill_weight"), "leave distill_weight out"
    if spec.finetune and spec.finetune.keep.by == "teacher":
        yield "finetune", spec.finetune.keep.span("by"), "write by loss"
