"""The page of a sweep: its leaderboard, and a card per member that failed or was measured."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from archspec.cli.numbers import members
from archspec.render.board import Board, Role
from archspec.render.page import card, details, page

if TYPE_CHECKING:
    from archspec.compiler.leaderboard import Result

NOTE = """\
Figures over several seeds: mean ± half of the 95 % interval of the mean (Student's t). x host: result over host from \
the same noise, seed by seed. images: noised examples that the plan runs a model on, every pass and those held out \
counted. CPU s: of the member's plan alone; what members share was done once. FLOPs of one forward pass. \
What failed gives no figures; means over fewer seeds than the matrix has say so."""


def page_of(spec: Path, table: Board, found: Sequence[Result], report: dict[str, Any]) -> str:
    """Return the HTML of a sweep."""
    tasks = report["tasks"]
    states = [result.state for result in found]
    lead = (
        f"{members(len(found))}, {states.count('finished')} finished, {states.count('failed')} failed. "
        f"Their plans have {tasks['of_members']} tasks, of which {tasks['distinct']} are distinct."
    )
    title = f"archspec sweep: {spec.stem}"
    cards = (_card(result) for result in found)
    return page(title, f"Sweep of {spec.name}", lead, table, NOTE, cards)


def _card(result: Result) -> str:
    measured = result.measured or {"host": {}, "result": {}}
    chips = [f"{name} {value:.4g}" for name, value in measured["result"].items()]
    text = "; ".join(result.problems) or f"{result.state}, in {result.folder}"
    body = details("expectations", "\n".join(result.expect)) if result.expect else ""
    role: Role = "control" if result.state == "failed" else "graft"
    return card(result.member.id or "the spec", role, chips, text, body)
