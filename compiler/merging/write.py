"""The merged checkpoint: a folder in the form of its first model, published in one rename.

It holds config.json and side files of the base (else the first model), the tokenizer of the model that
`tokenizer_source` names, the tensors, and `archspec.merge.json`: configuration, seed, what was merged, what was done to
each tensor and the digest of its data. Nothing that is written depends on the time or the machine.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from archspec import __version__
from archspec.compiler.emission.result import side_files
from archspec.compiler.merging.blocks import Files
from archspec.compiler.merging.layout import Layout, Source, Task
from archspec.compiler.merging.methods import merged
from archspec.compiler.merging.slices import restacked
from archspec.host.fingerprint import SAMPLED
from archspec.host.locate import fingerprint
from archspec.language.merges import DTYPES
from archspec.runtime.store.checkpoint import Piece, Writer, shards, stem_of
from archspec.runtime.store.files import check_replaceable, copy_file, publish

RECORD = "archspec.merge.json"
TOKENIZER = (
    *("tokenizer", "vocab", "merges", "spiece", "sentencepiece"),
    *("special_tokens", "added_tokens", "chat_template"),
)
"""Beginnings of the names of a tokenizer's files."""
NAMES = {spelled: name for name, spelled in DTYPES.items()}


def check_output(out: Path) -> None:
    """Refuse to replace what no merge wrote. AS630."""
    check_replaceable(out, RECORD, "merge of archspec")


def write_merge(layout: Layout, out: Path, seed: int = 0, advance: Callable[[int], None] = lambda _: None) -> None:
    """Merge to the folder `out`; `advance` is told the numbers done. AS630 to AS633; nothing is half-written then."""
    check_output(out)
    with publish(out) as folder:
        _side(layout, folder)
        digests = _weights(layout, folder, seed, advance)
        _write_json(folder / RECORD, _record(layout, seed, digests))


def _side(layout: Layout, folder: Path) -> None:
    first = layout.sources[0]
    config = dict(first.config)
    dtypes = {NAMES[task.out] for task in layout.tasks}
    for key in ("dtype", "torch_dtype"):
        if key in config and len(dtypes) == 1:
            config[key] = next(iter(dtypes))
    if layout.blocks is not None:
        config |= restacked(config, layout.blocks)
    _write_json(folder / "config.json", config)
    words = layout.merge.tokenizer or first.model.name
    donor = next(source for source in layout.sources if source.model.name == words)
    taken = [path for path in _files(first) if not path.name.startswith(TOKENIZER)]
    for path in [*taken, *(path for path in _files(donor) if path.name.startswith(TOKENIZER))]:
        copy_file(path, folder / path.name)


def _files(source: Source) -> list[Path]:
    assert source.located.folder is not None
    return [path for path in side_files(source.located.folder) if path.name != RECORD]


def _weights(layout: Layout, folder: Path, seed: int, advance: Callable[[int], None]) -> dict[str, str]:
    first = layout.sources[0]
    assert first.located.folder is not None
    homes = {name: header.file for name, header in first.tensors.items()}
    pieces = [Piece(task.name, task.out, task.shape, None, homes.get(task.name)) for task in layout.tasks]
    with (
        _one_thread(),
        Files() as files,
        Writer(folder, shards(pieces, first.tensors, stem_of(first.located.folder))) as writer,
    ):
        for task in layout.tasks:
            writer.put_blocks(task.name, merged(files, task, seed))
            advance(task.models[0].count)
        return dict(writer.digests)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Run with one thread: on blocks this small several would wait for one another most of the time."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _record(layout: Layout, seed: int, digests: dict[str, str]) -> dict[str, Any]:
    return {
        "version": __version__,
        "method": layout.merge.method,
        "seed": seed,
        "config": layout.merge.span.source.text,
        "models": {s.model.name: fingerprint(s.located.weights, SAMPLED) for s in layout.sources if s.located.weights},
        "tensors": {task.name: {"rule": task.rule, "digest": digests[task.name]} for task in layout.tasks},
    }


def plan_of(layout: Layout) -> dict[str, Any]:
    """Return what a merge would do, as plain data."""
    rules: dict[str, list[str]] = {}
    for task in layout.tasks:
        rules.setdefault(task.rule, []).append(task.name)
    return {
        "method": layout.merge.method,
        "models": [source.model.name for source in layout.sources],
        "tensors": len(layout.tasks),
        "parameters": sum(task.models[0].count for task in layout.tasks),
        "read": layout.reads,
        "write": layout.writes,
        "passes": max((passes(task) for task in layout.tasks), default=1),
        "rules": [{"rule": rule, "tensors": names} for rule, names in rules.items()],
    }


def passes(task: Task) -> int:
    """Return how often the inputs of a task are read, at most."""
    cut = 2 if task.work == "F32" else 1
    if task.method == "slerp":
        return 2
    if task.method == "ties":
        return 1 + cut * (min(task.densities) < 1)
    if task.method.startswith("dare"):
        return 1 + (min(task.densities) < 1 and bool(task.options["rescale"]))
    if task.method == "sce":
        return 2 if task.options["select_topk"] >= 1 else 3 + cut
    return 1


def _write_json(path: Path, data: object) -> None:
    path.write_text(json.dumps(data, indent=2, ensure_ascii=False) + "\n", "utf-8")
