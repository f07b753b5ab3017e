"""`Router`: which tasks answer a request, and with what weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from archspec.diagnostics import Collector, fail, nearest
from archspec.packs.router import Active, Routing, read_routing
from archspec.runtime.packs.attach import Use
from archspec.runtime.packs.reading import Pack, open_pack
from archspec.runtime.routing.head import Head, read_head

Embed = Callable[[Any], Tensor]
"""Requests -> (requests, width)."""
Set = tuple[Active, ...]
"""An active set. Sorted, so that a sum of packs does not depend on the order in which they are written."""


@dataclass(frozen=True)
class Choice:
    """What answers one request. `weights`: task -> weight, the largest first, in sum 1; empty: the base. `score`: of
    the best task, chosen or not; 1 where the task was given."""

    weights: Mapping[str, float]
    score: float = 1.0

    @property
    def task(self) -> str | None:
        """The best task; None: the base answers."""
        return next(iter(self.weights), None)


@dataclass(frozen=True)
class Router:
    """A router's file, opened. `packs`: file, as the router names it -> pack; of none is more than its header read."""

    path: Path
    routing: Routing
    packs: Mapping[str, Pack]
    head: Head | None = field(default=None, repr=False)

    def given(self, tasks: Sequence[str | None]) -> list[Choice]:
        """Return the choice of requests whose task is known; None: the base. AS687 for tasks that are none."""
        problems, names = Collector(), self.routing.names
        for task in (task for task in dict.fromkeys(tasks) if task is not None and task not in names):
            hints = nearest(task, names) or (f"tasks are {', '.join(names)}",)
            problems.report("AS687", f"'{self.routing.name}' knows no task '{task}'", None, *hints)
        problems.raise_if_errors()
        return [Choice({} if task is None else {task: 1.0}) for task in tasks]

    def route(self, prompts: Any, embed: Embed | None) -> list[Choice]:
        """Return the choice for each prompt, as `embed` takes them. AS687 of a map, AS689 for embeddings of another
        width, AS713 without `embed`."""
        if self.head is None:
            hint = f"name the task of each request: {', '.join(self.routing.names)}"
            raise fail("AS687", f"'{self.routing.name}' is a map, which does not read prompts", None, hint)
        if embed is None:
            hint = "give that function: `archspec.routed(model, router, embed=...)`"
            raise fail(
                "AS713", f"'{self.routing.name}' was made of embeddings by a function of its maker's", None, hint
            )
        with torch.no_grad():
            return self.choose(embed(prompts))

    def choose(self, embeddings: Tensor) -> list[Choice]:
        """Return the choice for each of (requests, width)."""
        assert self.head is not None
        wanted = len(self.head.center)
        if embeddings.dim() != 2 or embeddings.shape[1] != wanted:
            message = f"embeddings of shape {tuple(embeddings.shape)}; the router was made of (requests, {wanted})"
            raise fail("AS689", message, None, "embed prompts as the examples were")
        logits, routing = self.head.logits(embeddings), self.routing
        best = self.head.scores(logits, routing.temperature).amax(1).tolist()
        values, places = logits.topk(routing.top, 1)
        shares = torch.softmax(values / routing.temperature, 1).tolist()
        return [
            Choice(dict(zip((routing.names[p] for p in row), share, strict=True)), score)
            if score >= routing.threshold
            else Choice({}, score)
            for row, share, score in zip(places.tolist(), shares, best, strict=True)
        ]

    def active(self, task: str) -> Set:
        """Return the packs of a task, sorted. AS687 for none."""
        self.given([task])
        found = next(t.packs for t in self.routing.tasks if t.name == task)
        return tuple(sorted(found, key=lambda pack: (pack.file, pack.scale)))

    def uses(self, active: Set) -> tuple[Use, ...]:
        return tuple(Use(self.packs[pack.file], pack.scale) for pack in active)


def open_router(path: str | Path) -> Router:
    """Read a router and the headers of its packs. AS688 (AS680 of a pack) for an unsound file, AS689 where a pack is of
    another base than the router."""
    path = Path(path)
    routing = read_routing(path)
    files = dict.fromkeys(pack.file for task in routing.tasks for pack in task.packs)
    packs = {file: open_pack(path.parent / file) for file in files}
    problems = Collector()
    for file, pack in packs.items():
        check_fingerprint(routing.base, f"the pack '{file}'", pack.header.base, problems)
    problems.raise_if_errors()
    return Router(path, routing, packs, read_head(path) if routing.by != "map" else None)


def check_fingerprint(own: Mapping[str, str], what: str, base: Mapping[str, str], problems: Collector) -> None:
    """Report something that is of another base than the router's `own`: AS689."""
    mine, other = own.get("fingerprint"), base.get("fingerprint")
    if mine and other and mine != other:
        hint = f"the router is of {own.get('from', '?')} {mine}"
        problems.report("AS689", f"{what} is of {base.get('from', '?')} {other}", None, hint)
