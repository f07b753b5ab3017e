"""Writing a compiled checkpoint: a folder in the form of the base, published in one rename.

    model folder in      model folder out: config.json, *.safetensors, tokenizer and other side files
    pipeline in          pipeline out: the edited model in its subfolder, its class named in model_index.json, the other
                         components copied (or linked) as they are

At the top stand `archspec.lock.json`, `plan.json` and the model card. Nothing that is written depends on the time, the
machine or the output's place, so the same spec on the same base gives the same bytes.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from archspec.compiler.emission.result import result_config, result_pieces, side_files
from archspec.compiler.emission.weights import NewPart, new_parts
from archspec.diagnostics import fail
from archspec.host.fingerprint import FULL, Identity, digest_of, hasher
from archspec.host.headers import STEMS
from archspec.host.locate import PIPELINE, Located
from archspec.host.strict_json import read_json
from archspec.host.structure import Structure
from archspec.injection import Injection
from archspec.instructions import Instruction
from archspec.plan import Plan
from archspec.runtime.model.program import PREFIX
from archspec.runtime.store.checkpoint import DTYPES, Shard, Writer, header, shards
from archspec.runtime.store.files import copy_file, hash_file, link_or_copy, publish, writing
from archspec.runtime.store.lock import PLAN, FileRecord, Kind, Lock, Provenance, is_compiled, operators_of
from archspec.semantics.layout import result_paths, tensor_sources
from archspec.semantics.resolve import ResolvedSpec

KEPT = (".archspec/artifacts",)
"""Finished tasks of a run: found by what they depend on, so they outlive a new compile."""
DERIVED = frozenset({"inherit", "identity"})


@dataclass(frozen=True)
class BaseContent:
    """The identity of the base, and the digest (XXH3-128, hexadecimal) of each of its tensors."""

    fingerprint: str
    digests: Mapping[str, str]


@dataclass(frozen=True)
class Emission:
    """All that a checkpoint is made from."""

    resolved: ResolvedSpec
    program: tuple[Instruction, ...]
    located: Located
    near: Path
    """Folder of the spec."""
    content: BaseContent
    plan: Plan
    spec_digest: str
    """Of the spec's text."""
    card: str
    teacher: Mapping[str, Any] | None = None
    """What the lock says of the teacher of a base with random weights."""
    data: Mapping[str, Any] | None = None
    results: Mapping[str, Any] = field(default_factory=dict)

    @property
    def structure(self) -> Structure:
        return self.resolved.structure

    @property
    def subfolder(self) -> str | None:
        base = self.resolved.spec.base
        return base.subfolder if base and self.located.pipeline else None


def read_content(structure: Structure) -> BaseContent:
    """Read the base once, every byte of it, for its identity."""
    identity, digests = Identity(structure.config, FULL), {}
    for name, tensor in (structure.tensors or {}).items():
        digest = digest_of(tensor)
        identity.add(name, tensor, digest)
        digests[name] = digest.hex()
    return BaseContent(identity.value(), digests)


def check_output(out: Path, force: bool = False) -> None:
    """Refuse to replace what archspec did not make, or, unless forced, what has been trained since."""
    if not out.exists():
        return
    if not out.is_dir():
        raise fail("AS630", f"'{out}' is a file", None, "name a folder that does not exist yet: `-o OUT`")
    if not is_compiled(out) and any(out.iterdir()):
        raise fail("AS630", f"'{out}' exists and is no compiled checkpoint", None, "name another folder: `-o OUT`")
    if (out / ".archspec" / "compiled").exists() and not force:
        hint = "its finished tasks are kept and used again: replace it with `--force`, or name another folder"
        raise fail("AS630", f"'{out}' holds trained weights", None, hint)


def emit(job: Emission, out: Path, link: bool = False) -> Lock:
    """Write the checkpoint to `out` and return its lock."""
    with publish(out, KEPT) as folder:
        model = folder / job.subfolder if job.subfolder else folder
        if job.subfolder:
            _pipeline(job, folder, link)
        model.mkdir(exist_ok=True)
        _write_json(model / "config.json", result_config(job.program, job.structure))
        for path in side_files(job.located.folder or Path()):
            copy_file(path, model / path.name)
        tensors, records = _weights(job, model, link)
        _write_json(folder / PLAN, job.plan.to_json())
        (folder / "README.md").write_text(job.card, "utf-8")
        lock = _lock(job, tensors, _records(folder, model, records))
        lock.write(folder)
    return lock


def _pipeline(job: Emission, folder: Path, link: bool) -> None:
    """Write the parts of the pipeline that are not edited, and its index with the grafted class."""
    source = job.located.pipeline
    assert source is not None
    index = read_json(source / PIPELINE, "AS601")
    index[str(job.subfolder)] = ["archspec", PREFIX + job.structure.architecture]
    _write_json(folder / PIPELINE, index)
    copy_rest(source, folder, index, str(job.subfolder), link)


def copy_rest(source: Path, folder: Path, index: Mapping[str, Any], model: str, link: bool = False) -> None:
    """Copy (or link) of a pipeline all but its index and the component `model`."""
    for path in side_files(source):
        if path.name != PIPELINE:
            copy_file(path, folder / path.name)
    for name in sorted(index):
        if name != model and (source / name).is_dir() and not name.startswith((".", "_")):
            _component(source / name, folder / name, link)


