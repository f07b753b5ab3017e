"""Packs on a compiled checkpoint: which of its tensors are the base's, and its lock afterwards.

A lock says of every tensor where it came from. One that was copied from the base, under whatever name, and still has
its bytes takes what a pack adds to the base's. What an edit replaced or computed, or a run trained, has no place for a
difference: AS669, or left out where that is said (`partial`).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from archspec.diagnostics import Collector
from archspec.families import FAMILIES
from archspec.host.fingerprint import digest_of
from archspec.host.headers import read_folder
from archspec.host.structure import TensorHeader
from archspec.packs.header import Header
from archspec.runtime.model.program import KEY, read_graft
from archspec.runtime.packs.check import origin
from archspec.runtime.packs.reading import Pack
from archspec.runtime.store.checkpoint import live
from archspec.runtime.store.home import Home
from archspec.runtime.store.lock import Lock, Provenance
from archspec.runtime.store.relock import relocked

NAMED = 3
"""Tensors that a message names."""


def copies(lock: Lock, place: Home, headers: Mapping[str, TensorHeader]) -> dict[str, list[str]]:
    """Return tensor of the base -> the tensors of the checkpoint that are copies of it, or of what repeats it."""
    tied = _tied(lock, place)
    found: dict[str, list[str]] = defaultdict(list)
    for name, entry in lock.tensors.items():
        if entry.kind == "copied" and name in headers:
            base = entry.base or name
            found[tied.get(base, base)].append(name)
    return found


def _tied(lock: Lock, place: Home) -> Mapping[str, str]:
    """Return tensor that the base may repeat -> the tensor whose weights it uses."""
    family = FAMILIES.get(str(lock.base.get("family")))
    graft = read_graft(place.config[KEY])
    config = {name: value for name, value in place.config.items() if name != KEY} | {"model_type": graft.model_type}
    return family.tied(graft.architecture, config) if family and graft.model_type else {}


Changing = Iterable[tuple[Pack, Sequence[str]]]
"""Packs, each with the base's tensors that it changes."""


def targets(
    packs: Changing, known: Mapping[str, Sequence[str]], headers: Mapping[str, TensorHeader], partial: bool
) -> dict[str, str]:
    """Return tensor of the checkpoint -> the base's tensor whose differences it takes. `known`: what `copies` found.
    AS669 where some have no place, AS681 for another base."""
    found, problems = dict[str, str](), Collector()
    for pack, names in packs:
        missing = [name for name in names if name not in known]
        if missing and (not partial or len(missing) == len(names)):
            _report(pack, missing, len(names), problems)
        placed = {own: name for name in names for own in known.get(name, ())}
        wrong = (
            f"'{pack.path.name}' is of another base: {_told(own, name)} has other values"
            for own, name in placed.items()
            if not _is_base(pack.header, name, headers[own])
        )
        problems.report_few("AS681", wrong, f"tensors of '{pack.path.name}'", None, origin(pack.header.base))
        found |= placed
    problems.raise_if_errors()
    return found


def _report(pack: Pack, missing: Sequence[str], total: int, problems: Collector) -> None:
    few = ", ".join(f"'{name}'" for name in missing[:NAMED])
    message = f"{len(missing)} of the {total} tensors that '{pack.path.name}' changes are not the base's here: {few}"
    more = ", ..." if len(missing) > NAMED else ""
    left = "leave them out by `--partial`, or " if len(missing) < total else ""
    hint = f"{left}write `attach: {{packs: [...]}}` in the spec, and compile again"
    problems.report("AS669", message + more, None, hint)


def _told(own: str, name: str) -> str:
    return f"'{own}'" if own == name else f"'{own}', a copy of its '{name}',"


def _is_base(header: Header, name: str, found: TensorHeader) -> bool:
    change = header.tensors[name]
    return (found.shape, found.dtype) == (change.shape, change.dtype) and digest_of(found).hex() == change.digest


def write_lock(folder: Path, model: Path, lock: Lock, changed: Mapping[str, str], files: Iterable[Path]) -> None:
    """Write the lock of a checkpoint whose tensors `changed` have packs on them."""
    headers = live(model, read_folder(model))
    marked = {
        name: Provenance("derived", digest_of(headers[name]).hex(), base, lock.tensors[name].site, init="attach")
        for name, base in changed.items()
    }
    Lock(**relocked(lock, marked, files)).write(folder)
