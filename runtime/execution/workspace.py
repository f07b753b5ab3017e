"""What a run keeps beside a checkpoint: `<folder>/.archspec/`, local to this machine and safe to delete.

    origin.json          where base and spec were when the folder was compiled (the checkpoint itself holds no path)
    artifacts/<key>/     one folder per finished task: weights.safetensors, report.json; a link to the artifacts of
                         all its members, in a sweep
    work/<key>/          checkpoints of a task that is under way
    compiled/            the weights as they were compiled, once trained ones have taken their place
    log.jsonl            metrics, one line each; `tensorboard/` has the same

An artifact is made under another name and renamed when whole, so a key that exists is a task that is finished. Keys
hash all that a result depends on: an artifact is found by key alone and never has to be checked again.
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
from archspec.runtime.store.files import writing

WEIGHTS, REPORT = "weights.safetensors", "report.json"


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

    def artifact(self, key: str) -> Path:
        return self.root / "artifacts" / key

    def finished(self, key: str) -> bool:
        return self.artifact(key).is_dir()

    def report(self, key: str) -> dict[str, Any]:
        return read_json(self.artifact(key) / REPORT, "AS721")

    def weights(self, key: str) -> dict[str, Tensor]:
        """Return the tensors of an artifact, by their names in the result; none for a task that gives no weights."""
        from safetensors.torch import load_file

        path = self.artifact(key) / WEIGHTS
        return load_file(path) if path.is_file() else {}

    def keep(self, key: str, report: Mapping[str, Any], tensors: Mapping[str, Tensor] | None = None) -> None:
        """Store the result of a task under its key, whole or not at all, and drop its unfinished work."""
        from safetensors.torch import save_file

        partial = self.root / "work" / f"{key}.{os.getpid()}"
        with writing(self.artifact(key)):
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
            if tensors:
                unique = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items()}
                save_file(unique, partial / WEIGHTS)
            (partial / REPORT).write_text(json.dumps(report, indent=1, sort_keys=True) + "\n", "utf-8")
            self.artifact(key).parent.mkdir(parents=True, exist_ok=True)
            if not self.finished(key):
                _settle(partial, self.artifact(key))
            shutil.rmtree(partial, ignore_errors=True)
            shutil.rmtree(self.work(key), ignore_errors=True)

    def share(self, store: Path) -> None:
        """Keep artifacts in the folder `store`, as others do: `artifacts` becomes a relative link to it."""
        own = self.root / "artifacts"
        with writing(own):
            store.mkdir(parents=True, exist_ok=True)
            self.root.mkdir(exist_ok=True)
            if own.is_symlink():
                own.unlink()
            elif own.is_dir():
                for artifact in own.iterdir():
                    _settle(artifact, store / artifact.name)
                shutil.rmtree(own)
            own.symlink_to(os.path.relpath(store.resolve(), self.root.resolve()), target_is_directory=True)

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

    def remember_origin(self, base: Path, near: Path) -> None:
        """Note where the base (a model folder) and the spec are."""
        self.root.mkdir(exist_ok=True)
        text = json.dumps({"base": str(base.absolute()), "near": str(near.absolute())}, indent=1)
        replace_text(self.root / "origin.json", text + "\n")

    def origin(self) -> dict[str, Path]:
        """Return `base` and `near`, as far as they are known and still there."""
        path = self.root / "origin.json"
        found = read_json(path, "AS721") if path.is_file() else {}
        return {name: Path(text) for name, text in found.items() if isinstance(text, str) and Path(text).exists()}

    @contextmanager
    def alone(self, name: str) -> Iterator[None]:
        """Hold the lock `name` of this folder. AS731 when another run has it."""
        from filelock import FileLock, Timeout

        with writing(self.root):
            self.root.mkdir(exist_ok=True)
        try:
            with FileLock(self.root / f"{name}.lock", timeout=0):
                yield
        except Timeout:
            hint = "wait for it to end; `archspec run OUT --shard i/n` lets several work at once"
            raise fail("AS731", f"another run is at work on '{self.folder}'", None, hint) from None


def _settle(made: Path, final: Path) -> None:
    """Rename a finished folder, unless another process was quicker to make the same."""
    try:
        made.rename(final)
    except OSError:
        if not final.is_dir():
            raise


def replace_text(path: Path, text: str) -> None:
    """Write a small file under another name and rename it."""
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    with writing(path):
        partial.write_text(text, "utf-8")
        partial.replace(path)
