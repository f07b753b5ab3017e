"""A page of results: one HTML file, pictures inside, no script and nothing to fetch; light and dark."""

from __future__ import annotations

import base64
from collections.abc import Iterable
from html import escape
from pathlib import Path
from string import Template

from archspec.render.board import Board, Role, html

TEMPLATE = Path(__file__).with_name("page.html")


def page(title: str, heading: str, lead: str, board: Board, note: str, cards: Iterable[str] = ()) -> str:
    """Return the text of a page. All but `cards` is text; a card is HTML, as `card` makes it."""
    return Template(TEMPLATE.read_text(encoding="utf-8")).substitute(
        title=escape(title),
        heading=escape(heading),
        lead=escape(lead),
        board=html(board),
        note=escape(note),
        cards="\n".join(cards),
    )


def card(title: str, role: Role, chips: Iterable[str], text: str, body: str = "") -> str:
    """Return the HTML of a card; `body` is HTML."""
    shown = "".join(f"<span>{escape(chip)}</span>" for chip in chips)
    return f"""<article class="{role}">
<header><h2>{escape(title)}</h2><div class=chips>{shown}</div></header>
<p>{escape(text)}</p>
{body}
</article>"""


def picture(file: Path, text: str) -> str:
    """Return the HTML of a PNG; `text` says what is seen."""
    return f'<img alt="{escape(text)}" src="data:image/png;base64,{base64.b64encode(file.read_bytes()).decode()}">'


def details(title: str, text: str) -> str:
    """Return the HTML of a text that opens on a click."""
    return f"<details><summary>{escape(title)}</summary><pre>{escape(text)}</pre></details>"
