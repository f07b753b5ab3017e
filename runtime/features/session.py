"""What is known while a host runs under an injection: the time, the step, and who stands in which row.

A model call is one evaluation. Samples are rows of its batch: first the caller's (targets, and donors of state
`batch`), then one row for every donor that runs beside them. Under classifier-free guidance the caller's rows are two
halves, unconditional and conditional, as diffusers lays them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from archspec.injection import Graft, Injection
from archspec.runtime.features.match import Grid, Pairs
from archspec.runtime.features.store import Store

Watch = Callable[[str, Tensor, Tensor], None]
"""Told of every donor that gives tokens: its name, (n,) its tokens, (n,) the target tokens that they stand for."""
EPSILON = 1e-6
"""Times that are closer are the same."""


@dataclass
class Session:
    """One run. All from `grid` on is set at every evaluation."""

    injection: Injection
    masks: Mapping[str, Tensor] = field(default_factory=dict)
    """Donor -> (image tokens,) bool."""
    target_mask: Tensor | None = None
    """(image tokens,) bool."""
    guided: bool = False
    store: Store = field(default_factory=Store)
    shared: Mapping[str, str] = field(default_factory=dict)
    """Donor that runs beside -> the donor whose row is its own: those of one collage differ in their masks alone."""
    evaluations: tuple[tuple[int, str], ...] = ()
    """(step, `first`, `last` or `only`) of every evaluation of the solver; none: each is a step of its own."""

    grid: Grid = (1, 1)
    places: Tensor | None = None
    """(image tokens, 3) of a host with rotary positions: frame, row, column."""
    batch: int = 1
    """The caller's rows."""
    beside: tuple[str, ...] = ()
    """Donors whose rows stand behind them."""
    time: float = 1.0
    evaluation: int = -1
    branch: int = 0
    """Calls at this time before this one: pipelines that call the host for each branch of guidance begin with the
    conditional one."""
    blocks: dict[str, Tensor] = field(default_factory=dict)
    """Site -> (batch, image tokens, width), what its block was given."""
    pairs: dict[tuple[object, ...], Pairs] = field(default_factory=dict)
    cumulative: dict[str, Tensor] = field(default_factory=dict)
    taken: dict[tuple[str, int], int] = field(default_factory=dict)
    """(site, row) -> donor tokens taken in this evaluation."""
    watch: Watch | None = None

    def restart(self) -> None:
        """Forget a run; what is cached of donors stays."""
        self.evaluation = -1
        for memory in (self.pairs, self.cumulative, self.taken, self.blocks):
            memory.clear()

    def begin(self, time: float, grid: Grid, batch: int, beside: tuple[str, ...]) -> None:
        """Open the next evaluation."""
        again = self.evaluation >= 0 and abs(time - self.time) < EPSILON
        self.branch = self.branch + 1 if again else 0
        self.evaluation += not again
        self.time, self.grid, self.batch, self.beside = time, grid, batch, beside
        self.blocks.clear()
        self.taken.clear()

    @property
    def step(self) -> int:
        known = self.evaluation < len(self.evaluations)
        return self.evaluations[self.evaluation][0] if known else self.evaluation

    @property
    def place_in_step(self) -> str:
        known = self.evaluation < len(self.evaluations)
        return self.evaluations[self.evaluation][1] if known else "only"

    @property
    def half(self) -> int:
        """Rows of one branch of guidance."""
        return self.batch // 2 if self.guided else self.batch

    def active(self, site: str) -> list[Graft]:
        """Return the grafts that work at a site in this evaluation."""
        return [graft for graft in self.injection.grafts if site in graft.sites and self.is_on(graft)]

    def idle(self, site: str) -> bool:
        """Whether the host's own attention does at a site: no graft works, and nothing is to be remembered."""
        return not self.active(site) and not (self.beside and self.store.budget)

    def is_on(self, graft: Graft) -> bool:
        high, low = graft.times
        if not low - EPSILON <= self.time <= high + EPSILON or graft.weight == 0:
            return False
        if graft.strength == -torch.inf or (graft.match and (graft.match.threshold or 0) > 1):
            return False
        if graft.steps is not None and not graft.steps[0] <= self.step < graft.steps[1]:
            return False
        return graft.evaluations == "all" or self.place_in_step in (graft.evaluations, "only")

    def targets(self, graft: Graft) -> Iterator[int]:
        """Yield the rows that a graft changes: no donor's own."""
        if self.branch and graft.rows == "conditional":
            return
        own = {donor.row for donor in self.injection.donors.values() if donor.state == "batch"}
        first = self.half if self.guided and graft.rows == "conditional" else 0
        yield from (row for row in range(first, self.batch) if row % self.half not in own)

    def row_of(self, name: str, target: int) -> int | None:
        """Return the row of a donor beside a target; None for one whose tokens are in the store."""
        donor = self.injection.donors[name]
        if donor.state != "batch":
            first = self.shared.get(name, name)
            return self.batch + self.beside.index(first) if first in self.beside else None
        assert donor.row is not None
        return target // self.half * self.half + donor.row

    def inside(self, graft: Graft, device: torch.device) -> Tensor:
        """(image tokens,) bool: those of a target that a graft may change."""
        if graft.gate.target_mask and self.target_mask is not None:
            return self.target_mask.to(device)
        return torch.ones(self.grid[0] * self.grid[1], dtype=torch.bool, device=device)
