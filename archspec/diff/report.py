"""A `Difference` as JSON and Markdown, and as rows that the terminal prints. No I/O here."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from archspec.diff.compare import Change, Difference, Measure
from archspec.quantity import quantity

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


def verdict(difference: Difference, values: list[Any] | None) -> str:
    """Say in one sentence what is known. Equal headers alone are never called identical."""
    if difference.changes:
        sites = sum(c.count for c in difference.changes if c.kind in ("operator", "parameter", "removed", "added"))
        return f"{len(difference.changes)} changes, {sites} sites"
    if values is None:
        return "same structure; values were not compared (--values does)"
    changed = sum(not v.equal for v in values)
    if changed:
        return f"same structure; {changed} of {len(values)} tensors have other values"
    return f"same structure; all {len(values)} tensors equal in value"


def to_json(difference: Difference, values: list[Any] | None = None) -> dict[str, Any]:
    """Return the documented form: `format_version`, both sides, `changes`, `measures`, and `values` when compared."""
    return {
        "format_version": FORMAT_VERSION,
        "before": _side(difference.before),
        "after": _side(difference.after),
        "verdict": verdict(difference, values),
        "changes": [vars(c) for c in difference.changes],
        "measures": [{**vars(m), "ratio": ratio(m)} for m in difference.measures],
        "values": None if values is None else [{**vars(v), "relative": v.relative} for v in values],
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


def to_markdown(difference: Difference, values: list[Any] | None = None) -> str:
    """Return a comment for a pull request."""
    return "\n".join(_markdown(difference, values)) + "\n"


def _markdown(difference: Difference, values: list[Any] | None) -> Iterator[str]:
    before, after = difference.before, difference.after
    yield f"### `{before.label}` → `{after.label}`"
    yield ""
    yield verdict(difference, values)
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
    if values:
        yield from ("", "**Values**", "", "| tensor | relative change | cosine |", "|---|---:|---:|")
        changed = sorted((v for v in values if not v.equal), key=lambda v: -v.relative)
        yield from (f"| `{v.name}` | {v.relative:.3g} | {v.cosine:.5f} |" for v in changed[:20])
        if len(changed) > 20:
            yield f"| and {len(changed) - 20} more | | |"


def _cell(text: str) -> str:
    return "–" if text == "-" else "`" + text.replace("|", "\\|") + "`"
