"""What can be measured of a site. One line each in `MEASURES`; all give one value per example, (batch,).

locality(k=32)             attn    share of attention on tokens at most k places away (2506.05340, Sec. 3.4)
influence                  block   1 - cosine of what goes in and what comes out, mean over tokens (ShortGPT,
                                   2403.03853, Eq. 1)
gate_sensitivity           all     |dL/dg| of a gate g = 1 at what the site does (1905.10650)
gate_sensitivity_squared   all     its square (1906.10771)
deviation                  all     standard deviation of what comes out
mean                       all     mean of what comes out
largest                    all     largest magnitude of what comes out
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from archspec.diagnostics import fail, nearest
from archspec.host.probes import measure_name

SLOTS = frozenset({"attn", "cross_attn", "mlp", "block"})


@dataclass(frozen=True)
class Measure:
    """`seen`: where it is read off. `of` makes the value: of what goes in and what comes out of a site, of the share
    that the kernel shows, of a gate's derivative. `settings`: name -> default of what the measure is set by, whole
    numbers from 0. `usual`: it is measured when nothing is asked for."""

    slots: frozenset[str]
    seen: Literal["sites", "kernel", "gates"]
    of: Callable[..., Tensor]
    settings: Mapping[str, int]
    usual: bool = True


def _influence(x: Tensor, y: Tensor) -> Tensor:
    return 1 - cosine_similarity(x.float(), y.float(), dim=-1).mean(1)


MEASURES: Mapping[str, Measure] = {
    "locality": Measure(frozenset({"attn"}), "kernel", lambda share: share, {"k": 32}),
    "influence": Measure(frozenset({"block"}), "sites", _influence, {}),
    "gate_sensitivity": Measure(SLOTS, "gates", torch.abs, {}),
    "gate_sensitivity_squared": Measure(SLOTS, "gates", torch.square, {}, usual=False),
    "deviation": Measure(SLOTS, "sites", lambda x, y: y.float().flatten(1).std(1), {}),
    "mean": Measure(SLOTS, "sites", lambda x, y: y.float().flatten(1).mean(1), {}),
    "largest": Measure(SLOTS, "sites", lambda x, y: y.float().flatten(1).abs().amax(1), {}),
}


@dataclass(frozen=True)
class Asked:
    """A measure with its settings."""

    kind: str
    settings: Mapping[str, int]

    @property
    def name(self) -> str:
        return measure_name(self.kind, self.settings)

    @property
    def measure(self) -> Measure:
        return MEASURES[self.kind]


_FORM = re.compile(r"\s*(\w+)\s*(?:\(([^()]*)\))?\s*")


def parse_measures(texts: Sequence[str]) -> tuple[Asked, ...]:
    """Return the measures that texts like `locality(k=32)` name, each once. AS735."""
    return tuple({asked.name: asked for text in texts for asked in [_parse(text)]}.values())


def _parse(text: str) -> Asked:
    form = _FORM.fullmatch(text)
    if form is None or form[1] not in MEASURES:
        hints = nearest(form[1] if form else text, MEASURES) or (f"measures are {', '.join(MEASURES)}",)
        raise fail("AS735", f"no measure '{text}'", None, *hints)
    known, given = MEASURES[form[1]].settings, {}
    for setting in filter(None, map(str.strip, (form[2] or "").split(","))):
        name, _, value = (part.strip() for part in setting.partition("="))
        if name not in known or not value.isdecimal():
            told = ", ".join(f"{name}={default}" for name, default in known.items()) or "nothing"
            raise fail("AS735", f"'{form[1]}' is not set by '{setting}'", None, f"it is set by {told}")
        given[name] = int(value)
    return Asked(form[1], {**known, **given})
