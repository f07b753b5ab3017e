"""The run of a probe: the host on examples of its task, every site watched, and what was found as a file."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from archspec.diagnostics import fail
from archspec.host.probes import VERSION, host_of
from archspec.host.structure import Site, Structure
from archspec.runtime.execution.workspace import replace_text
from archspec.runtime.learn.feed import Feed
from archspec.runtime.probing.locality import band_mass
from archspec.runtime.probing.measures import Asked
from archspec.runtime.probing.watch import Figure, watched
from archspec.runtime.store.files import writing


@dataclass(frozen=True)
class Settings:
    """`samples` examples, each with its own noise and time; `data` as a spec's stanza."""

    data: Mapping[str, Any]
    samples: int
    seed: int = 0

    def to_json(self) -> dict[str, Any]:
        return {"data": dict(self.data), "samples": self.samples, "seed": self.seed}


def measure(
    host: nn.Module,
    structure: Structure,
    feed: Feed,
    asked: Sequence[Asked],
    samples: int,
    done: Callable[[int], None] = lambda count: None,
) -> dict[str, dict[str, dict[str, float]]]:
    """Return measure -> module path -> {mean, error} over `samples` examples. AS736 where a measure found no site."""
    slots = frozenset().union(*(a.measure.slots for a in asked))
    sites = [site for site in structure.sites if site.role in slots]
    figures: dict[str, dict[str, Figure]] = {a.name: {} for a in asked}
    plain = [a for a in asked if a.measure.of is not None]
    bands = [a for a in asked if a.measure.of is None]

    def add(name: str, site: Site, values: Tensor) -> None:
        figures[name].setdefault(site.path, Figure()).add(values)

    def seen(site: Site, x: Tensor, y: Tensor) -> None:
        for a in plain:
            if site.role in a.measure.slots and a.measure.of is not None:
                add(a.name, site, a.measure.of(x, y))

    def attended(site: Site, kernel: Mapping[str, Any]) -> None:
        query, key = kernel["query"], kernel["key"]
        if site.slot != "attn" or not bands or query.shape[-2] != key.shape[-2]:
            return
        widths = [a.settings["k"] for a in bands]
        told = kernel.get("attn_mask"), bool(kernel.get("is_causal")), kernel.get("scale")
        for a, values in zip(bands, band_mass(query, key, widths, *told).unbind(1), strict=True):
            add(a.name, site, values)

    with torch.no_grad(), watched(host, sites, seen, attended):
        for start, keywords in feed.batches(samples):
            host(**keywords)
            done(min(feed.batch, samples - start))
    missing = next((a for a in asked if not figures[a.name]), None)
    if missing:
        raise fail("AS736", f"'{missing.name}' was seen at no site of {structure.architecture}", None, _why(missing))
    return {name: _ordered(found, structure) for name, found in figures.items()}


def _why(asked: Asked) -> str:
    if asked.measure.of is None:
        return f"{asked.kind} needs attention by torch's own kernel: load the host with attn_implementation 'sdpa'"
    return f"{asked.kind} is measured at sites of the slots {', '.join(sorted(asked.measure.slots))}"


def _ordered(found: Mapping[str, Figure], structure: Structure) -> dict[str, dict[str, float]]:
    return {site.path: found[site.path].to_json() for site in structure.sites if site.path in found}


def write(path: Path, structure: Structure, settings: Settings, measures: Mapping[str, Any]) -> dict[str, Any]:
    """Write the file of a probe in one rename, and return its content."""
    content = {"format": VERSION, "host": host_of(structure), "settings": settings.to_json(), "measures": measures}
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_text(path, json.dumps(content, indent=1) + "\n")
    return content
