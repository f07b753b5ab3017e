"""Prices: what the host and the result cost, side by side, per site and per model.

    price(resolved, program, tokens)  ->  CostReport

FLOPs, attention FLOPs and peak activation bytes are measured on fake tensors (`meter.py` says what counts), of one
example in evaluation mode; parameters and weight bytes are those of the tensors (tied ones once). Savings are stated
for what they are: per edit, the change within the edited sites, within the whole slot, and within the whole model. A
mixer that costs half of what attention's kernel does saves next to nothing of a model that is nearly all projections
(at 256 tokens the kernel is 3.6 % of the FLOPs of DiT-XL/2's attentions and MLPs).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from typing import Any

from torch import nn

from archspec.compiler.capture.model import base_tensors, build_structure
from archspec.compiler.planning import Prices
from archspec.compiler.pricing.meter import Measurement, measure
from archspec.diagnostics import InternalError
from archspec.host.structure import ROLES, Site
from archspec.instructions import LEARNED_MERGES, SKIP, Instruction
from archspec.language.edits import Freeze, Insert, Parallelize, Skip
from archspec.runtime.families import family
from archspec.runtime.model.apply import apply
from archspec.runtime.model.structures import Parallel
from archspec.runtime.operators.base import Operator
from archspec.semantics.check.facts import tensor_bytes
from archspec.semantics.layout import result_paths
from archspec.semantics.resolve import ResolvedEdit, ResolvedSpec, parallel_groups

Program = tuple[Instruction, ...]
Models = tuple[nn.Module, nn.Module]
"""Host and edited model, on any device; pricing leaves them as they are."""


@dataclass(frozen=True)
class Cost:
    """Of a module, or of a model: counts, FLOPs and bytes. `mixing`: FLOPs of attention kernels, part of `flops`."""

    params: int = 0
    weights: int = 0
    flops: int = 0
    mixing: int = 0
    activations: int = 0


@dataclass(frozen=True)
class SiteCost:
    """Of one site of the base. `result` is None when it is not part of the result; `operator` when it was replaced. For
    a repeated block it sums over its places; in a group of parallel blocks the merge is the group's, not a block's."""

    path: str
    name: str
    slot: str
    host: Cost
    result: Cost | None
    operator: str | None = None

    @property
    def role(self) -> str:
        """As `Site.role`."""
        return ROLES.get(self.slot, self.slot)


@dataclass(frozen=True)
class EditCost:
    """Change by one edit, as fractions of FLOPs and of parameters: -0.5 halves them. `sites`: of the edited sites;
    `slot`: of all sites of their slot; `model`: of the whole model, where the changes of all edits add up to the
    result's. What another edit does inside an edited block is that one's. None: of sites that cost nothing."""

    edit: str
    sites: int
    sites_flops: float | None
    slot_flops: float | None
    model_flops: float
    sites_params: float | None
    model_params: float


@dataclass(frozen=True)
class CostReport:
    """`tokens`: those of one example at the sites; `batch`: examples, of which FLOPs and activations are."""

    tokens: int | None
    host: Cost
    result: Cost
    sites: tuple[SiteCost, ...]
    edits: tuple[EditCost, ...]
    again: Callable[[int | None, int], CostReport] = field(repr=False, compare=False, default=lambda *at: _unpriced())
    """Price the same at other tokens (None: the same) and examples."""
    batch: int = 1

    def value(self, metric: str, args: Mapping[str, Any] | None = None) -> tuple[int, int]:
        """Return (host's, result's) value of a metric of `expect`: flops, activations, params, weights."""
        report = self.at((args or {}).get("tokens"), (args or {}).get("batch"))
        return getattr(report.host, metric), getattr(report.result, metric)

    def at(self, tokens: int | None = None, batch: int | None = None) -> CostReport:
        """Return the report at these tokens and examples; None leaves either as it is."""
        wanted = tokens or self.tokens, batch or self.batch
        return self if wanted == (self.tokens, self.batch) else self.again(*wanted)

    def totals(self) -> dict[str, dict[str, int]]:
        """Return metric -> {host, result}."""
        return {key: {"host": value, "result": asdict(self.result)[key]} for key, value in asdict(self.host).items()}

    def prices(self) -> Prices:
        """Return the forward FLOPs per example that plans are priced with."""
        sites = {site.path: site.result.flops for site in self.sites if site.result}
        return Prices(self.host.flops, self.result.flops, sites, self.tokens)

    @property
    def mixing_share(self) -> float:
        """Part of the FLOPs of the host's attentions and MLPs that their attention kernels are."""
        whole = sum(s.host.flops for s in self.sites if s.role in ("attn", "cross_attn", "mlp"))
        return sum(s.host.mixing for s in self.sites if s.role in ("attn", "cross_attn")) / whole if whole else 0.0

    def to_json(self) -> dict[str, Any]:
        """Return plain data: what the lock keeps and `archspec plan --json` prints."""
        return {
            "tokens": self.tokens,
            "host": asdict(self.host),
            "result": asdict(self.result),
            "mixing_share": self.mixing_share,
            "edits": [asdict(edit) for edit in self.edits],
            "sites": [asdict(site) for site in self.sites],
        }


