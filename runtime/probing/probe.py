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
from archspec.host.probes import VERSION, host_of, is_probe
from archspec.host.strict_json import read_json
from archspec.host.structure import Site, Structure
from archspec.runtime.learn.feed import Feed
from archspec.runtime.objectives import Objective
from archspec.runtime.probing.gates import derivatives, has_loss
from archspec.runtime.probing.locality import band_mass
from archspec.runtime.probing.measures import MEASURES, Asked, parse_measures
from archspec.runtime.probing.watch import Figure, watched
from archspec.runtime.store.files import check_file, replace_text, writing


@dataclass(frozen=True)
class Settings:
    """`samples` examples, each with its own noise and time; `data` as a spec's stanza."""

    data: Mapping[str, Any]
    samples: int
    seed: int = 0

    def to_json(self) -> dict[str, Any]:
        return {"data": json.loads(json.dumps(dict(self.data))), "samples": self.samples, "seed": self.seed}


class _Figures:
    """What was measured so far: measure -> module path -> figure."""

    def __init__(self, asked: Sequence[Asked]) -> None:
        self.asked = asked
        self.found: dict[str, dict[str, Figure]] = {a.name: {} for a in asked}

    def of(self, seen: str) -> list[Asked]:
        return [a for a in self.asked if a.measure.seen == seen]

    def add(self, asked: Asked, site: Site, values: Tensor) -> None:
        self.found[asked.name].setdefault(site.path, Figure()).add(values)


def usual(objective: Objective) -> tuple[Asked, ...]:
    """Return what is measured when nothing is asked for; of a host without a task, what needs none."""
    usual = (name for name, m in MEASURES.items() if m.usual and (m.seen != "gates" or has_loss(objective)))
    return parse_measures(tuple(usual))


def passes(asked: Sequence[Asked]) -> int:
    """Return how often `measure` goes over the examples."""
    return len({a.measure.seen == "gates" for a in asked})


def measure(
    host: nn.Module,
    structure: Structure,
    feed: Feed,
    asked: Sequence[Asked],
    samples: int,
    done: Callable[[int], None] = lambda count: None,
) -> dict[str, dict[str, dict[str, float]]]:
    """Return measure -> module path -> {mean, error} over `samples` examples. AS716 where a measure needs a loss and
    the host has none, AS736 where it found no site."""
    figures = _Figures(asked)
    if figures.of("sites") or figures.of("kernel"):
        _watch(host, structure, feed, figures, samples, done)
    if figures.of("gates"):
        _differentiate(host, structure, feed, figures, samples, done)
    missing = next((a for a in asked if not figures.found[a.name]), None)
    if missing:
        raise fail("AS736", f"'{missing.name}' was seen at no site of {structure.architecture}", None, _why(missing))
    return {name: _ordered(found, structure) for name, found in figures.found.items()}


def _sites(structure: Structure, asked: Sequence[Asked]) -> list[Site]:
    slots = frozenset[str]().union(*(a.measure.slots for a in asked))
    return [site for site in structure.sites if site.role in slots]


def _watch(
    host: nn.Module, structure: Structure, feed: Feed, figures: _Figures, samples: int, done: Callable[[int], None]
) -> None:
    """Measure what runs of the host show."""
    plain, bands = figures.of("sites"), figures.of("kernel")

    def seen(site: Site, x: Tensor, y: Tensor) -> None:
        for a in (a for a in plain if site.role in a.measure.slots):
            figures.add(a, site, a.measure.of(x, y))

    def attended(site: Site, kernel: Mapping[str, Any]) -> None:
        query, key = kernel["query"], kernel["key"]
        if site.slot != "attn" or not bands or query.shape[-2] != key.shape[-2]:
            return
        widths = [a.settings["k"] for a in bands]
        told = kernel.get("attn_mask"), bool(kernel.get("is_causal")), kernel.get("scale")
        for a, values in zip(bands, band_mass(query, key, widths, *told).unbind(1), strict=True):
            figures.add(a, site, a.measure.of(values))

    with torch.no_grad(), watched(host, _sites(structure, [*plain, *bands]), seen, attended):
        for start, keywords in feed.batches(samples):
            host(**keywords)
            done(min(feed.batch, samples - start))


def _differentiate(
    host: nn.Module, structure: Structure, feed: Feed, figures: _Figures, samples: int, done: Callable[[int], None]
) -> None:
    """Measure what a backward pass shows."""
    asked = figures.of("gates")
    if not has_loss(feed.objective):
        message = f"'{asked[0].name}' is a derivative of a loss, and {structure.architecture} has no task"
        raise fail("AS716", message, None, "measure influence, or probe the same model with its head")
    sites = {site.path: site for site in _sites(structure, asked)}
    for start, keywords, target in feed.tasks(samples):
        for path, slope in derivatives(host, list(sites.values()), feed.objective, keywords, target).items():
            for a in asked:
                figures.add(a, sites[path], a.measure.of(slope))
        done(min(feed.batch, samples - start))


def _why(asked: Asked) -> str:
    if asked.measure.seen == "kernel":
        return f"{asked.kind} needs attention by torch's own kernel: load the host with attn_implementation 'sdpa'"
    return f"{asked.kind} is measured at sites of the slots {', '.join(sorted(asked.measure.slots))}"


def _ordered(found: Mapping[str, Figure], structure: Structure) -> dict[str, dict[str, float]]:
    return {site.path: found[site.path].to_json() for site in structure.sites if site.path in found}


def earlier(path: Path, structure: Structure, settings: Settings, asked: Sequence[Asked]) -> dict[str, Any]:
    """Return the measures that a file holds and that are not asked for now: they are kept, if they are of the same
    host, data, samples and seed. AS739 where they are of something else, AS630 where the file is no probe."""
    check_file(path, is_probe, "probe")
    held = read_json(path, "AS660") if path.exists() and path.stat().st_size else {}
    kept = {name: found for name, found in held.get("measures", {}).items() if name not in {a.name for a in asked}}
    if not kept or (held["host"], held.get("settings")) == (host_of(structure), settings.to_json()):
        return kept
    message = f"'{path}' holds {', '.join(kept)} of another host, data, samples or seed, which would be lost"
    raise fail("AS739", message, None, "name another file with `-o`")


def write(path: Path, structure: Structure, settings: Settings, measures: Mapping[str, Any]) -> dict[str, Any]:
    """Write the file of a probe in one rename, and return its content."""
    content = {"format": VERSION, "host": host_of(structure), "settings": settings.to_json(), "measures": measures}
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_text(path, json.dumps(content, indent=1) + "\n")
    return content
