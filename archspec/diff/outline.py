"""An `Outline`: what a spec, a compiled checkpoint or a plain host amounts to, in one comparable form.

All three are a base structure plus a program of instructions (empty for a plain host), so they are outlined by one
function. Parts are keyed by the name of their site in the base (`blocks[3].attn`), because selectors name sites of
the base and edits never renumber them. Everything here comes from configs and headers; values are compared by
`archspec.runtime.store.values`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field
from math import prod
from pathlib import Path
from typing import Any

from archspec.families import computed_tensors
from archspec.host.structure import Site, Structure
from archspec.instructions import Entry, Install, Instruction, Relist, Share
from archspec.language.fields import declared
from archspec.operators import signature
from archspec.packs.roles import roles
from archspec.semantics.layout import base_shapes, result_path, tensor_sources

BYTES = {"F64": 8, "I64": 8, "U64": 8, "F32": 4, "I32": 4, "U32": 4, "F16": 2, "BF16": 2, "I16": 2, "U16": 2}


@dataclass(frozen=True)
class Tensor:
    """A tensor of the result: its dtype as safetensors spells it and, unless it is new, the base tensor that it is."""

    dtype: str
    shape: tuple[int, ...]
    base: str | None

    @property
    def count(self) -> int:
        return prod(self.shape)

    def __str__(self) -> str:
        return f"{self.dtype}[{', '.join(map(str, self.shape))}]"


Tensors = Mapping[str, Tensor]


@dataclass(frozen=True)
class Part:
    """One site and the operator that fills it. `path` is where it stands in the result, None if it is gone."""

    site: str
    slot: str
    group: str
    index: int | None
    operator: str
    config: Mapping[str, Any]
    """Complete config of an operator that was put here; empty for the host's own."""
    telling: Mapping[str, Any]
    """The part of it that the site would not have given by itself."""
    path: str | None
    params: int

    @property
    def description(self) -> str:
        arguments = ", ".join(f"{k}={v:g}" if isinstance(v, float) else f"{k}={v}" for k, v in self.telling.items())
        return f"{self.operator}({arguments})" if arguments else self.operator


@dataclass(frozen=True)
class Outline:
    """A model's architecture on one page. `recorded` holds what a lock knows beside: FLOPs, memory, quality."""

    label: str
    kind: str
    architecture: str
    config: Mapping[str, Any]
    parts: tuple[Part, ...]
    wiring: Mapping[str, tuple[str, ...]]
    groups: Mapping[str, str]
    tensors: Tensors | None
    recorded: Mapping[str, float] = field(default_factory=dict)
    spec: Mapping[str, Any] | None = None
    files: Mapping[str, str] = field(default_factory=dict)
    """Tensor name -> file that holds its values; empty for a spec."""
    path: Path | None = None
    """File of a spec."""
    of_base: Mapping[str, float] = field(default_factory=dict)
    """What is on record of the base, measured beside the result."""

    computed: frozenset[str] = frozenset()
    """Those of the tensors that are no parameters."""
    sizes: Mapping[str, int] = field(default_factory=dict)
    """Number of blocks of each list in the base."""
    roles: Mapping[str, str] = field(default_factory=dict)
    """Tensor name -> what it is for, told from the tensor of the base that it is."""

    @property
    def depth(self) -> int:
        return sum(len(entries) for entries in self.wiring.values())

    @property
    def params(self) -> int | None:
        if self.tensors is None:
            return None
        return sum(t.count for name, t in self.tensors.items() if name not in self.computed)

    @property
    def weights(self) -> int | None:
        """Bytes of all tensors."""
        if self.tensors is None:
            return None
        return sum(t.count * BYTES.get(t.dtype, 1) for t in self.tensors.values())


