"""Stages against the edits and the host: data, distillation, finetuning, measurement.

A stage that cannot run is an error; a setting that will not do what it seems to say is a warning, and only when a
person wrote it: defaults never warn.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TypeGuard

from archspec.diagnostics import Collector, Severity
from archspec.host.structure import inside
from archspec.instructions import LEARNED_MERGES
from archspec.language.edits import Edit, Freeze, Init, Insert, Parallelize, Replace, Skip, selectors
from archspec.language.fields import Node, declared, written
from archspec.language.partial import closure
from archspec.language.selectors import Selector
from archspec.language.spec import Spec
from archspec.language.stages import Distill, Finetune
from archspec.semantics.check.families import has_null_label, is_headless, metrics_of, objectives_of
from archspec.semantics.check.places import written_keys
from archspec.semantics.check.routing import check_route
from archspec.semantics.choices import resolve_search
from archspec.semantics.packs import attach_fits, budget_is_there, resolve_pack
from archspec.semantics.resolve import ResolvedEdit, ResolvedSpec
from archspec.source import Span
from archspec.syntax.tree import Map

BEST_ONLY = ("by", "every", "samples")
"""Settings of `keep` that only the best reads."""
FIT_ONLY = ("ridge", "samples", "sequential", "grams")
"""Settings of `init` that only least squares reads."""
LIKE_PATHS = (".", "/", "~")


def data_is_there(resolved: ResolvedSpec, collector: Collector) -> None:
    """Every stage that reads examples must be told where they are."""
    spec = resolved.spec
    if spec.data is not None or resolved.gaps.has("data"):
        return
    fitted = (edit.init for edit in spec.edits if _has_init(edit) and edit.init.kind == "least_squares")
    for what, span in (
        *(("init least_squares", init.span("kind")) for init in fitted),
        *((("distill", _head(spec, "distill")),) if spec.distill else ()),
        *((("finetune", _head(spec, "finetune")),) if spec.finetune and not spec.finetune.data else ()),
    ):
        collector.report(
            "AS320",
            f"{what} needs data, and the spec names none",
            span,
            "add `data`: a bundled set such as digits, a hub id or a path",
        )


def names_are_used(resolved: ResolvedSpec, collector: Collector) -> None:
    """Warn of names that this file gives to selections and nothing selects by. Inherited ones may serve others."""
    spec, gaps = resolved.spec, resolved.gaps
    if spec.origin is None or gaps.of_edits or gaps.has("expect", "edits", "finetune", "search", "pack") or gaps.lets:
        return
    used = closure(_all_selectors(spec), spec.let)
    lets = spec.origin.entry("let")
    for entry in lets.value.entries if lets and isinstance(lets.value, Map) else ():
        if entry.key.value not in used and entry.key.span.source is spec.origin.span.source:
            _no_effect(collector, f"let '{entry.key.value}'", entry.key.span, "nothing selects by it")


def _all_selectors(spec: Spec) -> Iterator[Selector]:
    yield from (selector for edit in spec.edits for selector in selectors(edit))
    yield from (value for e in spec.expect for value in e.args.values() if isinstance(value, Selector))
    if spec.finetune and spec.finetune.lora:
        yield from spec.finetune.lora.targets
    if spec.search:
        yield spec.search.sites
    if spec.pack:
        yield from (rule.of for rule in spec.pack.rules)


def something_learns(resolved: ResolvedSpec, collector: Collector) -> None:
    """A stage that trains new parts needs new parts; a frozen site needs a stage that would train it."""
    if not resolved.gaps.has("replace", "parallelize"):
        _something_is_new(resolved, collector)
    if not resolved.gaps.has("finetune"):
        for edit in resolved.edits:
            if isinstance(edit.edit, Freeze):
                _freeze_has_effect(edit, resolved, collector)


def _something_is_new(resolved: ResolvedSpec, collector: Collector) -> None:
    spec = resolved.spec
    if any(_is_new(edit) for edit in resolved.edits):
        return
    if spec.distill:
        message = "distill has nothing to teach: no edit makes a part with new weights"
        collector.report("AS321", message, _head(spec, "distill"), "leave it out", severity=Severity.WARNING)
    if spec.finetune and spec.finetune.train == "new":
        message = "finetune trains new parts only, and no edit makes one"
        collector.report("AS321", message, spec.finetune.span("train"), "write train all")


def lora_has_old_weights(resolved: ResolvedSpec, collector: Collector) -> None:
    """Low-rank additions need old weights that train, and maps to be added to."""
    finetune = resolved.spec.finetune
    if finetune is None or finetune.lora is None:
        return
    if finetune.train == "new":
        message = "lora adds to old weights, and train new leaves them as they are"
        collector.report("AS321", message, finetune.span("train"), "leave train out: with lora, new parts train whole")
    replaced = {site.path for edit in resolved.edits if isinstance(edit.edit, Replace) for site in edit.sites}
    if resolved.adapted and replaced.issuperset(site.path for site in resolved.adapted):
        message = "lora adds to old weights, and every target is replaced: what is new trains whole"
        collector.report("AS321", message, finetune.lora.span("targets") or finetune.lora.span(), "name other targets")


def _freeze_has_effect(edit: ResolvedEdit, resolved: ResolvedSpec, collector: Collector) -> None:
    """Freezing matters to what would be trained: everything, or the new parts."""
    finetune = resolved.spec.finetune
    if finetune is None:
        _no_effect(collector, "freeze", edit.span, "no stage finetunes the model")
    elif finetune.train == "new" and not resolved.gaps.has("replace", "parallelize"):
        new = {site.path for other in resolved.edits if _is_new(other) for site in other.sites}
        frozen = {site.path for site in edit.sites}
        if not any(inside(path, frozen) for path in new) and not any(inside(path, new) for path in frozen):
            _no_effect(collector, "freeze", edit.span, "only new parts are finetuned, and none is here")


def settings_have_effect(resolved: ResolvedSpec, collector: Collector) -> None:
    """Warn of settings that a person wrote and nothing will read."""
    for edit in resolved.spec.edits:
        if _has_init(edit):
            _init_has_effect(edit, edit.init, collector)
    for resolved_edit in resolved.edits:
        _neurons_have_effect(resolved_edit, collector)
    if resolved.spec.finetune and resolved.spec.finetune.keep.which == "last":
        keep = resolved.spec.finetune.keep
        for key in (key for key in BEST_ONLY if key in written_keys(keep)):
            _no_effect(collector, key, keep.span(key), "only keep best reads it")
    distill = resolved.spec.distill
    if distill is None:
        return
    losses = [distill.loss] if isinstance(distill.loss, str) else list((distill.loss or {}).values())
    if "huber_delta" in written_keys(distill) and "huber" not in losses:
        _no_effect(collector, "huber_delta", distill.span("huber_delta"), "no loss is huber")
    if isinstance(distill.loss, dict) and not resolved.gaps.has("replace", "parallelize"):
        taught = {site.role for edit in resolved.edits if _is_new(edit) for site in edit.sites}
        for slot in distill.loss.keys() - taught:
            _no_effect(
                collector, f"loss of {slot}", _loss_span(distill, slot), f"no edit teaches a site of slot '{slot}'"
            )


def _init_has_effect(edit: Edit, init: Init, collector: Collector) -> None:
    keys = written_keys(init)
    if isinstance(edit, Parallelize | Skip) and edit.merge not in LEARNED_MERGES:
        if init.kind is not None:
            _no_effect(collector, "init", init.span(), f"merge {edit.merge} has no weights")
        return
    if isinstance(edit, Skip) and init.kind in ("inherit", "least_squares"):
        hint = "write init identity, random or artifact"
        collector.report("AS310", "the merge of a skip has nothing that it could learn from", init.span("kind"), hint)
    if init.kind == "artifact" and init.from_ is None:
        collector.report("AS312", "init artifact names no artifact", init.span("kind"), "name the file under from")
    if init.kind != "artifact" and init.from_ is not None:
        _no_effect(collector, "from", init.span("from"), "only init artifact reads one")
    if init.kind != "least_squares":
        for key in FIT_ONLY:
            if key in keys:
                _no_effect(collector, key, init.span(key), "only init least_squares reads it")


def _neurons_have_effect(edit: ResolvedEdit, collector: Collector) -> None:
    """Neurons are chosen where the new operator has fewer than the teacher."""
    if not _has_init(edit.edit) or "neurons" not in written_keys(edit.edit.init) or edit.edit.init.neurons == "auto":
        return
    sizes = (
        (site.shape.hidden, getattr(config, "hidden", None))
        for site, config in zip(edit.sites, edit.configs, strict=False)
    )
    if edit.edit.init.kind not in ("inherit", "least_squares"):
        _no_effect(collector, "neurons", edit.edit.init.span("neurons"), f"init {edit.edit.init.kind} inherits none")
    elif not any(teacher and own and own < teacher for teacher, own in sizes):
        _no_effect(collector, "neurons", edit.edit.init.span("neurons"), "no MLP here is narrower than its teacher")


def training_settings_are_sane(resolved: ResolvedSpec, collector: Collector) -> None:
    """Warn of numbers that contradict one another."""
    distill, finetune = resolved.spec.distill, resolved.spec.finetune
    if distill:
        steps = -(-distill.samples // distill.batch) * distill.epochs
        _check_warmup(distill, distill.warmup, steps, collector)
        if distill.batch > distill.samples:
            message = f"a batch of {distill.batch} is more than all {distill.samples} samples"
            _suspicious(collector, message, distill.span("batch"), f"write at most {distill.samples}")
    if finetune:
        _check_warmup(finetune, finetune.warmup, finetune.steps, collector)
        late = [step for step in finetune.milestones if step >= finetune.steps]
        if late:
            message = f"the milestone {late[0]} is not within {finetune.steps} steps"
            _suspicious(collector, message, finetune.item_span("milestones", late[0]), "leave it out")
        if list(finetune.milestones) != sorted(set(finetune.milestones)):
            _suspicious(collector, "milestones do not rise", finetune.span("milestones"), "write each once, in order")


def search_has_choices(resolved: ResolvedSpec, collector: Collector) -> None:
    """What `search` names must fit somewhere, and its budget be one."""
    resolve_search(resolved.spec, resolved.structure, collector)


def packs_are_whole(resolved: ResolvedSpec, collector: Collector) -> None:
    """What `pack` says must name a source, tensors, and forms with their settings; `attach` and `route` packs of the
    base."""
    packing = resolve_pack(resolved.spec, resolved.structure, collector)
    if packing is not None:
        budget_is_there(packing, resolved.structure, collector)
    attach_fits(resolved.spec, resolved.structure, collector)
    check_route(resolved.spec, resolved.structure, collector)


def evaluation_fits_the_host(resolved: ResolvedSpec, collector: Collector) -> None:
    """Metrics, objectives and label dropout must make sense for the host."""
    spec, structure = resolved.spec, resolved.structure
    host = structure.architecture
    fitting = metrics_of(structure)
    for metric in (m for m in (spec.eval.metrics if spec.eval else ()) if m not in fitting):
        span = spec.eval.item_span("metrics", metric) if spec.eval else None
        hint = f"{host} is measured by {', '.join(sorted(fitting))}"
        collector.report("AS326", f"'{metric}' cannot be measured on {host}", span, hint)
    objectives = objectives_of(structure)
    if spec.finetune and objectives and spec.finetune.objective not in objectives:
        message = f"{host} is not trained by '{spec.finetune.objective}'"
        collector.report(
            "AS326", message, spec.finetune.span("objective"), f"write one of {', '.join(sorted(objectives))}"
        )
    if spec.finetune and is_headless(structure) and not spec.finetune.distill_weight:
        message = f"{host} has no head, so nothing but a teacher can finetune it"
        collector.report("AS235", message, _head(spec, "finetune"), "write distill_weight: 1")
    for stage in (spec.distill, spec.finetune):
        if stage and "label_dropout" in written_keys(stage) and stage.label_dropout and not has_null_label(structure):
            message = f"{host} takes no labels, so none can be dropped"
            collector.report("AS324", message, stage.span("label_dropout"), "leave label_dropout out")


def paths_exist(resolved: ResolvedSpec, collector: Collector) -> None:
    """A text that can only be a path must name something that exists, a file or a folder where only that will do."""
    near = Path(resolved.spec.origin.span.source.name).parent if resolved.spec.origin else Path()
    for node, key, value, kind in _paths(resolved.spec):
        path = near / Path(value).expanduser()
        if not path.exists():
            collector.report("AS325", f"there is no '{value}'", node.span(key), "paths are relative to the spec")
        elif (kind == "file" and path.is_dir()) or (kind == "folder" and not path.is_dir()):
            other = "folder" if kind == "file" else "file"
            collector.report("AS325", f"'{value}' is a {other}", node.span(key), f"'{key}' takes a {kind}: name that")


def _paths(spec: Spec) -> Iterator[tuple[Node, str, str, str | bool]]:
    """Yield (node, key, text, what it can be) of all that can only be a path, but for those that are read before."""
    stages = (spec.data, spec.finetune and spec.finetune.data, spec.eval, spec.eval and spec.eval.data)
    inits = (e.init for e in spec.edits if _has_init(e))
    donors = (spec.inject.collage, *spec.inject.donors.values()) if spec.inject else ()
    for node in (n for n in (*stages, *inits, *donors, spec.pack) if n is not None):
        for field in declared(type(node)):
            value, path = getattr(node, field.name), field.metadata.get("path")
            if isinstance(value, str) and (path in ("file", "folder") or (path and value.startswith(LIKE_PATHS))):
                yield node, written(field.name), value, path


def _has_init(edit: Edit) -> TypeGuard[Replace | Parallelize | Insert | Skip]:
    return isinstance(edit, Replace | Parallelize | Insert | Skip)


def _is_new(edit: ResolvedEdit) -> bool:
    """Whether an edit makes weights that did not exist."""
    if isinstance(edit.edit, Replace | Insert):
        return any(config.weights(site.shape) for site, config in zip(edit.places, edit.configs, strict=True))
    return isinstance(edit.edit, Parallelize | Skip) and edit.edit.merge in LEARNED_MERGES


def _head(spec: Spec, key: str) -> Span | None:
    """Return the span of a stage's name."""
    return spec.origin.key_span(key) if spec.origin else None


def _loss_span(distill: Distill, slot: str) -> Span | None:
    entry = distill.origin.entry("loss") if distill.origin else None
    inner = getattr(entry.value, "key_span", None) if entry else None
    return inner(slot) if inner else distill.span("loss")


def _check_warmup(stage: Distill | Finetune, warmup: int, steps: int, collector: Collector) -> None:
    if warmup >= steps:
        message = f"a warm-up of {warmup} steps leaves none of {steps}"
        _suspicious(collector, message, stage.span("warmup"), f"write less than {steps}")


def _no_effect(collector: Collector, what: str, span: Span | None, reason: str) -> None:
    collector.report("AS322", f"{what} has no effect: {reason}", span, "leave it out", severity=Severity.WARNING)


def _suspicious(collector: Collector, message: str, span: Span | None, hint: str) -> None:
    collector.report("AS323", message, span, hint, severity=Severity.WARNING)
