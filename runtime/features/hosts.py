"""How a family of hosts is called, as far as injections need it: one line per family in `HOSTS`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from archspec.runtime.features.match import Grid
from archspec.runtime.features.processors import ContextFirst, ImageFirst, Processor

Keywords = Mapping[str, Any]


@dataclass(frozen=True)
class HostPort:
    """`times`: the timestep that the host is told at time 1. `grid`: of the image's tokens, from the host and its
    keywords. `places`: (tokens, 3), of hosts with rotary positions."""

    times: float
    grid: Callable[[Any, Keywords], Grid]
    processor: type[Processor] | None = None
    """None: attentions are rewritten (`rewritten.py`)."""
    places: Callable[[Keywords], Tensor | None] = lambda keywords: None
    unbatched: frozenset[str] = frozenset()
    """Keywords without a batch."""


def _patches(host: Any, keywords: Keywords) -> Grid:
    rows, columns = keywords["hidden_states"].shape[-2:]
    patch = host.config.patch_size
    return rows // patch, columns // patch


def _placed(_: Any, keywords: Keywords) -> Grid:
    places = keywords["img_ids"]
    rows, columns = (int(places[:, axis].max() - places[:, axis].min()) + 1 for axis in (1, 2))
    return rows, columns


HOSTS: Mapping[str, HostPort] = {
    "dit": HostPort(1000.0, _patches, ImageFirst),
    "pixart": HostPort(1000.0, _patches, ImageFirst),
    "sd3": HostPort(1000.0, _patches, ImageFirst),
    "flux": HostPort(
        1.0, _placed, ContextFirst, lambda keywords: keywords["img_ids"], frozenset({"img_ids", "txt_ids"})
    ),
}
