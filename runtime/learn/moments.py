"""What linear maps of a model are given: the mean of x x^T over their inputs x, from one pass over examples.

The model is run once on every batch, so every block is applied once to what the block before it gives. Sums lie in a
mapped file, (inputs, inputs) float32 each: what memory holds beside the model does not grow with the number of maps or
examples. Padding does not count.
"""

from __future__ import annotations

import mmap
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import torch
from torch import Tensor, nn

from archspec.diagnostics import fail
from archspec.runtime.learn.feed import Feed
from archspec.runtime.learn.taps import presence
from archspec.runtime.model.linear import is_linear, is_turned
from archspec.runtime.store.files import reserve, writing

Tick = Callable[[int], None]
"""Called with the number of examples done."""


@dataclass
class Moments:
    """Sums of x x^T and `rows`, how many x they are of, by the name of a weight."""

    sums: Mapping[str, Tensor]
    rows: dict[str, int]

    @staticmethod
    def of(sizes: Mapping[str, int], folder: Path) -> Moments:
        """Return empty sums. `sizes`: name -> inputs of its map. They lie in one file of `folder` that has no name, so
        that nothing is left of it however this process ends; its room is taken at once (AS631)."""
        total = 4 * sum(size * size for size in sizes.values())
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
            with TemporaryFile(dir=folder) as file:
                reserve(file.fileno(), total)
                mapping = mmap.mmap(file.fileno(), total) if total else bytearray()
        sums, at = {}, 0
        for name, size in sizes.items():
            sums[name] = torch.frombuffer(mapping, dtype=torch.float32, count=size * size, offset=at).view(size, size)
            at += 4 * size * size
        return Moments(sums, dict.fromkeys(sizes, 0))

    def add(self, name: str, x: Tensor) -> None:
        """Add inputs (count, inputs), on any device."""
        total = self.sums[name]
        if x.device == total.device:
            total.addmm_(x.T, x)
        else:
            total.add_((x.T @ x).to(total.device))
        self.rows[name] += len(x)

    def moment(self, name: str) -> Tensor | None:
        """Return the mean of x x^T, float64; None for a map that was given nothing, or nothing but zeros."""
        if not self.rows.get(name) or not self.sums[name].diagonal().any():
            return None
        return self.sums[name].double() / self.rows[name]


def linear_maps(model: nn.Module) -> dict[str, list[str]]:
    """Return weight, by its name in the model -> the linear maps that have it, by their paths. A weight that something
    else has too (an embedding tied to a head) is left out."""
    owners: dict[int, list[tuple[str, nn.Module]]] = {}
    names: dict[str, int] = {}
    for path, module in model.named_modules():
        for leaf, parameter in module.named_parameters(recurse=False, remove_duplicate=False):
            owners.setdefault(id(parameter), []).append((path, module))
            names[f"{path}.{leaf}" if path else leaf] = id(parameter)
    return {
        name: [path for path, _ in owners[key]]
        for name, key in names.items()
        if name.rpartition(".")[2] == "weight" and all(is_linear(module) for _, module in owners[key])
    }


def inputs_of(model: nn.Module, weight: str) -> int:
    """Return how many inputs the linear map of a weight has."""
    module = model.get_submodule(weight.rpartition(".")[0])
    return int(model.get_parameter(weight).shape[0 if is_turned(module) else 1])


@torch.no_grad()
def gather(
    model: nn.Module, wanted: Mapping[str, str], feed: Feed, samples: int, folder: Path, tick: Tick = lambda _: None
) -> Moments:
    """Run the model on `samples` examples, once each, and return the moments, which lie in a file of `folder`.
    `wanted`: weight in the model -> the name that its moment gets. AS667 for inputs that are no numbers."""
    maps, mask = linear_maps(model), [None]
    sizes = {own: inputs_of(model, name) for name, own in wanted.items()}
    found = Moments.of(sizes, folder)
    with _watched(model, {path: own for name, own in wanted.items() for path in maps[name]}, found, mask):
        for start, keywords in feed.batches(samples):
            mask[0] = keywords.get("attention_mask")
            model(**keywords)
            tick(min(feed.batch, samples - start))
    return found


@contextmanager
def _watched(model: nn.Module, names: Mapping[str, str], found: Moments, mask: list[Any]) -> Iterator[None]:
    def seen(path: str, inputs: tuple[Any, ...]) -> None:
        x: Tensor = inputs[0].detach()
        present = presence(mask[0], x)
        x = (x if present is None else x[present]).reshape(-1, x.shape[-1]).float()
        if not torch.isfinite(x).all():
            count = int((~torch.isfinite(x)).sum())
            message = f"what '{path}' is given is not finite in {count} of {x.numel()} places"
            hint = "the tuned model overflows on these data, or its weights are damaged: run it on them by itself"
            raise fail("AS667", message, None, hint)
        found.add(names[path], x)

    handles = [
        model.get_submodule(path).register_forward_pre_hook(lambda _, inputs, path=path: seen(path, inputs))
        for path in names
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
