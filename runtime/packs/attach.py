"""`attach`: packs added to the weights of their base, as a checkpoint of its own. `detach`: the base again, bit by bit.

Weights are added in float32 and rounded once to the base's data type. Nothing is ever subtracted: what rounding lost
does not come back (bfloat16 keeps 8 bits). So what is written holds a record, `skillpacks.json`, of the base's files
of weights and their hashes, and where the file system can, links to them under `.archspec/base`, which cost nothing;
`keep` copies them where it cannot. `detach` takes the base's bytes from there, or from the base, and holds them to the
hashes. A compiled checkpoint takes packs of its base too (`grafted.py`); its lock then says so, and comes back with the
weights.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from archspec.diagnostics import Collector, fail
from archspec.families import describe, tied_tensors
from archspec.host.headers import read_folder, weight_files
from archspec.host.strict_json import read_json
from archspec.host.structure import TensorHeader
from archspec.runtime.execution.workspace import Workspace
from archspec.runtime.packs import grafted
from archspec.runtime.packs.check import check_base
from archspec.runtime.packs.reading import Pack
from archspec.runtime.store.checkpoint import NAMES, Piece, Writer, live, shards, stem_of
from archspec.runtime.store.files import check_replaceable, copy_file, hash_file, link_or_copy, publish, recover
from archspec.runtime.store.home import Home, home
from archspec.runtime.store.lock import NAME as LOCK
from archspec.runtime.store.lock import is_compiled, read_lock

RECORD, KEPT = "skillpacks.json", Path(".archspec") / "base"
OTHERS = (".git", ".cache")
"""What other tools keep in a folder: left where it is when the folder is replaced."""
HIDDEN = (".archspec", *OTHERS)
"""What is not copied to another folder."""
WITHOUT = "to compile without packs, leave `attach` out of the spec"
Progress = Callable[[str], None]


@dataclass(frozen=True)
class Use:
    """A pack, and what its differences are multiplied by."""

    pack: Pack
    scale: float = 1.0

    def touches(self, name: str) -> bool:
        return self.scale != 0 and name in self.pack.header.tensors and bool(self.pack.change(name).terms)


@dataclass(frozen=True)
class Record:
    """What `skillpacks.json` says. `base`: where it was; `files`: its files of weights -> hash; `model`: subfolder;
    `lock`: hash of the lock, of a compiled checkpoint."""

    base: str
    model: str
    files: Mapping[str, str]
    packs: Sequence[Mapping[str, Any]]
    tensors: Sequence[str]
    lock: str | None = None

    def to_json(self) -> dict[str, Any]:
        return {"format": 1, **{name: value for name, value in vars(self).items() if value is not None}}


def attach(
    checkpoint: Path,
    uses: Sequence[Use],
    out: Path,
    keep: bool = False,
    progress: Progress = lambda name: None,
    dry: bool = False,
    partial: bool = False,
) -> Record:
    """Write the checkpoint with packs on it to the folder `out`; `dry`: only check; `partial`: leave out what a
    compiled checkpoint has no place for (else AS669). AS673 where none can be put, AS681 on another base."""
    place = _base(checkpoint)
    headers = live(place.model, read_folder(place.model))
    lock = read_lock(place.top) if is_compiled(place.top) else None
    if lock:
        each = [(use.pack, [name for name in use.pack.header.tensors if use.touches(name)]) for use in uses]
        changed = grafted.targets(each, grafted.copies(lock, place, headers), headers, partial)
    else:
        changed = _changed(place, headers, uses)
    record = _record(place, uses, changed)
    check_replaceable(out, RECORD, "checkpoint made by `attach`")
    if dry:
        return record
    with publish(out) as folder:
        _copy_rest(place, folder)
        model = folder / record.model
        pieces = [Piece(n, h.dtype, h.shape, None if n in changed else h, h.file) for n, h in headers.items()]
        with Writer(model, shards(pieces, headers, stem_of(place.model))) as writer:
            for name in writer.missing:
                progress(name)
                source = name if lock else changed[name]
                writer.put(name, _attached(_read(headers[source], source), changed[name], uses))
        _keep(place, folder / KEPT, keep)
        if lock:
            copy_file(place.top / LOCK, folder / KEPT / LOCK)
            grafted.write_lock(folder, model, lock, changed, _weights(model))
            Workspace(folder).take_origin(Workspace(place.top))
        (folder / RECORD).write_text(json.dumps(record.to_json(), indent=1) + "\n", "utf-8")
    return record


def _base(checkpoint: Path) -> Home:
    place = home(checkpoint)
    if (place.top / RECORD).exists():
        hint = "attach all packs to the base in one command, or detach first"
        raise fail("AS673", f"'{checkpoint}' has packs on it already", None, hint)
    return place


def _changed(place: Home, headers: Mapping[str, TensorHeader], uses: Sequence[Use]) -> dict[str, str]:
    """Return tensor that is new -> the tensor of packs that it is: itself, or what it repeats. AS681."""
    problems = Collector()
    for use in uses:
        check_base(use.pack, headers, problems)
    problems.raise_if_errors()
    structure = describe(place.config, headers)
    own = {name: name for name in headers if any(use.touches(name) for use in uses)}
    return own | {name: owner for name, owner in tied_tensors(structure).items() if owner in own and name in headers}


def _read(header: TensorHeader, name: str) -> Tensor:
    with safe_open(header.file, framework="pt") as file:
        found: Tensor = file.get_tensor(name)
    return found


def _attached(base: Tensor, name: str, uses: Iterable[Use]) -> Tensor:
    """Return a copy of the base's tensor `name` with the packs on it."""
    return added(base, ((use.scale, use.pack.delta(name)) for use in uses if use.touches(name)), name)