def _unpriced() -> CostReport:
    raise InternalError("this report cannot be priced again")


def price(
    resolved: ResolvedSpec,
    program: Program,
    tokens: int | None = None,
    models: Models | None = None,
    batch: int = 1,
) -> CostReport:
    """Price host and result at `tokens` tokens per example; None: the host's native number, or the family's default."""
    structure = resolved.structure
    host, lowered = models or (build_structure(structure), apply(build_structure(structure), program))
    known = base_tensors(structure, host).structure
    example = family(structure.family).example
    sides = (
        _Side(host, tensor_bytes(known), example(host, batch, tokens, "meta")),
        _Side(lowered, tensor_bytes(known, program), example(lowered, batch, tokens, "meta")),
    )
    sites = tuple(_site(site, program, *sides) for site in structure.sites if site.slot != "norm")
    edits = tuple(_edit(edit, resolved, program, sites, *sides) for edit in resolved.edits)
    totals = sides[0].total(), sides[1].total()
    again = cache(lambda other, examples: price(resolved, program, other, (host, lowered), examples))
    length = tokens or structure.tokens or _length(sides[0].example)
    return CostReport(length, *totals, sites, edits, again, batch)


class _Side:
    """One of the two models, measured. `sizes`: name -> bytes of its tensors in files, where that is known."""

    def __init__(self, model: nn.Module, sizes: Mapping[str, int], example: Mapping[str, Any]) -> None:
        self.model, self.example, self._sizes = model, example, sizes
        self.measured: Measurement = measure(model, example)

    def total(self) -> Cost:
        cost = self.at([""])
        return replace(cost, weights=sum(self._sizes.values())) if self._sizes else cost

    def at(self, paths: Iterable[str]) -> Cost:
        """Return the sum over modules, shared weights once; activations are the most of any."""
        paths = list(paths)
        parameters = {p: names for path in paths for p, names in self._parameters(path).items()}
        used = [self.measured.at(path) for path in paths]
        return Cost(
            params=sum(p.numel() for p in parameters),
            weights=sum(self._bytes(p, names) for p, names in parameters.items()),
            flops=sum(usage.flops for usage in used),
            mixing=sum(usage.mixing for usage in used),
            activations=max((usage.peak for usage in used), default=0),
        )

    def _parameters(self, path: str) -> dict[nn.Parameter, list[str]]:
        """Return the parameters of a module with their names in the model: a tied one has several."""
        found: dict[nn.Parameter, list[str]] = {}
        module = self.model.get_submodule(path)
        for name, parameter in module.named_parameters(prefix=path, remove_duplicate=False):
            found.setdefault(parameter, []).append(name)
        return found

    def _bytes(self, parameter: nn.Parameter, names: Iterable[str]) -> int:
        known = (self._sizes[name] for name in names if name in self._sizes)
        return next(known, parameter.numel() * parameter.element_size())


def _length(example: Mapping[str, Any]) -> int | None:
    """Return the tokens of an example of a host that takes any number: of a text, or of patches with their places."""
    ids = next((example[name] for name in ("input_ids", "hidden_states") if name in example), None)
    return int(ids.shape[1]) if ids is not None else None


def _site(site: Site, program: Program, host: _Side, result: _Side) -> SiteCost:
    paths = [place for path in site.paths for place in result_paths(program, path)]
    module = result.model.get_submodule(paths[0]) if paths else None
    operator = module.signature.name if isinstance(module, Operator) else None
    after = _own([site], result, paths, program) if paths else None
    return SiteCost(site.path, site.name, site.slot, _own([site], host, site.paths), after, operator)


