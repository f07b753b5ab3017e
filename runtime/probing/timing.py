"""What operators take beside the modules that they would replace, on the very calls that the host makes.

One site stands for all of its kind (same slot and contract). Host's module and candidates run in turn, so a busy
machine slows all alike; medians are taken. A whole model's time is the host's, plus what its sites change by.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import nn

from archspec.host.structure import Site
from archspec.runtime.learn.feed import Feed
from archspec.runtime.learn.taps import Tap, record
from archspec.runtime.measure.latency import compare_latency
from archspec.runtime.probing.replacement import Trial, made

HOST = "host"


@torch.no_grad()
def changes(host: nn.Module, candidates: Sequence[Sequence[Trial]], feed: Feed) -> tuple[float, list[dict[str, float]]]:
    """Return the host's seconds for one example, and per candidate module path -> seconds more (or less)."""
    device, weights = torch.device(feed.device), host.state_dict()
    _, keywords = next(iter(Feed(feed.dataset, feed.objective, feed.seed, 1, feed.device).batches(1)))
    whole = compare_latency({HOST: lambda: host(**keywords)}, device)[HOST].median
    kinds: dict[object, list[tuple[int, Trial]]] = {}
    for place, trials in enumerate(candidates):
        for trial in trials:
            kinds.setdefault(_kind(trial.site), []).append((place, trial))
    found: list[dict[str, float]] = [{} for _ in candidates]
    for members in kinds.values():
        times = _times(host, members, weights, keywords, feed)
        for place, trial in members:
            found[place][trial.site.path] = times[str(place)] - times[HOST]
    return whole, found


def _kind(site: Site) -> object:
    return site.slot, site.shape


def _times(
    host: nn.Module,
    members: Sequence[tuple[int, Trial]],
    weights: Mapping[str, torch.Tensor],
    keywords: Mapping[str, object],
    feed: Feed,
) -> dict[str, float]:
    """Return candidate -> seconds at the first site of a kind, that of the host's own module among them."""
    first = members[0][1].site
    seen = record(host, [Tap.at(first.path)], keywords)[first.path]
    modules = {HOST: host.get_submodule(first.path)}
    modules |= {
        str(place): made(trial, weights, feed.seed, feed.device) for place, trial in members if trial.site == first
    }
    runs = {name: lambda module=module: module(*seen.args, **seen.kwargs) for name, module in modules.items()}
    return {name: latency.median for name, latency in compare_latency(runs, torch.device(feed.device)).items()}
