"""From a spec and a host's structure to what exactly is edited: sites for selectors, nothing left to a default.

    resolve(spec, structure) -> ResolvedSpec            one ResolvedEdit per edit, in the order of the spec
    resolve_partial(partial, structure, problems)       of what can be resolved, with a report of the rest

Selectors become sites of the base, operators' parameters are built and completed at every site, and an `init` that the
spec leaves open becomes the best one that needs no data. All errors of all edits are reported together. Whether edits
make sense side by side (two replacements of one site, an operator that does not fit) is `archspec.semantics.check`'s to
say; here is refused only what has no meaning: block edits of things that are no blocks, groups that do not come out
even.

`ResolvedSpec.to_json` is the canonical explicit form that plans and locks carry. It holds no path of this machine.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from itertools import groupby, pairwise
from typing import Any

from archspec.diagnostics import ArchspecError, Collector
from archspec.host.structure import Site, Structure
from archspec.injection import Injection
from archspec.instructions import AFTER, LEARNED_MERGES
from archspec.language.build import build_signature
from archspec.language.edits import Drop, Edit, Init, InitKind, Insert, Parallelize, Repeat, Replace, Skip
from archspec.language.expectations import Expectation
from archspec.language.fields import Node, declared, written
from archspec.language.partial import WHOLE, Gaps, Partial
from archspec.language.selectors import Selector, select
from archspec.language.spec import Spec
from archspec.operators.base import Signature
from archspec.semantics.adapted import adapted_sites
from archspec.semantics.features import injection
from archspec.source import Span

NEED_DATA = frozenset({"least_squares", "artifact"})
DEFAULT_LOSSES: Mapping[str, str] = {"attn": "l1", "cross_attn": "l1", "block": "l1", "mlp": "l2", "norm": "l2"}


@dataclass(frozen=True)
class ResolvedEdit:
    """One edit with everything settled. `sites` are in the host's order."""

    edit: Edit
    sites: tuple[Site, ...]
    configs: tuple[Signature, ...] = ()
    """Of Replace and Insert: the operator's config at each of `places`, complete; as written where the host's sizes are
    not known. None where its parameters are wrong, in what `validate` looks at."""
    init: Init | None = None
    """Of what gets new weights: with its `kind` stated."""
    inserted: tuple[Site, ...] = ()
    """Of Insert: the new sites behind `sites`."""
    targets: tuple[Site, ...] = ()
    """Of Skip: for each of `sites`, the block that its output is led to."""

    @property
    def places(self) -> tuple[Site, ...]:
        """The sites that `configs` fill."""
        return self.inserted or self.sites

    @property
    def span(self) -> Span | None:
        """The selector's text."""
        return self.edit.target.span or self.edit.span()


@dataclass(frozen=True)
class ResolvedSpec:
    spec: Spec
    structure: Structure
    edits: tuple[ResolvedEdit, ...]
    gaps: Gaps = WHOLE
    """What is missing because of a mistake; nothing, in a spec that is compiled."""
    adapted: tuple[Site, ...] = ()
    """Where the finetuning's low-rank additions go."""
    injection: Injection | None = None
    """What `inject` says."""

    @property
    def dropped(self) -> frozenset[str]:
        """Paths of the blocks that the spec removes."""
        return frozenset(site.path for e in self.edits if isinstance(e.edit, Drop) for site in e.sites)

    def to_json(self) -> dict[str, Any]:
        """Return the spec as plain data with every default written out and every selector followed by its sites."""
        data: dict[str, Any] = explicit(self.spec)
        del data["matrix"], data["arms"], data["seed"]  # a member has none, and the seed is in every stage
        data["edits"] = [_edit_json(edit) for edit in self.edits]
        for stage in ("finetune", "eval"):
            if data[stage] and data[stage]["data"] is None:
                data[stage]["data"] = data["data"]
        if self.structure.probe:
            data["probe"] = {"file": self.structure.probe.file, "digest": self.structure.probe.digest}
        if data["finetune"] and data["finetune"]["lora"]:
            data["finetune"]["lora"]["sites"] = [site.path for site in self.adapted]
        del data["inject"]
        if self.injection:
            data["inject"] = self.injection.to_json()
        if data["distill"]:
            data["distill"]["loss"] = _losses(data["distill"]["loss"])
        return data


