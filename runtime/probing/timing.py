"""What operators take beside the modules that they would replace, on the very calls that the host makes.

One site stands for all of its kind (same slot and contract). Host's module and candidates run in turn, so a busy
machine slows all alike; medians are taken. A whole model's time is the host's, plus what its sites change by.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from archspec.runtime.learn.taps import Tap, first_of, record
from archspec.runtime.measure.latency import compare_latency
from archspec.runtime.model.grids import share_grid
from archspec.runtime.probing.replacement import Trial, made

HOST = "host"


@torch.no_grad()
def changes(
    host: nn.Module, candidates: Sequence[Sequence[Trial]], keywords: Mapping[str, Any], device: torch.device
) -> tuple[float, list[dict[str, float]]]:
    """Return the host's seconds for one example, and per candidate module path -> seconds more (or less)."""
    whole = compare_latency({HOST: lambda: host(**keywords)}, device)[HOST].median
    kinds: dict[object, list[tuple[int, Trial]]] = {}
    for place, trials in enumerate(candidates):
        for trial in trials:
            kinds.setdefault((trial.site.slot, trial.site.shape), []).append((place, trial))
    found: list[dict[str, float]] = [{} for _ in candidates]
    for members in kinds.values():
        times = _times(host, members, keywords, device)
        for place, trial in members:
            found[place][trial.site.path] = times[str(place)] - times[HOST]
    return whole, found


def _times(
    host: nn.Module, members: Sequence[tuple[int, Trial]], keywords: Mapping[str, Any], device: torch.device
) -> dict[str, float]:
    """Return candidate -> seconds at the first site of a kind, those of the host's own modules among them."""
    first, weights = members[0][1].site, host.state_dict()
    seen = record(host, [Tap.at(first.path)], keywords)[first.path]
    modules: dict[str, nn.Module] = {
        HOST: _Whole([host.get_submodule(path) for path in first.paths], first.port.foreign)
    }
    modules |= {str(place): made(trial, weights, 0, device) for place, trial in members if trial.site == first}
    share_grid(host, keywords, modules.values())
    runs = {name: lambda module=module: module(*seen.args, **seen.kwargs) for name, module in modules.items()}
    return {name: latency.median for name, latency in compare_latency(runs, device).items()}


class _Whole(nn.Module):
    """The modules that a site is, one after the other; `foreign` inputs of the last are not the site's."""

    def __init__(self, modules: Sequence[nn.Module], foreign: int) -> None:
        super().__init__()
        self.first, self.rest = modules[0], nn.ModuleList(modules[1:])
        self.foreign = foreign

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        y = self.first(*args, **kwargs)
        for module in self.rest:
            y = self._next(module, first_of(y))
        return y

    def _next(self, module: Any, y: Tensor) -> Any:
        own = self.foreign and module is self.rest[-1]
        return F.linear(y, module.weight[:, self.foreign :]) if own else module(y)
