"""Artifacts: finished results, found by a key that hashes all they depend on. The one place where they are looked up.

    <root>/<key>/        weights.safetensors, report.json, and sums.json: the key, and the digest of either file
    <root>/.partial/     what is being made; nothing, when nobody is at work
    <root>/.claims/      who makes what at present

An artifact is made under another name and renamed when whole. It is believed only while its files have the digests that
it was made with: one that is cut off, damaged or under another's key counts as absent, and is replaced by whoever makes
it again. Files are hashed once per process and again only when they changed.

Any number of runs, on any machines, may use one folder: whoever makes something claims its key first, and whoever needs
the same waits and then finds it. Without locks (some network file systems have none) it is made twice, and the first
stays.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import mkdtemp
from typing import TYPE_CHECKING, Any

from archspec.diagnostics import ArchspecError
from archspec.host.strict_json import read_json
from archspec.runtime.store.files import (
    check_replaceable,
    claimed,
    hash_file,
    known_hash,
    link_or_copy,
    replace_text,
    writing,
)

if TYPE_CHECKING:
    from torch import Tensor

WEIGHTS, REPORT, SUMS, MARK = "weights.safetensors", "report.json", "sums.json", "archspec.store.json"


@dataclass(frozen=True)
class Artifacts:
    """The artifacts in the folder `root`, which need not exist yet."""

    root: Path

    def folder(self, key: str) -> Path:
        return self.root / key

    def holds(self, key: str) -> bool:
        """Say whether the artifact is there, whole and as it was made."""
        return _is_whole(self.folder(key), key)

    def report(self, key: str) -> dict[str, Any]:
        return read_json(self.folder(key) / REPORT, "AS721")

    def tensors(self, key: str) -> dict[str, Tensor]:
        """Return the tensors of an artifact, mapped from its file; none of one that has only a report."""
        from safetensors.torch import load_file

        path = self.folder(key) / WEIGHTS
        return load_file(path) if path.is_file() else {}

    def keep(self, key: str, report: Mapping[str, Any], tensors: Mapping[str, Tensor] | None = None) -> None:
        """Store a result under its key, whole or not at all. AS631, AS632."""
        from safetensors.torch import save_file

        with self._making(key) as partial:
            (partial / REPORT).write_text(json.dumps(report, indent=1, sort_keys=True) + "\n", "utf-8")
            if tensors:
                save_file(_apart(tensors), partial / WEIGHTS)
                shutil.copymode(partial / REPORT, partial / WEIGHTS)  # safetensors lets the owner alone read

    def once(self, key: str, report: Mapping[str, Any], make: Callable[[], Mapping[str, Tensor]]) -> dict[str, Tensor]:
        """Return the tensors that are kept under a key; make and keep them if none are."""
        if not self.holds(key):
            with self.claim([key]):
                if not self.holds(key):  # nobody made it while this run waited
                    self.keep(key, report, make())
        return self.tensors(key)

    def drop(self, key: str) -> None:
        """Remove an artifact, if it is there: under another name first, so that no half of it is ever found."""
        with writing(self.root), self._aside(key) as partial:
            _move(self.folder(key), partial)

    def take_over(self, other: Path) -> None:
        """Link, or copy, what the store in the folder `other` holds and this one does not."""
        for folder in sorted(other.iterdir()) if other.is_dir() else ():
            if _is_whole(folder, folder.name) and not self.holds(folder.name):
                with self.claim([folder.name]), self._making(folder.name) as partial:
                    for file in (file for file in folder.iterdir() if file.name != SUMS):
                        link_or_copy(file, partial / file.name)

    @contextmanager
    def claim(self, keys: Iterable[str], waits: Callable[[str], None] = lambda key: None) -> Iterator[None]:
        """Make these artifacts alone, or wait until whoever does has ended. What a killed run left of them is
        removed."""
        with ExitStack() as stack:
            for key in sorted(set(keys)):  # in one order, so that no two runs wait for each other
                stack.enter_context(claimed(self.root / ".claims" / key, lambda key=key: waits(key)))  # type: ignore[misc]
                for left in (self.root / ".partial").glob(f"{key}.*"):
                    shutil.rmtree(left, ignore_errors=True)
            yield

    @contextmanager
    def _making(self, key: str) -> Iterator[Path]:
        """Give a folder to write to; on success it becomes the artifact, unless one is there that is whole."""
        with writing(self.folder(key)), self._aside(key) as partial:
            made = partial / "made"
            made.mkdir()
            yield made
            digests = {path.name: hash_file(path) for path in sorted(made.iterdir())}
            (made / SUMS).write_text(json.dumps({"key": key, "files": digests}, indent=1) + "\n", "utf-8")
            if not self.holds(key):
                _move(self.folder(key), partial / "damaged")
                _settle(made, self.folder(key))

    @contextmanager
    def _aside(self, key: str) -> Iterator[Path]:
        (self.root / ".partial").mkdir(parents=True, exist_ok=True)
        partial = Path(mkdtemp(prefix=f"{key}.", dir=self.root / ".partial"))
        try:
            yield partial
        finally:
            shutil.rmtree(partial, ignore_errors=True)


def open_store(path: Path) -> Path:
    """Return the folder `path` as a store that several sweeps and evaluations use, made if it is not there. AS817 when
    it holds something else."""
    hint = "name a new folder, or one that an earlier `--store` has made"
    check_replaceable(path, MARK, "store of artifacts", "AS817", hint)
    with writing(path):
        path.mkdir(parents=True, exist_ok=True)
        if not (path / MARK).is_file():
            replace_text(path / MARK, json.dumps({"format": 1}) + "\n")
    return path


def _apart(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors on the CPU, those that share memory with an earlier one copied: a file of safetensors holds
    each by itself."""
    found: dict[str, Tensor] = {}
    memory: set[int] = set()
    for name, tensor in tensors.items():
        own = tensor.detach().cpu().contiguous()
        place = own.untyped_storage().data_ptr()
        found[name] = own.clone() if place in memory else own
        memory.add(place)
    return found


def _is_whole(folder: Path, key: str) -> bool:
    try:
        sums = read_json(folder / SUMS, "AS721")
        files = sums["files"]
        return sums["key"] == key and REPORT in files and all(known_hash(folder / n) == d for n, d in files.items())
    except (ArchspecError, OSError, KeyError, TypeError, AttributeError):
        return False


def _move(old: Path, new: Path) -> None:
    """Rename a folder that may not be there."""
    try:
        old.rename(new)
    except FileNotFoundError:
        return


def _settle(made: Path, final: Path) -> None:
    """Rename a finished folder, unless another process was quicker to make the same."""
    try:
        os.rename(made, final)
    except OSError:
        if not final.is_dir():
            raise
