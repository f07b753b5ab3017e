"""The demo's page: one HTML file, pictures inside, no script and nothing to fetch; light and dark."""

from __future__ import annotations

import base64
from html import escape
from pathlib import Path
from string import Template
from typing import Any

from board import COLUMNS, TITLES, Entry, order, row

HERE = Path(__file__).parent
BEST_FIRST = 3
"""Column of the leaderboard that has a bar: FD."""


def write_page(entries: list[Entry], out: Path, seconds: float) -> Path:
    """Write index.html into `out` and return its path."""
    template = Template((HERE / "page.html").read_text(encoding="utf-8"))
    ranked = order(entries)
    path = out / "index.html"
    path.write_text(
        template.substitute(
            seconds=f"{seconds:.0f}",
            samples=entries[0].report["settings"]["samples"],
            steps=entries[0].report["settings"]["steps"],
            board=_board(ranked, entries[0]),
            cards="\n".join(_card(entry, entries[0]) for entry in ranked),
        ),
        encoding="utf-8",
    )
    return path


def _board(ranked: list[Entry], host: Entry) -> str:
    head = "".join(f"<th>{escape(column)}</th>" for column in COLUMNS)
    worst = max(entry.report["result"]["fd"] for entry in ranked if entry.role != "control")
    body = "\n".join(_row(entry, host, worst) for entry in ranked)
    return f"<table class=board><thead><tr>{head}</tr></thead><tbody>\n{body}\n</tbody></table>"


def _row(entry: Entry, host: Entry, worst: float) -> str:
    cells = list(row(entry, host))
    share = min(1.0, entry.report["result"]["fd"] / worst)
    found = [f"<td>{escape(cell)}</td>" for cell in cells]
    more = " over" if entry.report["result"]["fd"] > worst else ""
    fill = f'<span class="fill{more}" style="width:{100 * share:.0f}%"></span>'
    found[BEST_FIRST] = f"<td class=bar>{fill}<b>{cells[BEST_FIRST]}</b></td>"
    return f'<tr class="{entry.role}">{"".join(found)}</tr>'


def _card(entry: Entry, host: Entry) -> str:
    title, what = TITLES[entry.name]
    cells = dict(zip(COLUMNS, row(entry, host), strict=True))
    chips = [f"FD {cells['FD']}"]
    if entry.name != "host":
        chips += [cells["x host"].replace("x", " × host"), f"error {cells['error to host']}"]
    shown = "".join(f"<span>{escape(chip)}</span>" for chip in chips)
    picture = base64.b64encode(entry.picture.read_bytes()).decode()
    return f"""<article class="{entry.role}">
<header><h2>{escape(title)}</h2><div class=chips>{shown}</div></header>
<p>{escape(what)}</p>
<img alt="40 digits drawn by {escape(title)}" src="data:image/png;base64,{picture}">
{_details(entry)}
</article>"""


def _details(entry: Entry) -> str:
    if not entry.spec:
        return ""
    return f"""{_diff(entry.diff)}
<details><summary>the spec</summary><pre>{escape(entry.spec.strip())}</pre></details>"""


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