def added(base: Tensor, deltas: Iterable[tuple[float, Tensor]], name: str) -> Tensor:
    """Return base + sum of scale x difference, computed in float32 (float64 for such a base), rounded once. AS683 where
    it overflows the base's data type."""
    wide = base.to(torch.promote_types(base.dtype, torch.float32), copy=True)
    for scale, delta in deltas:
        wide.add_(delta.to(wide.device), alpha=scale)
    found = wide.to(base.dtype)
    if not torch.isfinite(found).all() and torch.isfinite(base).all():
        message = f"'{name}' overflows {NAMES[base.dtype]} with the pack on it"
        raise fail("AS683", message, None, "attach with a smaller scale, or to the base in a wider data type")
    return found


def _record(place: Home, uses: Sequence[Use], changed: Mapping[str, str]) -> Record:
    packs = [
        {"name": u.pack.header.name, "file": u.pack.path.name, "hash": u.pack.digest, "scale": u.scale} for u in uses
    ]
    files = {path.name: hash_file(path) for path in _weights(place.model)}
    model = place.model.relative_to(place.top).as_posix()
    lock = hash_file(place.top / LOCK) if is_compiled(place.top) else None
    return Record(str(place.top.absolute()), model, files, packs, sorted(changed), lock)


def _weights(model: Path) -> list[Path]:
    return [*weight_files(model), *sorted(model.glob("*.safetensors.index.json"))]


def _copy_rest(place: Home, folder: Path) -> None:
    """Copy everything but the weights of the model; large files of a pipeline's other parts are linked."""
    weights = {*_weights(place.model), place.top / RECORD}
    others = {record.parent for record in place.top.rglob(RECORD)} - {place.top}  # results that lie within
    for path in sorted(place.top.rglob("*")):
        inside = path.relative_to(place.top)
        if path in weights or inside.parts[0] in HIDDEN or not path.is_file() or others & set(path.parents):
            continue
        target = folder / inside
        target.parent.mkdir(parents=True, exist_ok=True)
        (link_or_copy if path.suffix == ".safetensors" else copy_file)(path, target)
    (folder / place.model.relative_to(place.top)).mkdir(parents=True, exist_ok=True)


def _keep(place: Home, folder: Path, copy: bool) -> None:
    """Link the base's weights, or copy them where that is asked for."""
    folder.mkdir(parents=True)
    for path in _weights(place.model):
        try:
            os.link(path.resolve(), folder / path.name)
        except OSError:
            if copy:
                copy_file(path, folder / path.name)


def detach(folder: Path, out: Path | None = None, base: Path | None = None) -> Record:
    """Write the base of a checkpoint that has packs on it to `out`, by default in its place. Its weights are the base's
    files, byte for byte. AS630 where something else is at `out`, AS674 where there is nothing to detach, AS675 where
    the base's bytes are not to be had."""
    recover(folder)
    place = home(folder)
    if is_compiled(place.top) and not (place.top / RECORD).exists():
        raise fail("AS674", f"'{folder}' is a compiled checkpoint: packs of its base are part of it", None, WITHOUT)
    record = read_record(place.top)
    in_place = out is None or out.resolve() == place.top.resolve()
    if out is not None and not in_place:
        check_replaceable(out, None, "empty folder")
    sources = _found(record, place.top, base)
    with publish(out or place.top, keep=OTHERS if in_place else ()) as target:
        _copy_rest(place, target)
        for name, path in sources.items():
            copy_file(path, target / (record.model if name != LOCK else ".") / name)
        Workspace(target).take_origin(Workspace(place.top))
    return record


def _found(record: Record, top: Path, base: Path | None) -> dict[str, Path]:
    """Return a file for each of the base's files of weights, checked by its hash."""
    places = [home(base).model, base] if base else [top / KEPT, Path(record.base) / record.model, Path(record.base)]
    found: dict[str, Path] = {}
    problems = Collector()
    for name, wanted in {**record.files, **({LOCK: record.lock} if record.lock else {})}.items():
        there = [place / name for place in places if (place / name).is_file()]
        good = next((path for path in there if hash_file(path) == wanted), None)
        if good:
            found[name] = good
            continue
        what = f"is not what it was in '{there[0].parent}'" if there else f"is not in '{places[-1]}'"
        hint = f"name the base with `--base` (it was '{record.base}')"
        problems.report("AS675", f"'{name}' of the base {what}", None, hint)
    problems.raise_if_errors()
    return found


def read_record(folder: Path) -> Record:
    """Read `skillpacks.json`; AS674 where there is none or it is no record."""
    if not (folder / RECORD).is_file():
        hint = "name what `archspec attach` wrote"
        raise fail("AS674", f"'{folder}' has no {RECORD}: no pack is attached to it", None, hint)
    found = read_json(folder / RECORD, "AS674")
    kinds = {"base": str, "model": str, "files": dict, "packs": list, "tensors": list}
    if found.get("format") != 1 or not all(isinstance(found.get(key), kind) for key, kind in kinds.items()):
        raise fail("AS674", f"'{folder / RECORD}' is no record of attached packs")
    lock = found.get("lock")
    files = found["files"]
    packs_named = all(isinstance(pack, dict) and isinstance(pack.get("name"), str) for pack in found["packs"])
    if not files or not packs_named or not all(isinstance(name, str) for name in found["tensors"]):
        raise fail("AS674", f"'{folder / RECORD}' names no packs, files or tensors")
    inside = isinstance(lock, str | None) and not (set(Path(found["model"]).parts) & {"..", "/"})
    if not inside or not all(Path(name).name == name and isinstance(h, str) for name, h in files.items()):
        raise fail("AS674", f"'{folder / RECORD}' names files outside of the checkpoint")
    return Record(**{key: found[key] for key in kinds}, lock=lock)
