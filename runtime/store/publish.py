"""Trained weights, put into the checkpoint in one rename: it can be loaded before, during and after.

The new files are written aside (streamed: only trained tensors are held). A single file then replaces the old one under
its name. Of a sharded model the new files get names of their own, the index that names them replaces the old index, and
only then do the old files go. The weights as compiled stay under `.archspec/compiled`, so that a run with other
settings starts from them and not from trained ones.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from archspec.host.fingerprint import digest_of
from archspec.host.headers import read_folder
from archspec.plan import Plan, Task, digest
from archspec.runtime.execution.workspace import Workspace
from archspec.runtime.learn.install import homes, learned
from archspec.runtime.store.checkpoint import live, rewrite, stem_of
from archspec.runtime.store.files import hash_file, link_or_copy, replace_text, writing
from archspec.runtime.store.lock import NAME, FileRecord, Lock, Provenance, read_lock
from archspec.runtime.store.relock import relocked
from archspec.runtime.store.verify import differences

LEARNED, MEASURED = "learned", "measured"
"""Keys of what a run adds to the results in a lock."""


def publish_learned(workspace: Workspace, model: Path, plan: Plan) -> bool:
    """Put the weights that finished tasks give into the model and the lock; False when they are there already. Files
    that are gone, or cut off, are made anew from the weights as compiled."""
    lock = read_lock(workspace.folder)
    tasks = [t for t in plan.tasks if t.kind != "evaluate" and workspace.finished(t.key)]
    state = digest([task.key for task in tasks])
    if not tasks or (lock.results.get(LEARNED, {}).get("state") == state and _is_there(lock, workspace)):
        return False
    known = live(model, read_folder(keep_compiled(workspace, model)))
    tensors = {name: t for name, t in learned(lock.instructions, workspace, tasks).items() if name in known}
    files = publish_weights(workspace, model, tensors, state)
    done = {"state": state, "complete": _complete(workspace, plan), "tasks": [_summary(workspace, t) for t in tasks]}
    _write(
        workspace,
        _relocked(lock, workspace, model, files, tensors, tasks) | {"results": {**lock.results, LEARNED: done}},
    )
    return True


def _is_there(lock: Lock, workspace: Workspace) -> bool:
    """Whether files of weights have the sizes and headers that the lock states; so they are held where there is nothing
    to make them of."""
    if not workspace.compiled.is_dir():
        return True
    top, endings = Path(lock.subfolder or "."), (".safetensors", ".safetensors.index.json")
    weights = {name for name in lock.files if Path(name).parent == top and name.endswith(endings)}
    return not any(found.file in weights for found in differences(workspace.folder, lock, whole=False))


def _complete(workspace: Workspace, plan: Plan) -> bool:
    return all(workspace.finished(t.key) for t in plan.tasks if t.kind != "evaluate")


def _summary(workspace: Workspace, task: Task) -> dict[str, Any]:
    """What a lock says of a task: nothing that differs from run to run, such as seconds."""
    report = workspace.report(task.key)
    return {"id": task.id, "key": task.key, "outcomes": report.get("outcomes", [])}


def record_measured(workspace: Workspace, plan: Plan) -> None:
    """Note in the lock what finished evaluations measured."""
    found = {
        t.id: workspace.report(t.key).get(MEASURED)
        for t in plan.tasks
        if t.kind == "evaluate" and workspace.finished(t.key)
    }
    lock = read_lock(workspace.folder)
    if found and lock.results.get(MEASURED) != found:
        _write(workspace, {**vars(lock), "results": {**lock.results, MEASURED: found}})


def relock(workspace: Workspace, names: Iterable[str]) -> None:
    """Note in the lock the present content of small files, such as the card."""
    lock = read_lock(workspace.folder)
    paths = {name: workspace.folder / name for name in names}
    fresh = {name: FileRecord(path.stat().st_size, hash_file(path)) for name, path in paths.items()}
    _write(workspace, {**vars(lock), "files": {**lock.files, **fresh}})


def _write(workspace: Workspace, entries: Mapping[str, Any]) -> None:
    text = json.dumps(Lock(**entries).to_json(), indent=1, ensure_ascii=False)
    replace_text(workspace.folder / NAME, text + "\n")


def _relocked(
    lock: Lock,
    workspace: Workspace,
    model: Path,
    files: Iterable[Path],
    tensors: Mapping[str, Tensor],
    tasks: Iterable[Task],
) -> dict[str, Any]:
    """Return the lock's entries with the provenance of trained tensors and the records of new files."""
    teachers = {home: task.kind for task in tasks for home in homes(lock.instructions, task)}
    headers = live(model, read_folder(model))
    found = {}
    for name in tensors:
        by = next((teachers[home] for home in reversed(teachers) if name.startswith(home)), "finetune")
        found[name] = Provenance("new", digest_of(headers[name]).hex(), site=lock.tensors[name].site, init=by)
    return relocked(lock, found, files)


def compiled_weights(workspace: Workspace) -> dict[str, Tensor]:
    """Return the weights as compiled where trained ones have taken their place, else nothing."""
    from safetensors.torch import load_file

    found: dict[str, Tensor] = {}
    for path in sorted(workspace.compiled.glob("*.safetensors")):
        found |= load_file(path)
    return found


def keep_compiled(workspace: Workspace, model: Path) -> Path:
    """Give the weights of the folder `model`, as they were compiled, a second name; return where."""
    if not workspace.compiled.is_dir():
        partial = workspace.root / "compiled.partial"
        with writing(workspace.compiled):
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
            for path in [*model.glob("*.safetensors"), *model.glob("*.safetensors.index.json")]:
                link_or_copy(path, partial / path.name)
            partial.rename(workspace.compiled)
    return workspace.compiled


def publish_weights(workspace: Workspace, model: Path, tensors: Mapping[str, Tensor], state: str) -> list[Path]:
    """Give the model the compiled weights with `tensors` in place of theirs; return its files of weights.

    `state` is a short text that is another one for other weights.
    """
    start = keep_compiled(workspace, model)
    aside = workspace.root / "publish"
    with writing(model):
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir(parents=True)
        rewrite(start, aside, tensors)
        stem = stem_of(aside)
        index = aside / f"{stem}.safetensors.index.json"
        found = _replace_shards(aside, model, index, state[:8]) if index.exists() else _replace_file(aside, model, stem)
        shutil.rmtree(aside)
    return found


def _replace_file(aside: Path, model: Path, stem: str) -> list[Path]:
    name = f"{stem}.safetensors"
    _sync(aside / name)
    (aside / name).replace(model / name)
    return [model / name]


def _replace_shards(aside: Path, model: Path, index: Path, state: str) -> list[Path]:
    content = json.loads(index.read_text("utf-8"))
    renamed = {name: name.replace(".safetensors", f".{state}.safetensors") for name in content["weight_map"].values()}
    for old, new in renamed.items():
        _sync(aside / old)
        (aside / old).replace(model / new)
    content["weight_map"] = {tensor: renamed[file] for tensor, file in content["weight_map"].items()}
    replace_text(model / index.name, json.dumps(content, indent=2) + "\n")
    for path in model.glob("*.safetensors"):
        if path.name not in renamed.values():
            path.unlink()
    return [model / new for new in renamed.values()] + [model / index.name]


def _sync(path: Path) -> None:
    """Bring a file to the disk before the rename that makes it visible."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
