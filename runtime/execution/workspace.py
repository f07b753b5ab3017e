"""What a run keeps beside a checkpoint: `<folder>/.archspec/`, local to this machine and safe to delete.

    origin.json          where base and spec were when the folder was compiled (the checkpoint itself holds no path)
    artifacts/<key>/     the results of finished tasks (`runtime.store.artifacts`); in a sweep a link to the store of
                         all its members
    work/<key>/          checkpoints of a task that is under way
    compiled/            the weights as they were compiled, once trained ones have taken their place
    log.jsonl            metrics, one line each; `tensorboard/` has the same

A task is finished when the artifact of its key is whole. Keys hash all that a result depends on, so artifacts outlive a
new compile, and several folders may share them.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from archspec.diagnostics import fail
from archspec.host.strict_json import read_json
from archspec.runtime.store.artifacts import Artifacts
from archspec.runtime.store.files import replace_text, writing


@dataclass(frozen=True)
class Workspace:
    """`folder` is the compiled checkpoint."""

    folder: Path

    @property
    def root(self) -> Path:
        return self.folder / ".archspec"

    @property
    def compiled(self) -> Path:
        return self.root / "compiled"

    def work(self, key: str) -> Path:
        return self.root / "work" / key

    @property
    def artifacts(self) -> Artifacts:
        return Artifacts((self.root / "artifacts").resolve())

    def finished(self, key: str) -> bool:
        return self.artifacts.holds(key)

    def report(self, key: str) -> dict[str, Any]:
        return self.artifacts.report(key)

    def weights(self, key: str) -> dict[str, Tensor]:
        """Return the tensors of an artifact, by their names in the result; none for a task that gives no weights."""
        return self.artifacts.tensors(key)

    def keep(self, key: str, report: Mapping[str, Any], tensors: Mapping[str, Tensor] | None = None) -> None:
        """Store the result of a task under its key, whole or not at all, and drop its unfinished work."""
        self.artifacts.keep(key, report, tensors)
        shutil.rmtree(self.work(key), ignore_errors=True)

    def share(self, store: Path) -> None:
        """Keep artifacts in the folder `store`, as others do: `artifacts` becomes a relative link to it, and what it
        held before is in the store too."""
        own, partial = self.root / "artifacts", self.root / "artifacts.partial"
        target = os.path.relpath(store.resolve(), self.root.resolve())
        if own.is_symlink() and os.readlink(own) == target:
            return
        Artifacts(store.resolve()).take_over(own)
        with writing(own):
            store.mkdir(parents=True, exist_ok=True)
            self.root.mkdir(exist_ok=True)
            partial.unlink(missing_ok=True)
            partial.symlink_to(target, target_is_directory=True)
            if own.is_dir() and not own.is_symlink():
                shutil.rmtree(own)
            partial.replace(own)

    def check_store(self) -> None:
        """Refuse to begin anew where finished tasks were kept in a store that is not there: AS737."""
        own = self.root / "artifacts"
        if own.is_symlink() and not own.exists():
            hint = f"bring it back, or say in the sweep where it is: `--store FOLDER`; without it, remove '{own}' first"
            raise fail("AS737", f"finished tasks are kept in '{own.resolve()}', which is not there", None, hint)

    @contextmanager
    def scratch(self, key: str) -> Iterator[Path]:
        """Give an empty folder for the time of a task; what a killed run left of it is removed first."""
        folder = self.root / "work" / f"{key}.scratch"
        with writing(folder):
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def remember_origin(self, base: Path, spec: Path) -> None:
        """Note where the base (a model folder) and the file of the spec are, also as seen from this folder: all may
        move together."""
        with writing(self.root):
            self.root.mkdir(exist_ok=True)
        places = {"base": os.path.abspath(base), "spec": os.path.abspath(spec)}
        seen = {name: os.path.relpath(path, self.folder.absolute()) for name, path in places.items()}
        replace_text(self.root / "origin.json", json.dumps({"seen": seen, **places}, indent=1) + "\n")

    def origin(self) -> dict[str, Path]:
        """Return `base`, and `near`, the folder of the spec, as far as they are known and still there."""
        places = self._places()
        near = places["spec"].parent if "spec" in places else Path()  # of use when the file is gone
        found = {"base": places.get("base"), "near": near if near.is_absolute() and near.is_dir() else None}
        return {name: place for name, place in found.items() if place and place.exists()}

    def take_origin(self, other: Workspace) -> None:
        """Note where base and spec of another folder, of which this one is a copy, are, if it says so."""
        places = other._places()
        if len(places) == 2:
            self.remember_origin(**places)

    def _places(self) -> dict[str, Path]:
        """Return `base` and `spec` as far as they are noted: as seen from this folder, where something is there, else
        where they were."""
        path = self.root / "origin.json"
        noted = read_json(path, "AS721") if path.is_file() else {}
        seen = noted["seen"] if isinstance(noted.get("seen"), dict) else {}
        were = {name: noted[name] for name in ("base", "spec") if isinstance(noted.get(name), str)}
        return {name: self._there(seen.get(name), place) or Path(place) for name, place in were.items()}

    def _there(self, *places: object) -> Path | None:
        """Return the first of these places, as seen from this folder, where something is."""
        known = (Path(os.path.normpath(self.folder.absolute() / p)) for p in places if isinstance(p, str))
        return next((place for place in known if place.exists()), None)

    @contextmanager
    def alone(self, name: str, command: str = "archspec run OUT") -> Iterator[None]:
        """Hold the lock `name` of this folder. AS731 when another run has it; several `command`s may share the work."""
        from filelock import FileLock, Timeout

        with writing(self.root):
            self.root.mkdir(exist_ok=True)
        try:
            with FileLock(self.root / f"{name}.lock", timeout=0):
                yield
        except Timeout:
            hint = f"wait for it to end; `{command} --shard i/n` lets several work at once"
            raise fail("AS731", f"another run is at work on '{self.folder}'", None, hint) from None
