"""Calls timed side by side, round after round, and their table: time and FLOPs over those of the first.

A time is the least CPU time of the rounds, which other processes disturb least.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field


@dataclass
class Case:
    """A call, its FLOPs, and how long it took."""

    name: str
    call: Callable[[], object]
    flops: int
    seconds: list[float] = field(default_factory=list)


def take_turns(cases: Sequence[Case], enough: float, most: int) -> None:
    """Call every case in turn, until each has taken `enough` seconds or was called `most` times."""
    left = list(cases)
    while left:
        for case in left:
            start = time.process_time()
            case.call()
            case.seconds.append(time.process_time() - start)
        left = [case for case in left if sum(case.seconds) < enough and len(case.seconds) < most]


def table(what: str, results: Mapping[int, Sequence[Case]]) -> str:
    """Return a Markdown table of tokens -> cases: a row per case, three columns per number of tokens."""
    head = [what, *(f"{tokens:,}: ms | x | FLOPs" for tokens in results)]
    lines = [f"| {' | '.join(head)} |", "|---" * (1 + 3 * len(results)) + "|"]
    for place, case in enumerate(next(iter(results.values()))):
        cells = [case.name]
        for cases in results.values():
            mine, base = cases[place], cases[0]
            ratio = min(mine.seconds) / min(base.seconds)
            cells += [f"{min(mine.seconds) * 1e3:,.1f}", f"{ratio:.2f}", f"{mine.flops / base.flops:.2f}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)
