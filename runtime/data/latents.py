"""Latents on disk: safetensors or npy files, read a row at a time.

A safetensors file holds a tensor `x` (or `latents`) whose first axis counts the examples, and beside it, of the same
length, any of `label`, `caption` (tokens, caption width), `caption_mask` and `pooled` (the caption as one vector);
plurals are understood. Of several files
(a folder) the examples follow one another in the order of the names. A `name.npy` may have labels in `name_labels.npy`.
Nothing is unpickled.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open

from archspec.diagnostics import fail, nearest
from archspec.runtime.data.describe import Description, setting
from archspec.runtime.data.examples import Arrays, Example, Examples
from archspec.runtime.data.needs import Needs

SUFFIXES = frozenset({".safetensors", ".npy"})
NAMES: Mapping[str, tuple[str, ...]] = {
    "x": ("x", "latents", "latent"),
    "label": ("label", "labels"),
    "caption": ("caption", "captions"),
    "caption_mask": ("caption_mask", "caption_masks"),
    "pooled": ("pooled", "pooled_projections"),
}
OPTIONAL = ("label", "caption", "caption_mask", "pooled")


class Shard(Examples):
    """One safetensors file, kept open."""

    def __init__(self, path: Path, names: Mapping[str, str]) -> None:
        self.path, self.names = path, dict(names)
        self.file = _open(path)
        lengths = {entry: self._slice(entry).get_shape()[0] for entry in names}
        if len(set(lengths.values())) != 1:
            raise fail("AS704", f"the tensors of '{path}' differ in length: {lengths}")
        self.length = next(iter(lengths.values()))
        self.labels = self.file.get_tensor(names["label"]).long().numpy() if "label" in names else None

    def _slice(self, entry: str) -> Any:
        return self.file.get_slice(self.names[entry])

    def __len__(self) -> int:
        return int(self.length)

    def __getitem__(self, index: int) -> Example:
        found = {entry: self._slice(entry)[index : index + 1][0] for entry in self.names}
        return {entry: t.long() if entry == "label" else t.float() for entry, t in found.items()}


class Chain(Examples):
    """The examples of several data sets, one after the other."""

    def __init__(self, parts: list[Examples], identity: str) -> None:
        self.parts, self.identity = parts, identity
        self.ends = list(accumulate(len(part) for part in parts))
        labels = [part.labels for part in parts if part.labels is not None]
        self.labels = np.concatenate(labels) if len(labels) == len(parts) else None

    def __len__(self) -> int:
        return self.ends[-1]

    def __getitem__(self, index: int) -> Example:
        part = bisect_right(self.ends, index)
        return self.parts[part][index - (self.ends[part - 1] if part else 0)]


def open_latents(found: Description, data: Mapping[str, Any], needs: Needs) -> Examples:
    files = [f for f in found.files(SUFFIXES) if not f.stem.endswith("_labels")]
    parts = [_open_npy(f) if f.suffix == ".npy" else _open_shard(f, data) for f in files]
    examples = Chain(parts, found.identity)
    if len(examples):
        _check_shape(examples[0], needs, found.name)
    return examples


def _open_shard(path: Path, data: Mapping[str, Any]) -> Examples:
    keys = set(_open(path).keys())
    wanted = dict(NAMES)
    for entry, written in (("x", setting(data, "column")), ("label", setting(data, "label"))):
        if written is not None:
            wanted[entry] = (written,)
    names = {entry: name for entry, known in wanted.items() for name in known if name in keys}
    missing = next((e for e in ("x", "label") if e not in names and (e == "x" or setting(data, e) is not None)), None)
    if missing is not None:
        word = wanted[missing][0]
        hints = nearest(word, keys) or (f"it holds {', '.join(sorted(keys))}",)
        raise fail("AS703", f"'{path}' has no tensor '{word}'", None, *hints)
    return Shard(path, names)


def _open(path: Path) -> Any:
    try:
        return safe_open(path, framework="pt")
    except (SafetensorError, OSError) as error:
        raise fail("AS704", f"'{path}' is no readable safetensors file: {error}") from error


def _open_npy(path: Path) -> Examples:
    columns = {"x": _map(path)}
    labels = path.with_name(f"{path.stem}_labels.npy")
    if labels.exists():
        columns["label"] = _map(labels)
        if len(columns["label"]) != len(columns["x"]):
            raise fail("AS704", f"'{labels}' holds {len(columns['label'])} labels for {len(columns['x'])} latents")
    return Arrays(columns, str(path))


def _map(path: Path) -> Any:
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        hint = "save numbers, not Python objects: those are pickled, and never loaded"
        raise fail("AS704", f"'{path}' is no readable npy file: {error}", None, hint) from error


def _check_shape(example: Example, needs: Needs, name: str) -> None:
    shape = tuple(torch.as_tensor(example["x"]).shape)
    if needs.shape is not None and shape != needs.shape:
        raise fail("AS707", f"'{name}' holds latents of shape {shape}, the host takes {needs.shape}")
