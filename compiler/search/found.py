"""What a search found: the choice, and all that it was made of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from archspec.compiler.search.price import Priced
from archspec.compiler.search.solve import Choice
from archspec.host.structure import Site
from archspec.semantics.choices import Choices


@dataclass(frozen=True)
class Found:
    """`scores`: per candidate, module path -> score."""

    choices: Choices
    scores: tuple[Mapping[str, float], ...]
    budget: tuple[Priced, ...]
    choice: Choice

    def chosen(self, site: Site) -> str | None:
        """Return the operator for a site, as a spec would write it; None: it stays as it is."""
        place = self.choice.operators[site.path]
        return None if place is None else self.choices.candidates[place].name

    def scores_of(self, site: Site) -> dict[str, float]:
        """Return candidate -> score of those that fit a site."""
        pairs = zip(self.choices.candidates, self.scores, strict=True)
        return {candidate.name: known[site.path] for candidate, known in pairs if site.path in known}

    @property
    def legend(self) -> list[tuple[str, str]]:
        """Return the numbers by which tables call the candidates, and their names."""
        return [(str(number), candidate.name) for number, candidate in enumerate(self.choices.candidates, 1)]

    def row(self, site: Site) -> tuple[str, ...]:
        """Return the site's row of a table: name, score of every candidate, number of the chosen one."""
        place = self.choice.operators[site.path]
        scores = (f"{known[site.path]:.3g}" if site.path in known else "" for known in self.scores)
        return site.name, *scores, "-" if place is None else str(place + 1)

    def to_json(self) -> dict[str, Any]:
        budget = zip(self.budget, self.choice.values, strict=True)
        return {
            "score": self.choice.score,
            "budget": [{"bound": str(p.expectation), "host": p.host, "result": value} for p, value in budget],
            "sites": [
                {"site": site.name, "operator": self.chosen(site), "scores": self.scores_of(site)}
                for site in self.choices.sites
            ],
        }
