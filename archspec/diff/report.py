"""A `Difference` as JSON and Markdown, and as rows that the terminal prints. No I/O here."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from archspec.diff import weights as by_depth
from archspec.diff.compare import Change, Difference, Measure
from archspec.diff.weights import Weights
from archspec.quantity import quantity
from archspec.render.heat import markdown, short

FORMAT_VERSION = 1
TITLES = {
    "operator": "Operators",
    "parameter": "Parameters of operators",
    "removed": "Removed",
    "added": "Added",
    "wiring": "Wiring",
    "config": "Config",
    "tensor": "Tensors",
    "spec": "Spec",
}


MOST = 10
"""Tensors that are named, the most changed ones."""


def verdict(difference: Difference, weights: Weights | None) -> str:
    """Say in one sentence what is known. Equal headers alone are never called identical."""
    sites = sum(c.count for c in difference.changes if c.kind in ("operator", "parameter", "removed", "added"))
    found = f"{len(difference.changes)} changes, {sites} sites" if difference.changes else "same structure"
    if weights is not None:
        return f"{found}; {by_depth.verdict(weights)}"
    return found if difference.changes else f"{found}; values were not compared"


def to_json(difference: Difference, weights: Weights | None = None) -> dict[str, Any]:
    """Return the documented form: `format_version`, both sides, `changes`, `measures`, and `weights` when compared."""
    return {
        "format_version": FORMAT_VERSION,
        "before": _side(difference.before),
        "after": _side(difference.after),
        "verdict": verdict(difference, weights),
        "changes": [vars(c) for c in difference.changes],
        "measures": [{**vars(m), "ratio": ratio(m)} for m in difference.measures],
        "weights": None if weights is None else by_depth.to_json(weights),
    }


def _side(outline: Any) -> dict[str, Any]:
    return {
        "label": outline.label,
        "kind": outline.kind,
        "architecture": outline.architecture,
        "wiring": {k: list(v) for k, v in outline.wiring.items()},
    }


def ratio(measure: Measure) -> float | None:
    if measure.before and measure.after is not None:
        return measure.after / measure.before
    return None


def show(value: float | None, unit: str) -> str:
    """Write a number as people do, one that is not known as a dash."""
    return "-" if value is None else quantity(value, unit)


def shown_change(change: Change) -> tuple[str, str, str, str]:
    """Return (where, before, after, remark)."""
    remark = [f"{change.count} sites"] if change.count > 1 and change.kind not in ("wiring", "tensor") else []
    if change.kind == "tensor" and change.count > 1:
        remark = [f"{change.count} tensors"]
    if change.params:
        remark.append(f"{'+' if change.params > 0 else '-'}{show(abs(change.params), 'count')} params")
    return change.where, change.before or "-", change.after or "-", ", ".join(remark)


def to_markdown(difference: Difference, weights: Weights | None = None) -> str:
    """Return a comment for a pull request."""
    return "\n".join(_markdown(difference, weights)) + "\n"


def _markdown(difference: Difference, weights: Weights | None) -> Iterator[str]:
    before, after = difference.before, difference.after
    yield f"### `{before.label}` → `{after.label}`"
    yield ""
    yield verdict(difference, weights)
    yield ""
    yield "| | before | after | |"
    yield "|---|---:|---:|---:|"
    for m in difference.measures:
        r = ratio(m)
        change = "" if r is None else f"{r:.3f}x"
        yield f"| {m.name} | {show(m.before, m.unit)} | {show(m.after, m.unit)} | {change} |"
    for kind, title in TITLES.items():
        rows = [shown_change(c) for c in difference.changes if c.kind == kind]
        if rows:
            yield from ("", f"**{title}**", "", "| where | before | after | |", "|---|---|---|---|")
            yield from (f"| `{w}` | {_cell(b)} | {_cell(a)} | {r} |" for w, b, a, r in rows)
    if weights is not None:
        yield from _weights(weights)


def _weights(weights: Weights) -> Iterator[str]:
    titles, rows = by_depth.totals(weights)
    yield from ("", "**Weights**", "", markdown(by_depth.heat(weights)), "")
    yield "| " + " | ".join(title.replace("|", "\\|") for title in titles) + " |"
    yield "|---|" + "--:|" * (len(titles) - 1)
    yield from ("| " + " | ".join(row) + " |" for row in rows)
    titles, rows = most_changed(weights)
    if rows:
        yield from ("", f"| {' | '.join(titles)} |", "|---|---|---:|---:|---:|")
        yield from (f"| `{name}` | {' | '.join(rest)} |" for name, *rest in rows)
    yield from (f"\n{line}" for line in only_in_one(weights, "`"))


def most_changed(weights: Weights) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Return the titles and rows of a table of the tensors that changed most, and how many are left out."""
    rows: list[tuple[str, ...]] = [
        (
            v.name,
            weights.spots[v.name].role,
            short(v.sums.relative),
            f"{v.sums.cosine:.6f}",
            f"{100 * v.sums.fraction:.3g}",
        )
        for v in weights.changed[:MOST]
    ]
    return ("most changed", "role", "change", "cosine", "changed, %"), rows


def only_in_one(weights: Weights, quote: str = "") -> Iterator[str]:
    """Say in a line each what is equal, and what stands in one side alone or in other shapes."""
    told = {
        "equal": weights.unchanged,
        "only before": weights.missing,
        "only after": weights.extra,
        "of other shapes": weights.reshaped,
    }
    for word, names in told.items():
        if names:
            rest = f" and {len(names) - MOST} more" if len(names) > MOST else ""
            yield f"{word}: {', '.join(f'{quote}{name}{quote}' for name in names[:MOST])}{rest}"


def _cell(text: str) -> str:
    return "–" if text == "-" else "`" + text.replace("|", "\\|") + "`"
