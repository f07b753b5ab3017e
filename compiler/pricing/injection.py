"""What an injection costs while it draws: donors' branches, matching, and the keys that are seen beside the own.

Counted of one evaluation of one target in which every graft works and every token of every donor is taken: the most
that it can be. Masks, filters and dropout take fewer keys; they save nothing of the branches and the matching.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from archspec.compiler.capture.model import build_structure
from archspec.compiler.pricing.cost import CostReport
from archspec.families import FAMILIES
from archspec.host.structure import Structure
from archspec.injection import Graft, Injection
from archspec.runtime.families import family

FLOAT = 4
"""Bytes of what is compared."""


@dataclass(frozen=True)
class InjectionCost:
    """FLOPs of one evaluation: `plain` without any graft, `branches` of donors that run beside, `matching`, and `keys`
    that attentions see beside their own. `matching_bytes`: working memory of a match; `kept_bytes`: what a cache of one
    evaluation holds."""

    plain: int
    branches: int
    matching: int
    keys: int
    matching_bytes: int
    kept_bytes: int

    @property
    def whole(self) -> int:
        return self.plain + self.branches + self.matching + self.keys

    @property
    def ratio(self) -> float:
        """Of a grafted evaluation to a plain one."""
        return self.whole / self.plain if self.plain else 1.0

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"ratio": self.ratio}


def price_injection(injection: Injection, structure: Structure, cost: CostReport) -> InjectionCost | None:
    """Price an injection at the tokens of a cost report. None for hosts of text: how long a donor is, its text says."""
    tokens = cost.tokens
    if FAMILIES[structure.family].task == "text" or not tokens:
        return None
    widths = {site.path: site.shape.width for site in structure.sites}
    queries = tokens + _context(structure, tokens)
    donors = sum(donor.state != "batch" for donor in injection.donors.values()) if injection.donors else 1
    matching = keys = 0
    for graft in injection.grafts:
        count = len(graft.donors) or 1
        matching += count * sum(2 * tokens * tokens * widths[site] for site in _compared(graft))
        if graft.op == "append":
            keys += count * sum(4 * queries * tokens * widths[site] for site in graft.sites)
    return InjectionCost(
        plain=cost.result.flops,
        branches=donors * cost.result.flops,
        matching=matching,
        keys=keys,
        matching_bytes=max(_working(injection, tokens, widths), default=0),
        kept_bytes=donors * sum(2 * tokens * widths[site] for site in _sites(injection)) * FLOAT,
    )


def _compared(graft: Graft) -> tuple[str, ...]:
    """Return the sites at which a graft matches: all, or the first of a step."""
    if graft.match is None:
        return ()
    return graft.sites if graft.match.every == "site" else graft.sites[:1]


def _working(injection: Injection, tokens: int, widths: dict[str, int]) -> Iterator[int]:
    """Yield the bytes of each graft's largest match: a chunk of cosines, and both sides' features normalized."""
    for graft in injection.grafts:
        if graft.match and graft.sites:
            width = max(widths[site] for site in graft.sites)
            yield FLOAT * tokens * (min(graft.match.chunk, tokens) + 2 * width)


def _sites(injection: Injection) -> set[str]:
    return {site for graft in injection.grafts for site in graft.sites}


def _context(structure: Structure, tokens: int) -> int:
    """Return the tokens of a prompt that attend beside the image's, of hosts whose blocks carry both."""
    if not any(site.port.streams for site in structure.sites if site.slot == "block"):
        return 0
    square = tokens if structure.tokens is None else None
    example = family(structure.family).example(build_structure(structure), 1, square, "meta")
    return int(example["encoder_hidden_states"].shape[1])