def resolve(spec: Spec, structure: Structure) -> ResolvedSpec:
    """Resolve every edit of `spec` on the host; raises ArchspecError with all that is wrong."""
    problems = Collector()
    resolved = resolve_partial(Partial(spec), structure, problems)
    problems.raise_if_errors()
    return resolved


def resolve_partial(partial: Partial, structure: Structure, problems: Collector) -> ResolvedSpec:
    """Resolve what can be resolved of a spec; what is wrong is reported, and its verb noted as a gap."""
    lets = _Scope(structure, partial.spec.let, partial.gaps, problems)
    wrong = {name for name, selector in partial.spec.let.items() if not lets.select(selector)}
    scope = replace(lets, gaps=replace(partial.gaps, lets=partial.gaps.lets | wrong))
    for broken in partial.gaps.edits:
        if broken.target:
            scope.select(broken.target)
        if broken.with_:
            build_signature(broken.with_, problems)
    found = [(edit.verb, _edit(edit, scope)) for edit in partial.spec.edits]
    calls = (Replace.verb, Insert.verb)
    failed = (verb for verb, edit in found if edit is None or (verb in calls and not edit.configs))
    edits = tuple(edit for _, edit in found if edit)
    gaps, injected = scope.gaps.also(*failed), scope.injected(partial.spec, edits)
    resolved = ResolvedSpec(partial.spec, structure, edits, gaps, scope.adapted(partial.spec), injected)
    return resolved if _groups_fit(resolved, problems) else replace(resolved, gaps=resolved.gaps.also("parallelize"))


@dataclass(frozen=True)
class _Scope:
    structure: Structure
    lets: Mapping[str, Selector]
    gaps: Gaps
    problems: Collector

    def select(self, selector: Selector) -> tuple[Site, ...]:
        """Return the sites, none after a report or where a name is missing that was reported before."""
        if self.gaps.hides(selector, self.lets):
            return ()
        try:
            return select(selector, self.structure, self.lets)
        except ArchspecError as error:
            self.problems.add(error.diagnostics)
            return ()

    def adapted(self, spec: Spec) -> tuple[Site, ...]:
        """Return the sites of `finetune.lora`."""
        lora = spec.finetune.lora if spec.finetune else None
        if lora is None or any(self.gaps.hides(target, self.lets) for target in lora.targets):
            return ()
        return adapted_sites(lora, self.structure, self.lets, self.problems)

    def injected(self, spec: Spec, edits: Sequence[ResolvedEdit]) -> Injection | None:
        """Return what `inject` says of the attentions that the edits leave."""
        if spec.inject is None or not self.structure.sites:
            return None
        gone = {site.path: e.edit.verb for e in edits if isinstance(e.edit, Replace | Drop) for site in e.sites}
        parents = {
            s.path: gone[s.path.rpartition(".")[0]] for s in self.structure.sites if s.path.rpartition(".")[0] in gone
        }
        return injection(spec.inject, self.structure, gone | parents, self.select, self.problems)


def _edit(edit: Edit, scope: _Scope) -> ResolvedEdit | None:
    sites = scope.select(edit.target)
    if isinstance(edit, Parallelize | Drop | Repeat | Insert | Skip) and not _blocks(edit, edit.target, sites, scope):
        return None
    match edit:
        case Replace():
            return _replace(edit, sites, scope.problems)
        case Insert():
            return _insert(edit, sites, scope)
        case Skip():
            return _skip(edit, sites, scope)
    return ResolvedEdit(edit, sites, init=_merge_init(edit)) if sites else None


def _blocks(edit: Edit, selector: Selector, sites: Sequence[Site], scope: _Scope) -> bool:
    """Report a selection of anything but blocks."""
    stray = next((site for site in sites if site.slot != "block"), None)
    if stray:
        message = f"{edit.verb} edits blocks, and {stray.name} is not one"
        scope.problems.report("AS230", message, selector.span, "name blocks: leave the slot out")
    return stray is None