def _component(source: Path, target: Path, link: bool) -> None:
    """Copy (or link) a folder of plain files; hidden ones are left out."""
    for root, folders, names in os.walk(source, followlinks=True):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        home = target / Path(root).relative_to(source)
        home.mkdir(parents=True, exist_ok=True)
        for name in sorted(name for name in names if not name.startswith(".")):
            (link_or_copy if link else copy_file)(Path(root, name), home / name)


def _weights(job: Emission, folder: Path, link: bool) -> tuple[dict[str, Provenance], dict[str, FileRecord]]:
    """Write the tensors; return where each came from, and what the files hold."""
    stem = STEMS[1] if job.structure.library == "diffusers" else STEMS[0]
    parts = shards(result_pieces(job.program, job.structure), job.structure.tensors or {}, stem, link)
    writer = Writer(folder, parts)
    with writer:
        inits = dict(_put_all(writer, job))
    tensors = dict(_provenance(job, writer.digests, inits))
    return tensors, {shard.name: _shard_record(folder, shard, tensors, job.content) for shard in parts}


def _put_all(writer: Writer, job: Emission) -> Iterable[tuple[str, str]]:
    """Write every new tensor, under every name that it has; yield (name, init)."""
    names: dict[tuple[str, str], list[str]] = {}
    for name, source in tensor_sources(job.program, job.structure).items():
        if source.base is None:
            names.setdefault((source.site or "", source.local), []).append(name)
    dtypes = {piece.name: DTYPES[piece.dtype] for shard in writer.shards for piece in shard.pieces}
    parts = new_parts(job.resolved, job.program, job.near)
    while (part := next(parts, None)) is not None:
        yield from _put(writer, part, names, dtypes)
        del part  # before the next is made: one operator in memory at a time


def _put(
    writer: Writer, part: NewPart, names: Mapping[tuple[str, str], list[str]], dtypes: Mapping[str, torch.dtype]
) -> Iterable[tuple[str, str]]:
    for local, tensor in part.tensors.items():
        for name in names.get((part.site, local), ()):
            writer.put(name, tensor.to(dtypes[name]))
            yield name, part.init


def _provenance(job: Emission, new: Mapping[str, str], inits: Mapping[str, str]) -> Iterable[tuple[str, Provenance]]:
    for name, source in tensor_sources(job.program, job.structure).items():
        if source.base is not None:
            yield name, Provenance("copied", job.content.digests[source.base], base=source.base)
        else:
            kind: Kind = "derived" if inits[name] in DERIVED else "new"
            yield name, Provenance(kind, new[name], site=source.site, init=inits[name])


def _shard_record(folder: Path, shard: Shard, tensors: Mapping[str, Provenance], base: BaseContent) -> FileRecord:
    """Digest a file of weights from its header and its tensors' digests, so that its data is not read again."""
    size = (folder / shard.name).stat().st_size
    if shard.link:
        held = "\n".join(base.digests[name] for name in sorted((*shard.dead, *(p.name for p in shard.pieces))))
        return FileRecord(size, f"xxh3-tensors:{hasher(held.encode()).hexdigest()}", shard.dead)
    whole = hasher(header(shard.pieces)[0])
    for piece in shard.pieces:
        whole.update(bytes.fromhex(tensors[piece.name].digest))
    return FileRecord(size, f"xxh3-tensors:{whole.hexdigest()}")


def _records(folder: Path, model: Path, weights: Mapping[str, FileRecord]) -> dict[str, FileRecord]:
    """Return the record of every file of the checkpoint but the lock, by its path in it."""
    known = {str((model / name).relative_to(folder)): record for name, record in weights.items()}
    found = {}
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        name = path.relative_to(folder).as_posix()
        found[name] = known.get(name) or FileRecord(path.stat().st_size, hash_file(path))
    return found


def _lock(job: Emission, tensors: Mapping[str, Provenance], files: Mapping[str, FileRecord]) -> Lock:
    base, structure, spec = job.resolved.spec.base, job.structure, job.resolved.spec
    return Lock(
        base={
            "from": job.located.name or (base.from_ if base else None),
            "subfolder": job.subfolder if job.located.name else base.subfolder if base else None,
            "revision": base.revision if base else None,
            "fingerprint": job.content.fingerprint,
            "library": structure.library,
            "architecture": structure.architecture,
            "family": structure.family,
            **({"teacher": job.teacher} if job.teacher else {}),
        },
        spec={"name": spec.name, "digest": job.spec_digest, "resolved": job.resolved.to_json()},
        instructions=job.program,
        operators=operators_of(job.program),
        subfolder=job.subfolder,
        data=job.data,
        injection=_placed(job),
        results=job.results,
        tensors=tensors,
        files=files,
    )


def _placed(job: Emission) -> Injection | None:
    """Return the injection with its sites by their paths in the result; those of dropped blocks are gone."""
    injection = job.resolved.injection
    if injection is None:
        return None
    grafts = (
        replace(graft, sites=tuple(place for site in graft.sites for place in result_paths(job.program, site)))
        for graft in injection.grafts
    )
    return replace(injection, grafts=tuple(grafts))


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    with writing(path):
        path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", "utf-8")
