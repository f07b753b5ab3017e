"""The values of the new tensors of a result, as far as they need no data.

An operator is built alone on the CPU, initialized from its teacher's weights (read from the base's files, nothing else
of them), and given away before the next: memory holds one operator at a time, in float32 whatever the base's dtype, and
its values depend on the seed and the path only. What is to be fitted on data starts from the best that needs none, so
that what is emitted runs at once.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from archspec.diagnostics import fail
from archspec.host.excerpt import Excerpt
from archspec.host.headers import read_header
from archspec.host.structure import Structure
from archspec.instructions import SKIP, Entry, Install, Instruction, Relist, added
from archspec.language.edits import Init, Insert, Parallelize, Replace, Skip
from archspec.runtime.learn.narrowing import Way
from archspec.runtime.model.excerpts import taken
from archspec.runtime.model.initialize import can_inherit, initialize, path_seed
from archspec.runtime.model.structures import plain_merge, plain_skip
from archspec.runtime.operators import build_operator
from archspec.semantics.resolve import ResolvedSpec

TAUGHT = frozenset({"inherit", "least_squares"})
"""Inits that begin from the teacher's weights."""


@dataclass(frozen=True)
class NewPart:
    """New tensors that belong together. `site` and the names are those of `TensorSource.site` and `local`."""

    site: str
    init: str
    """What was done: random, identity, inherit, or artifact."""
    tensors: Mapping[str, Tensor]


def new_parts(resolved: ResolvedSpec, program: tuple[Instruction, ...], near: Path) -> Iterator[NewPart]:
    """Yield every operator and every merge of a program with its values. `near`: where artifacts' paths start."""
    inits = _inits(resolved)
    for instruction in program:
        match instruction:
            case Install():
                init = inits.get(instruction.path, Init(kind="identity"))  # of a site's further modules
                yield _operator(instruction, init, resolved.structure, near)
            case Relist():
                yield from _merges(instruction, inits, near)
                yield from _added(instruction, inits, resolved.structure, near)


def _inits(resolved: ResolvedSpec) -> dict[str, Init]:
    """Return the init of each edited site, and of the places that edits add; the last edit of a site wins, as in the
    program."""
    edits = [e for e in resolved.edits if isinstance(e.edit, Replace | Parallelize | Insert) and e.init]
    found = {site.path: e.init or Init() for e in edits for site in e.places}
    skips = (e for e in resolved.edits if isinstance(e.edit, Skip) and e.init)
    return found | {f"{site.path}.{SKIP}": e.init or Init() for e in skips for site in e.targets}


def _operator(install: Install, init: Init, structure: Structure, near: Path) -> NewPart:
    operator = build_operator(install, "meta", torch.float32).to_empty(device="cpu")  # drawn once, by `initialize`
    site, kind = structure.site(install.path), init.kind or "random"
    teacher = _read(structure, site.teacher) if site and kind in TAUGHT else {}
    if operator.foreign is not None:
        ends = (end for other in structure.sites for end in other.ends if end.path == install.path)
        teacher = _read(structure, next(ends).teacher)
    if kind == "least_squares":
        kind = "inherit" if can_inherit(operator, teacher) else "random"
    first: Way = init.neurons if init.neurons != "auto" and init.neurons != "greedy" else "strongest"
    initialize(operator, "random" if kind == "artifact" else kind, teacher, path_seed(init.seed, install.path), first)
    tensors = {name: tensor.detach() for name, tensor in operator.state_dict().items()}
    if kind == "artifact":
        tensors = _artifact(init, install.path, tensors, near)
    return NewPart(install.path, kind, tensors)


def _read(structure: Structure, teacher: Mapping[str, Excerpt]) -> dict[str, Tensor]:
    """Return the weights of a site in float32, by their canonical names."""
    headers = structure.tensors or {}
    found = {}
    for canonical, excerpt in teacher.items():
        with safe_open(headers[excerpt.tensor].file, framework="pt") as file:
            found[canonical] = taken(excerpt, file.get_tensor(excerpt.tensor).to(torch.float32))
    return found


def _merges(relist: Relist, inits: Mapping[str, Init], near: Path) -> Iterator[NewPart]:
    for position, entry in enumerate(relist.entries):
        init = inits.get(f"{relist.path}.{entry.members[0]}", Init())
        for number, name in enumerate(entry.maps):
            seed = f"{relist.path}.{entry.members}" + (f".{name}" if number else "")
            local = f"{position}.{name}"
            done, tensors = _merge(entry, relist.width, init, seed, f"{relist.path}.{local}", near)
            yield NewPart(relist.path, done, {f"{local}.{part}": tensor for part, tensor in tensors.items()})


def _added(relist: Relist, inits: Mapping[str, Init], structure: Structure, near: Path) -> Iterator[NewPart]:
    """Yield what is inserted, and the merges of skips."""
    for place, path, entry in added(relist):
        init = inits.get(place, Init())
        if entry.operator:
            yield _operator(entry.operator, init, structure, near)
        else:
            yield NewPart(place, *_merge(entry, relist.width, init, place, path, near))


def _merge(entry: Entry, width: int, init: Init, name: str, path: str, near: Path) -> tuple[str, dict[str, Tensor]]:
    """Return what was done, and weight and bias of a merge: drawn (by its `name`), read, or the plain one, which is the
    mean or the sum, or of a skip the block's own input."""
    kind, count = init.kind or "identity", entry.merge_widths
    if kind in ("random", "artifact"):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(path_seed(init.seed, name))
            linear = torch.nn.Linear(count * width, width)
        tensors = {"weight": linear.weight.detach(), "bias": linear.bias.detach()}
        return kind, _artifact(init, path, tensors, near) if kind == "artifact" else tensors
    weight = (
        plain_merge(entry.merge or "", count, width) if entry.skip is None else plain_skip(entry.merge or "", width)
    )
    return "identity", {"weight": weight, "bias": torch.zeros(width)}


def _artifact(init: Init, path: str, wanted: Mapping[str, Tensor], near: Path) -> dict[str, Tensor]:
    """Read weights from a safetensors file, named as in the operator, or with the site's path in front."""
    span = init.span("from")
    file = near / (init.from_ or "")
    headers = read_header(file, span)
    found = {}
    with safe_open(file, framework="pt") as opened:
        for local, like in wanted.items():
            name = next((n for n in (f"{path}.{local}", local) if n in headers), None)
            if name is None:
                raise fail("AS647", f"'{init.from_}' has no tensor '{path}.{local}', nor '{local}'", span)
            if headers[name].shape != tuple(like.shape):
                shapes = f"{headers[name].shape}, {path} needs {tuple(like.shape)}"
                raise fail("AS647", f"tensor '{name}' of '{init.from_}' has shape {shapes}", span)
            found[local] = opened.get_tensor(name).to(torch.float32)
    return found
