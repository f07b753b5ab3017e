"""What donors have at each site and time, kept from run to run within a budget of bytes.

Donors run beside their targets unless everything that a run asks of them at a time is here. A time whose tokens do not
fit is not kept in part: nothing would be saved by it.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from archspec.injection import Tap


@dataclass(frozen=True)
class Tokens:
    """A sample's image tokens at a site. `feature`: (tokens, width), what the attention reads; `q`, `k`, `v`: (heads,
    tokens, head width) before rotation; `block`: (tokens, width), what the block is given; `out`: (heads, tokens, head
    width) of the attention. What nothing asks for may be missing."""

    feature: Tensor | None = None
    q: Tensor | None = None
    k: Tensor | None = None
    v: Tensor | None = None
    block: Tensor | None = None
    out: Tensor | None = None

    def tap(self, name: Tap) -> Tensor:
        """Return (tokens, width) features; of q, k and v the heads one behind the other."""
        found = {"attn_input": self.feature, "block_input": self.block, "q": self.q, "k": self.k, "v": self.v}[name]
        assert found is not None
        return found.transpose(0, 1).flatten(1) if name in ("q", "k", "v") else found

    @property
    def held(self) -> dict[str, Tensor]:
        """Those that are there, by name."""
        return {name: value for name, value in vars(self).items() if value is not None}

    @property
    def device(self) -> torch.device:
        return next(iter(self.held.values())).device

    @property
    def size(self) -> int:
        """Bytes."""
        return sum(value.nbytes for value in self.held.values())

    def only(self, names: frozenset[str]) -> Tokens:
        """Return those of these names, on memory of their own."""
        return Tokens(**{name: value.clone() for name, value in self.held.items() if name in names})

    def over(self, other: Tokens) -> Tokens:
        """Return these with what the other has besides."""
        return replace(other, **self.held)


Key = tuple[str, float]
"""Donor and time."""


@dataclass
class Store:
    """`budget` in bytes; `wanted`: names of the tensors of `Tokens` that grafts read."""

    budget: int = 0
    wanted: frozenset[str] = frozenset({"feature", "q", "k", "v", "block", "out"})
    held: dict[Key, dict[str, Tokens]] = field(default_factory=dict)
    complete: set[Key] = field(default_factory=set)
    refused: set[Key] = field(default_factory=set)
    size: int = 0

    def has(self, donor: str, time: float) -> bool:
        return (donor, time) in self.complete

    def find(self, donor: str, time: float, site: str) -> Tokens:
        return self.held[donor, time][site]

    def keep(self, donor: str, time: float, site: str, tokens: Tokens) -> None:
        """Keep the tokens of one site, or give up their time when the budget is used up."""
        key = donor, time
        if self.budget == 0 or key in self.refused or key in self.complete:
            return
        kept = tokens.only(self.wanted)
        self.size += kept.size
        own = self.held.setdefault(key, {})
        own[site] = kept.over(own.get(site, Tokens()))
        if self.size > self.budget:
            self.size -= sum(one.size for one in self.held.pop(key).values())
            self.refused.add(key)

    def finish(self, donor: str, time: float) -> None:
        """Declare that all sites of a time were offered."""
        if (donor, time) in self.held:
            self.complete.add((donor, time))