def outline(
    label: str,
    kind: str,
    structure: Structure,
    program: tuple[Instruction, ...],
    tensors: Tensors | None = None,
    **more: Any,
) -> Outline:
    """Outline `structure` with `program` applied. `tensors` are the result's when known, else they are derived."""
    if tensors is None and structure.tensors is not None:
        tensors = derived_tensors(structure, program)
    installs = {i.path: i for i in program if isinstance(i, Install)}
    parts = tuple(_part(site, program, installs, tensors) for site in structure.sites if site.slot != "block")
    sizes = {group: structure.depth(group) for group in structure.groups}
    wiring = {group: _wiring(path, sizes[group], program) for group, path in structure.groups.items()}
    model = (structure.architecture, structure.config, parts, wiring, structure.groups, tensors)
    known, computed = _roles(tensors or {}, structure), computed_tensors(structure)
    return Outline(label, kind, *model, sizes=sizes, computed=computed, roles=known, **more)


def _roles(tensors: Tensors, structure: Structure) -> dict[str, str]:
    origins = {name: tensor.base or name for name, tensor in tensors.items()}
    found = roles(dict.fromkeys(origins.values()), structure)
    return {name: found[origin] for name, origin in origins.items()}


def derived_tensors(structure: Structure, program: tuple[Instruction, ...]) -> Tensors:
    """Return the tensors that the result will have: kept ones as in the base (of a config alone: F32, as they would be
    drawn), new ones in the base's dtype."""
    base, shapes = structure.tensors or {}, base_shapes(structure) or {}
    dtype = _common_dtype(base)
    found: dict[str, Tensor] = {}
    for name, source in tensor_sources(program, structure).items():
        if source.base is not None:
            kept = base[source.base].dtype if source.base in base else "F32"
            found[name] = Tensor(kept, shapes[source.base], source.base)
        elif source.shape is not None:
            found[name] = Tensor(dtype, source.shape, None)
    return found


def _common_dtype(base: Mapping[str, Any]) -> str:
    sizes: dict[str, int] = {}
    for header in base.values():
        sizes[header.dtype] = sizes.get(header.dtype, 0) + header.count
    return max(sizes, key=lambda d: sizes[d], default="F32")


def _part(
    site: Site, program: tuple[Instruction, ...], installs: Mapping[str, Install], tensors: Tensors | None
) -> Part:
    path = result_path(program, site.path)
    operator, config, telling = _operator(site, installs.get(site.path))
    shared = next((i.to for i in program if isinstance(i, Share) and i.path == site.path), None)
    if shared:
        operator, config = "shared", {"with": shared}
        telling = config
    places = (result_path(program, own) for own in site.paths)
    params = sum(_params_below(place, tensors) for place in places if place) if tensors is not None else 0
    return Part(site.name, site.slot, site.group, site.index, operator, config, telling, path, params)


def _operator(site: Site, install: Install | None) -> tuple[str, Mapping[str, Any], Mapping[str, Any]]:
    """Return (name, config, telling part of the config) of what fills a site."""
    if install is None:
        return f"host {site.slot}", {}, {}
    own = required(install.operator)
    usual = signature(install.operator)(**{k: v for k, v in install.config.items() if k in own})
    ordinary = usual.complete(install.shape).settings()
    telling = {k: v for k, v in install.config.items() if k in own or v != ordinary.get(k)}
    return install.operator, dict(install.config), telling


def required(operator: str) -> frozenset[str]:
    """Return the parameters of an operator that have no default."""
    return frozenset(
        f.name for f in declared(signature(operator)) if f.default is MISSING and f.default_factory is MISSING
    )


def _params_below(path: str, tensors: Tensors) -> int:
    return sum(t.count for name, t in tensors.items() if name.startswith(path + "."))


def _wiring(path: str, depth: int, program: tuple[Instruction, ...]) -> tuple[str, ...]:
    relist = next((i for i in program if isinstance(i, Relist) and i.path == path), None)
    if relist is None:
        return tuple(str(i) for i in range(depth))
    return tuple(_entry(e) for e in relist.entries)


def _entry(entry: Entry) -> str:
    members = ", ".join(map(str, entry.members))
    if entry.operator:
        return f"{entry.operator.operator}(behind {members})"
    if entry.skip is not None:
        return f"{members} with {entry.skip}({entry.merge})"
    match entry.form:
        case "keep":
            return members
        case "parallel":
            return f"parallel({members}; {entry.merge})"
        case form:
            return f"{form}({members})"
