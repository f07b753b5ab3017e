"""The leaderboard: one row per model, as text that the terminal and the page share."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from archspec.render.board import Board, Role, Row

TITLES = {
    "host": ("host", "the digits DiT as trained: 6 blocks, width 96"),
    "mlp_r3": ("MLP r=3", "every MLP at three quarters of its width; closed form, no gradient step"),
    "parallel_pairs": ("parallel pairs", "blocks side by side in pairs, outputs merged: half the depth"),
    "hyena_x": ("hyena_x, every second", "attention replaced by a gated convolution in half of the blocks"),
    "mlp_r3_random": ("control: MLP r=3 at random", "the same MLPs with random weights, not taught"),
    "parallel_pairs_random": ("control: pairs at random", "the same finetuning, the merges from random weights"),
}
COLUMNS = ("", "params", "FLOPs", "FD", "x host", "agreement", "error to host", "latency", "CPU s")


@dataclass
class Entry:
    """One model on the leaderboard."""

    name: str
    spec: str = ""
    costs: dict[str, Any] = field(default_factory=dict)
    report: dict[str, Any] = field(default_factory=dict)
    diff: dict[str, Any] = field(default_factory=dict)
    cpu: float = 0.0
    picture: Path = Path()

    @property
    def role(self) -> Role:
        return "host" if self.name == "host" else "control" if self.name.endswith("_random") else "graft"


def row(entry: Entry, host: Entry) -> Row:
    """Return the cells of one model."""
    costs = entry.costs["result"]
    result = entry.report["result"]
    cells = (
        TITLES[entry.name][0],
        f"{costs['params'] / 1e6:.2f} M",
        f"{costs['flops'] / 1e6:.1f} M",
        f"{result['fd']:.3f}",
        f"{result['fd'] / host.report['result']['fd']:.2f}x",
        f"{100 * result['agreement']:.1f}%",
        f"{100 * result['paired']:.1f}%" if entry.name != "host" else "",
        f"{result['latency'] / entry.report['host']['latency']:.2f}x" if entry.name != "host" else "",
        f"{entry.cpu:.0f}" if entry.cpu else "",
    )
    return Row(cells, entry.role, result["fd"])


def order(entries: list[Entry]) -> list[Entry]:
    """Host first, then by distance to the data."""
    return sorted(entries, key=lambda e: (e.name != "host", e.report["result"]["fd"]))


def board_of(entries: list[Entry]) -> Board:
    """Return the leaderboard; the first entry is the host's."""
    return Board(COLUMNS, tuple(row(entry, entries[0]) for entry in order(entries)), bar=COLUMNS.index("FD"))
