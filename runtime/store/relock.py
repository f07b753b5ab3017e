"""A lock for other weights: where tensors came from, and the records of the files that hold them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from archspec.host.fingerprint import hasher
from archspec.host.headers import read_header
from archspec.runtime.store.files import hash_file
from archspec.runtime.store.lock import FileRecord, Lock, Provenance


def relocked(lock: Lock, tensors: Mapping[str, Provenance], files: Iterable[Path]) -> dict[str, Any]:
    """Return the lock's entries with the provenance of `tensors`, and `files` in place of its files of weights."""
    found = {**lock.tensors, **tensors}
    inside = f"{lock.subfolder}/" if lock.subfolder else ""
    kept = {n: r for n, r in lock.files.items() if not (n.startswith(inside) and _is_weights(n.removeprefix(inside)))}
    fresh = {f"{inside}{path.name}": _record(path, found) for path in files}
    return {**vars(lock), "tensors": found, "files": dict(sorted((kept | fresh).items()))}


def _is_weights(name: str) -> bool:
    return "/" not in name and name.endswith((".safetensors", ".safetensors.index.json"))


def _record(path: Path, tensors: Mapping[str, Provenance]) -> FileRecord:
    """Digest a file: of safetensors, its header and the digests of its tensors in the order of their data."""
    if path.suffix != ".safetensors":
        return FileRecord(path.stat().st_size, hash_file(path))
    headers = read_header(path)
    with path.open("rb") as file:
        length = file.read(8)
        whole = hasher(length + file.read(int.from_bytes(length, "little")))
    for name in sorted(headers, key=lambda name: (headers[name].start, name)):
        whole.update(bytes.fromhex(tensors[name].digest))
    return FileRecord(path.stat().st_size, f"xxh3-tensors:{whole.hexdigest()}")
