"""The demo's page: the leaderboard, and a card per model with its samples and what its spec changed."""

from __future__ import annotations

from html import escape
from pathlib import Path
from typing import Any

from board import COLUMNS, TITLES, Entry, board_of, order, row

from archspec.render.page import card, details, page, picture

LEAD = """\
The host draws handwritten digits. Each spec changes its architecture; the compiler proves that the change fits, \
initializes the new parts from the old ones, and runs what little training the spec asks for. All of it, with the \
measurements, took {seconds:.0f} seconds on this machine."""
NOTE = """\
{samples} samples, {steps} steps, the same noise for every model. FD: Frechet distance to the real digits in the \
features of a small classifier trained on them; comparable within this page only, and not FID. Error to host: \
relative error of each sample to the host's from the same noise. Latency: of one forward pass, timed in turn with \
the host's in one run. CPU s: compiling and learning on one thread, loading libraries left out. FLOPs of one forward \
pass. \
The controls are two of the plans with their new parts from random weights (hyena_x's regression forgets its start: \
docs/results/digits.md tells that and more)."""


def write_page(entries: list[Entry], out: Path, seconds: float) -> Path:
    """Write index.html into `out` and return its path."""
    text = page(
        "archspec: grafts of a diffusion transformer",
        "Three grafts of a trained diffusion transformer",
        LEAD.format(seconds=seconds),
        board_of(entries),
        NOTE.format(**entries[0].report["settings"]),
        (_card(entry, entries[0]) for entry in order(entries)),
    )
    path = out / "index.html"
    path.write_text(text, encoding="utf-8")
    return path


def _card(entry: Entry, host: Entry) -> str:
    title, what = TITLES[entry.name]
    cells = dict(zip(COLUMNS, row(entry, host).cells, strict=True))
    chips = [f"FD {cells['FD']}"]
    if entry.name != "host":
        chips += [cells["x host"].replace("x", " × host"), f"error {cells['error to host']}"]
    body = picture(entry.picture, f"40 digits drawn by {title}")
    return card(title, entry.role, chips, what, body + _details(entry))


def _details(entry: Entry) -> str:
    return f"{_diff(entry.diff)}\n{details('the spec', entry.spec.strip())}" if entry.spec else ""


def _diff(diff: dict[str, Any]) -> str:
    changes = [c for c in diff["changes"] if c["kind"] in ("operator", "parameter", "removed", "added", "wiring")]
    rows = "\n".join(
        f"<tr><td><code>{escape(c['where'])}</code></td><td class=was>{escape(c['before'] or '–')}</td>"
        f"<td class=now>{escape(c['after'] or '–')}</td></tr>"
        for c in changes
    )
    totals = "\n".join(_total(m) for m in diff["measures"] if m["ratio"] and m["before"] != m["after"])
    return f"<table class=diff>{rows}{totals}</table>"


def _total(measure: dict[str, Any]) -> str:
    from archspec.diff.report import show

    before, after = (show(measure[side], measure["unit"]) for side in ("before", "after"))
    ratio = f"{measure['ratio']:.2f}x"
    return (
        f"<tr class=total><td>{escape(measure['name'])}</td><td class=was>{before}</td>"
        f"<td class=now>{after} <i>{ratio}</i></td></tr>"
    )
