"""The choice of a search as a spec like any other: the spec that was searched, with edits in place of `search`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from archspec.compiler.search.found import Found
from archspec.compiler.search.price import Priced
from archspec.host.structure import Site
from archspec.language.expectations import METRICS
from archspec.language.merge import moved
from archspec.language.parse import load_tree, parse
from archspec.language.selectors.indices import brackets
from archspec.language.spec import Spec
from archspec.quantity import quantity
from archspec.runtime.store.files import replace_text, writing
from archspec.source import Source
from archspec.syntax.fmt import format_yaml
from archspec.syntax.tree import plain
from archspec.syntax.yaml_syntax import parse_yaml


def write(path: Path, out: Path, found: Found) -> None:
    """Write the spec to `out`, YAML, paths relative to its folder; it is parsed again before it is written."""
    tree: Any = plain(moved(load_tree(path), Spec, path.parent, out.parent))
    for key in ("search", "extends"):
        tree.pop(key, None)
    tree |= {"name": out.name.split(".")[0], "edits": list(_edits(found))}
    text = _head(path, found) + format_yaml(parse_yaml(Source(str(out), json.dumps(tree))))
    parse(Source(str(out), text))
    with writing(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        replace_text(out, text)


def _edits(found: Found) -> Iterator[dict[str, Any]]:
    search = found.choices.search
    init = {"kind": "least_squares", "samples": search.samples, "ridge": search.ridge, "seed": search.seed}
    for place, candidate in enumerate(found.choices.candidates):
        sites = [site for site in found.choices.sites if found.choice.operators[site.path] == place]
        if sites:
            learns = "least_squares" in next(iter(candidate.configs.values())).inits
            call = {"op": candidate.call.op, **candidate.call.params}
            yield {"replace": _selector(sites), "with": call} | ({"init": init} if learns else {})


def _selector(sites: Sequence[Site]) -> str:
    """Name sites as shortly as their lists of blocks allow.

    Sites outside of a list, or of a slot that a block has several of, stand with their own names.
    """
    groups: dict[tuple[str, str], list[int]] = {}
    alone = []
    for site in sites:
        if site.index is None or site.name.startswith('"'):
            alone.append(site.name)
        else:
            groups.setdefault((site.group, site.slot), []).append(site.index)
    parts = [
        f"{group}{brackets(found, max(found) + 2)}" + ("" if slot == "block" else f".{slot}")
        for (group, slot), found in groups.items()
    ]
    return " | ".join([*parts, *alone])


def _head(path: Path, found: Found) -> str:
    """Return the comment above the spec: what the choice comes to, and what else there was."""
    lines = [f"Found by `archspec search` in {path.name}: the least sum of scores, {found.choice.score:.4g}, within"]
    lines += map(_held, found.budget, found.choice.values)
    lines.append("A score is the squared error of the answer, relative to its size, when this site alone changes.")
    lines += [f"  {number}  {name}" for number, name in found.legend]
    head = ("site", *(number for number, _ in found.legend), "chosen")
    table = [head, *map(found.row, found.choices.sites)]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines += ["  " + "  ".join(map(str.ljust, row, widths)) for row in table]
    return "".join(f"# {line.rstrip()}\n" for line in lines)


def _held(metric: Priced, value: float) -> str:
    unit = METRICS[metric.expectation.metric].unit
    told = quantity(value if unit == "seconds" else round(value), unit)
    return f"  {metric.expectation.text.strip()}: {told}, {value / metric.host:.3f}x of the host's"