def _insert(edit: Insert, blocks: Sequence[Site], scope: _Scope) -> ResolvedEdit | None:
    """The new sites have the contract of the block's own site of a slot that the operator fills."""
    config = build_signature(edit.with_, scope.problems)
    if not blocks:
        return None
    if config is None:
        return ResolvedEdit(edit, tuple(blocks))
    places = tuple(_behind(block, config, scope.structure) for block in blocks)
    configs = tuple(config.complete(place.shape) if place.shape.width else config for place in places)
    kind: InitKind = "identity" if edit.init.from_ is None else "artifact"
    init = edit.init if edit.init.kind else replace(edit.init, kind=kind)
    return ResolvedEdit(edit, tuple(blocks), configs, init, inserted=places)


def _behind(block: Site, config: Signature, structure: Structure) -> Site:
    like = next(
        (site for site in structure.children(block) if site.role in config.slots and site.slot != "norm"), block
    )
    slot = like.role if like is not block else min(config.slots)
    port = replace(block.port, returns=0, streams=())
    shape = replace(like.shape, beside=None, rotary=like.shape.rotary and port.rotary is not None)
    return Site(f"{block.path}.{AFTER}", slot, shape, port, block.group, block.index)


def _skip(edit: Skip, sources: Sequence[Site], scope: _Scope) -> ResolvedEdit | None:
    """Pair the sources with the targets from the outside in; every target is a later block of the same list."""
    targets = scope.select(edit.to)
    if not sources or not targets or not _blocks(edit, edit.to, targets, scope):
        return None
    if len(sources) != len(targets):
        message = f"{len(sources)} blocks are led to {len(targets)}"
        scope.problems.report("AS258", message, edit.to.span, "select as many targets as sources")
        return None
    pairs = tuple(zip(sources, reversed(targets), strict=True))
    for source, target in pairs:
        if source.group != target.group or (source.index or 0) >= (target.index or 0):
            message = f"{source.name} cannot be led to {target.name}: it does not come before it"
            scope.problems.report("AS258", message, edit.to.span, "select later blocks of the same list")
            return None
    init = _merge_init(edit)
    return ResolvedEdit(edit, tuple(sources), init=init, targets=tuple(target for _, target in pairs))


def _replace(edit: Replace, sites: Sequence[Site], problems: Collector) -> ResolvedEdit | None:
    config = build_signature(edit.with_, problems)
    if not sites:
        return None
    if config is None:
        return ResolvedEdit(edit, tuple(sites))
    configs = tuple(config.complete(site.shape) if site.shape.width else config for site in sites)
    init = edit.init if edit.init.kind else replace(edit.init, kind=_default_init(edit.init, configs, sites))
    return ResolvedEdit(edit, tuple(sites), configs, init)


def _default_init(init: Init, configs: Sequence[Signature], sites: Sequence[Site]) -> InitKind:
    """Return the operator's best init that needs no data and that every site allows; an artifact that is named wins."""
    if init.from_ is not None:
        return "artifact"
    kinds = [kind for kind in configs[0].inits if kind not in NEED_DATA]
    allowed = (kind for kind in kinds if kind != "inherit" or all(map(_can_inherit, configs, sites)))
    return next(allowed, "random")  # type: ignore[arg-type]


def _can_inherit(config: Signature, site: Site) -> bool:
    has_weights = all(f"{name}.weight" in site.teacher for name in config.inherits(site.shape))
    return has_weights and not any(config.obstacles(site.shape))


def _merge_init(edit: Edit) -> Init | None:
    """A merge starts as the plain sum or mean of its branches unless the spec says otherwise, a skip as nothing."""
    if not isinstance(edit, Parallelize | Skip) or edit.merge not in LEARNED_MERGES:
        return None
    kind: InitKind = "identity" if edit.init.from_ is None else "artifact"
    return edit.init if edit.init.kind else replace(edit.init, kind=kind)