def _own(sites: Iterable[Site], side: _Side, paths: Iterable[str], program: Program = ()) -> Cost:
    """Return the cost of the modules of sites, without what their last ones do for others (`Port.foreign`)."""
    cost = side.at(paths)
    for site in (s for s in sites if s.port.foreign):
        for end in result_paths(program, site.paths[-1]):
            cost = _less(cost, side.at([end]), site, side.model.get_submodule(end))
    return cost


def _less(cost: Cost, whole: Cost, site: Site, module: nn.Module) -> Cost:
    """Return a cost less that of the foreign columns and the bias of `module`, which costs `whole`."""
    foreign = site.port.foreign
    flops = round(whole.flops * foreign / module.in_features) if isinstance(module, nn.Linear) else whole.flops
    params = foreign * site.shape.width + site.shape.width
    weights = whole.weights * params // whole.params
    return replace(cost, params=cost.params - params, weights=cost.weights - weights, flops=cost.flops - flops)


def _edit(
    edit: ResolvedEdit,
    resolved: ResolvedSpec,
    program: Program,
    sites: tuple[SiteCost, ...],
    host: _Side,
    result: _Side,
) -> EditCost:
    """Return the change by an edit: of its sites, of all sites of their slots, of the whole model."""
    paths = [path for site in edit.sites for path in site.paths]
    before, merges = _own(edit.sites, host, paths), result.at(_merges(edit, resolved, program, result))
    changes = [_change(paths, program, host, result), (merges.flops, merges.params)]
    for inner in _nested(paths, resolved):
        flops, params = _change([inner], program, host, result)
        changes.append((-flops, -params))
    flops, params = (sum(change[i] for change in changes) for i in (0, 1))
    slot = sum(site.host.flops for site in sites if site.slot in {s.slot for s in edit.sites})
    whole = host.total()
    return EditCost(
        edit=f"{edit.edit.verb} {edit.edit.target.text}",
        sites=len(edit.sites),
        sites_flops=_part(flops, before.flops),
        slot_flops=_part(flops, slot),
        model_flops=flops / whole.flops if whole.flops else 0.0,
        sites_params=_part(params, before.params),
        model_params=params / whole.params if whole.params else 0.0,
    )


def _change(paths: Iterable[str], program: Program, host: _Side, result: _Side) -> tuple[int, int]:
    """Return by how many FLOPs and parameters the result has more than the host at these places."""
    paths = list(paths)
    before, after = host.at(paths), result.at(place for path in paths for place in result_paths(program, path))
    return after.flops - before.flops, after.params - before.params


def _nested(paths: Iterable[str], resolved: ResolvedSpec) -> Iterator[str]:
    """Yield the outermost edited sites inside these: their change is that of their own edit."""
    edited = {site.path for edit in resolved.edits if not isinstance(edit.edit, Freeze) for site in edit.sites}
    for path in paths:
        inner = sorted(p for p in edited if p.startswith(f"{path}."))
        yield from (p for p in inner if not any(p.startswith(f"{other}.") for other in inner))


def _part(change: int, whole: int) -> float | None:
    return change / whole if whole else None


def _merges(edit: ResolvedEdit, resolved: ResolvedSpec, program: Program, result: _Side) -> list[str]:
    """Return the paths of what an edit brings beside the sites: learned merges, inserted operators."""
    if isinstance(edit.edit, Insert):
        return [path for place in edit.inserted for path in result_paths(program, place.path)]
    if isinstance(edit.edit, Skip) and edit.edit.merge in LEARNED_MERGES:
        return [path for site in edit.targets for path in result_paths(program, f"{site.path}.{SKIP}")]
    if not isinstance(edit.edit, Parallelize):
        return []
    firsts = [members[0].path for members in parallel_groups(edit, resolved.dropped)]
    places = (result_paths(program, path)[0].rpartition(".branches.")[0] for path in firsts)
    return [f"{place}.{name}" for place in places for name in _maps(result.model.get_submodule(place))]


def _maps(module: nn.Module) -> tuple[str, ...]:
    return tuple(module.maps) if isinstance(module, Parallel) else ()
