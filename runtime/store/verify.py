"""A compiled checkpoint against its lock: every file and every tensor, read once, streamed.

The lock holds a digest of each tensor's data, and of each file (of a safetensors file: of its header and its tensors'
digests). `differences` reads the folder again and yields what is no longer so; nothing is loaded, and torch is not
imported. Other files that lie there (logs, samples) do not matter, but weights do that a loader might read.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from archspec.diagnostics import ArchspecError
from archspec.host.fingerprint import digest_of, hasher
from archspec.host.headers import read_header
from archspec.host.structure import TensorHeader
from archspec.runtime.store.files import hash_file
from archspec.runtime.store.lock import FileRecord, Lock, Provenance

TENSORS = "xxh3-tensors:"
"""What the digest of a file of weights begins with."""


@dataclass(frozen=True)
class Difference:
    """A file that is not what the lock says, and how."""

    file: str
    reason: str


def differences(folder: Path, lock: Lock, whole: bool = True) -> Iterator[Difference]:
    """Yield every file of the checkpoint that differs from its lock, in the order of their names. Not `whole`: of files
    of weights, sizes and headers alone are looked at."""
    model = f"{lock.subfolder}/" if lock.subfolder else ""
    for name in sorted(lock.files.keys() | _weights(folder, model)):
        if reason := _reason(folder / name, lock.files.get(name), lock.tensors, whole):
            yield Difference(name, reason)


def _weights(folder: Path, model: str) -> set[str]:
    """Return the files that a loader would read as weights of the model."""
    return {f"{model}{path.name}" for path in (folder / model).glob("*.safetensors")}


def _reason(path: Path, record: FileRecord | None, tensors: Mapping[str, Provenance], whole: bool) -> str:
    """Return how a file differs from its record, an empty text where it does not."""
    if record is None:
        return "is not in the lock"
    if not path.is_file():
        return "is missing"
    size = path.stat().st_size
    if size != record.size:
        return f"has {size} bytes, not {record.size}"
    if not record.digest.startswith(TENSORS):
        return "" if hash_file(path) == record.digest else "has another content"
    try:
        headers = read_header(path)
        return _weights_reason(path, headers, record, tensors) if whole else ""
    except ArchspecError as error:
        return f"cannot be read: {error.diagnostics[0].message}"


def _weights_reason(
    path: Path, headers: Mapping[str, TensorHeader], record: FileRecord, tensors: Mapping[str, Provenance]
) -> str:
    found = {name: digest_of(header).hex() for name, header in headers.items()}
    changed = [name for name in found if name in tensors and found[name] != tensors[name].digest]
    if changed:
        more = f" and {len(changed) - 1} more" if len(changed) > 1 else ""
        return f"has another '{changed[0]}'{more}"
    strange = found.keys() - tensors.keys() - set(record.dead)
    known = (f"{TENSORS}{_whole(path, headers, found)}", f"{TENSORS}{_linked(found)}")
    return "holds other tensors, or has another header" if strange or record.digest not in known else ""


def _whole(path: Path, headers: Mapping[str, TensorHeader], found: Mapping[str, str]) -> str:
    """Digest the header and the tensors' digests in the order of their data: of a file that was written."""
    with path.open("rb") as file:
        length = file.read(8)
        whole = hasher(length + file.read(int.from_bytes(length, "little")))
    for name in sorted(headers, key=lambda name: (headers[name].start, name)):
        whole.update(bytes.fromhex(found[name]))
    return whole.hexdigest()


def _linked(found: Mapping[str, str]) -> str:
    """Digest the tensors' digests in the order of their names: of a file that was linked, dead tensors included."""
    return hasher("\n".join(found[name] for name in sorted(found)).encode()).hexdigest()