def parallel_groups(edit: ResolvedEdit, dropped: frozenset[str]) -> Iterator[tuple[Site, ...]]:
    """Yield the groups of a Parallelize: its blocks in order, `by` at a time, without those that the spec drops.

    The last group of a list is shorter when the blocks do not come out even.
    """
    assert isinstance(edit.edit, Parallelize)
    by = edit.edit.by
    for _, members in groupby((s for s in edit.sites if s.path not in dropped), key=lambda site: site.group):
        blocks = tuple(members)
        yield from (blocks[start : start + by] for start in range(0, len(blocks), by))


def _groups_fit(resolved: ResolvedSpec, problems: Collector) -> bool:
    """Every group must be full and of neighbours, and every list of blocks keep at least one."""
    dropped, fit = resolved.dropped, True
    order: dict[str, int] = {}
    for group in resolved.structure.groups:
        blocks = [s for s in resolved.structure.sites if s.slot == "block" and s.group == group]
        left = [site.path for site in blocks if site.path not in dropped]
        order |= {path: position for position, path in enumerate(left)}
        if blocks and not left:
            span = next(e.span for e in resolved.edits if isinstance(e.edit, Drop) and e.sites[0].group == group)
            problems.report("AS233", f"no block of '{group}' is left", span, "keep at least one")
            fit = False
    if resolved.gaps.has("drop"):
        return fit  # the groups may come out even with the missing ones
    for edit in resolved.edits:
        if isinstance(edit.edit, Parallelize):
            fit &= _parallel_fits(edit, edit.edit.by, list(parallel_groups(edit, dropped)), order, problems)
    return fit


def _parallel_fits(
    edit: ResolvedEdit, by: int, groups: Iterable[tuple[Site, ...]], order: Mapping[str, int], problems: Collector
) -> bool:
    for members in groups:
        if len(members) < by:
            count = sum(len(group) for group in groups)
            message = f"{count} blocks do not divide into groups of {by}: {members[-1].name} is left over"
            problems.report("AS231", message, edit.span, f"select a multiple of {by} blocks")
            return False
        for one, other in pairwise(members):
            if order[other.path] != order[one.path] + 1:
                message = f"{one.name} and {other.name} would share a group but are not neighbours"
                problems.report("AS232", message, edit.span, f"select runs of {by} blocks, for example with a slice")
                return False
    return True


def explicit(value: Any) -> Any:
    """Return any part of a spec as plain data, defaults included."""
    match value:
        case Node():
            return {written(f.name): explicit(getattr(value, f.name)) for f in declared(type(value))}
        case Selector() | Expectation():
            return value.text
        case Mapping():
            return {str(key): explicit(item) for key, item in value.items()}
        case tuple() | list():
            return [explicit(item) for item in value]
    return value


def _edit_json(resolved: ResolvedEdit) -> dict[str, Any]:
    edit = resolved.edit
    data: dict[str, Any] = {edit.verb: edit.target.text, "sites": [site.path for site in resolved.sites]}
    if isinstance(edit, Skip):
        data["targets"] = [site.path for site in resolved.targets]
    for field in fields(edit):
        if field.name not in ("origin", "target", "with_", "init"):
            data[written(field.name)] = explicit(getattr(edit, field.name))
    if isinstance(edit, Replace | Insert):
        data["with"] = _operator_json(resolved)
    if isinstance(edit, Replace | Parallelize | Insert | Skip):
        data["init"] = explicit(resolved.init)
    return data


def _operator_json(resolved: ResolvedEdit) -> dict[str, Any]:
    """Return the operator with its config: once when all sites have the same, else one per site."""
    settings = [config.settings() for config in resolved.configs]
    head = {"op": resolved.configs[0].name, "version": resolved.configs[0].version}
    if all(one == settings[0] for one in settings):
        return {**head, "config": settings[0]}
    return {**head, "configs": {site.path: one for site, one in zip(resolved.places, settings, strict=True)}}


def _losses(loss: Any) -> dict[str, str]:
    """Return slot -> loss, as `Distill.loss` means it."""
    if isinstance(loss, str):
        return dict.fromkeys(DEFAULT_LOSSES, loss)
    return {**DEFAULT_LOSSES, **(loss or {})}
