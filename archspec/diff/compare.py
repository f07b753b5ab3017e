"""Two outlines to a `Difference`: what changed, grouped so that a person can read it.

Changes of many sites that are the same change become one line whose indices are written as a selector would
(`blocks[1::2].attn`). Three levels: the text of two specs, the structure from headers, and (elsewhere) values.
Equal headers say nothing of equal values, so a difference without changes is never called identical here.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import Any, Literal

from archspec.diff.outline import Outline, Part, Tensor
from archspec.language.expectations import METRICS

Kind = Literal["operator", "parameter", "removed", "added", "wiring", "config", "tensor", "spec"]


@dataclass(frozen=True)
class Change:
    """One change. `where` reads as a selector or a key path; `before`/`after` are None for added/removed."""

    kind: Kind
    where: str
    before: str | None
    after: str | None
    count: int = 1
    params: int = 0
    """Change of the number of parameters."""


@dataclass(frozen=True)
class Measure:
    """One row of the table of totals. `unit` is `count`, `bytes` or empty."""

    name: str
    before: float | None
    after: float | None
    unit: str = ""


@dataclass(frozen=True)
class Difference:
    before: Outline
    after: Outline
    changes: tuple[Change, ...]
    measures: tuple[Measure, ...]

    def __bool__(self) -> bool:
        return bool(self.changes)


def compare(before: Outline, after: Outline) -> Difference:
    changes = [
        *_part_changes(before, after),
        *_wiring_changes(before, after),
        *_config_changes(before, after),
        *_tensor_changes(before, after),
        *_spec_changes(before, after),
    ]
    return Difference(before, after, tuple(changes), tuple(_measures(before, after)))


def _part_changes(before: Outline, after: Outline) -> Iterator[Change]:
    old, new = ({p.site: p for p in o.parts if p.path is not None} for o in (before, after))
    groups: dict[tuple[Kind, str, str, str | None, str | None], list[tuple[Part, int]]] = {}
    for site in dict.fromkeys([*old, *new]):
        a, b = old.get(site), new.get(site)
        kind = _part_kind(a, b)
        if kind is None:
            continue
        part = a or b
        assert part is not None
        key = (kind, part.group, part.slot, a.description if a else None, b.description if b else None)
        delta = (b.params if b else 0) - (a.params if a else 0)
        groups.setdefault(key, []).append((part, delta))
    for (kind, group, slot, was, now), members in groups.items():
        total = max(o.sizes.get(group, 0) for o in (before, after))
        where = _where(group, slot, [p for p, _ in members], total)
        yield Change(kind, where, was, now, len(members), sum(d for _, d in members))


def _part_kind(a: Part | None, b: Part | None) -> Kind | None:
    if a is None:
        return "added"
    if b is None:
        return "removed"
    if a.operator != b.operator:
        return "operator"
    return "parameter" if dict(a.config) != dict(b.config) or a.params != b.params else None


def _where(group: str, slot: str, parts: list[Part], total: int) -> str:
    indices = [p.index for p in parts if p.index is not None]
    if len(indices) != len(parts):
        return ", ".join(p.site for p in parts)
    return f"{group}[{compress(indices, total)}].{slot}"


def compress(indices: Iterable[int], total: int = 0) -> str:
    """Write indices of `total` blocks as a selector does.

    >>> compress([1, 3, 5], 6), compress([0, 1, 2, 3]), compress([0, 2, 7]), compress([4]), compress([0, 1, 2], 3)
    ('1::2', '0:4', '0,2,7', '4', '*')
    """
    left = sorted(set(indices))
    if total and left == list(range(total)):
        return "*"
    words: list[str] = []
    while left:
        step = left[1] - left[0] if len(left) > 1 else 1
        size = 1
        while size < len(left) and left[size] - left[size - 1] == step:
            size += 1
        if size >= 3:
            run, left = left[:size], left[size:]
            end = "" if total and run[-1] + step >= total else run[-1] + 1
            words.append(f"{run[0]}:{end}" + (f":{step}" if step > 1 else ""))
        else:
            words.append(str(left.pop(0)))
    return ",".join(words)


def _wiring_changes(before: Outline, after: Outline) -> Iterator[Change]:
    for group in dict.fromkeys([*before.wiring, *after.wiring]):
        a, b = before.wiring.get(group, ()), after.wiring.get(group, ())
        if a == b:
            continue
        for tag, i, j, k, m in SequenceMatcher(None, a, b, autojunk=False).get_opcodes():
            if tag != "equal":
                yield Change("wiring", group, _entries(a[i:j]), _entries(b[k:m]), max(j - i, m - k))


def _entries(entries: tuple[str, ...]) -> str | None:
    if not entries:
        return None
    if all(e.isdigit() for e in entries):
        return f"[{compress(map(int, entries))}]"
    return "[" + ", ".join(entries) + "]"


def _config_changes(before: Outline, after: Outline) -> Iterator[Change]:
    a, b = ({k: v for k, v in o.config.items() if not k.startswith("_") and k != "archspec"} for o in (before, after))
    if before.architecture != after.architecture:
        yield Change("config", "architecture", before.architecture, after.architecture)
    yield from _key_changes("config", flatten(a), flatten(b))


def _spec_changes(before: Outline, after: Outline) -> Iterator[Change]:
    if before.spec is None or after.spec is None:
        return
    yield from _key_changes("spec", *(flatten({**s, "edits": None}) for s in (before.spec, after.spec)))
    a, b = (_by_target(s.get("edits") or []) for s in (before.spec, after.spec))
    for name in dict.fromkeys([*a, *b]):
        if a.get(name) != b.get(name):
            yield Change("spec", f"edit {name}", _clauses(a.get(name)), _clauses(b.get(name)))


def _by_target(edits: list[Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    """Key edits by verb and target, so that one more edit moves no other."""
    return {" ".join(map(str, next(iter(edit.items()), ("", "")))): edit for edit in edits}


def _clauses(edit: Mapping[str, Any] | None) -> str | None:
    """Write what follows the target of an edit."""
    if edit is None:
        return None
    return " ".join(f"{key} {_value(value)}" for key, value in list(edit.items())[1:]) or "as it is"


def _value(value: Any) -> str:
    if not isinstance(value, Mapping):
        return str(value)
    name = value.get("op") or value.get("kind") or ""
    return f"{name}({', '.join(f'{k}={v}' for k, v in value.items() if k not in ('op', 'kind'))})"


def _key_changes(kind: Kind, a: Mapping[str, Any], b: Mapping[str, Any]) -> Iterator[Change]:
    for key in dict.fromkeys([*a, *b]):
        if a.get(key, _ABSENT) != b.get(key, _ABSENT):
            yield Change(kind, key, _shown(a.get(key, _ABSENT)), _shown(b.get(key, _ABSENT)))


_ABSENT = object()


def _shown(value: object) -> str | None:
    return None if value is _ABSENT else str(value)


def flatten(value: Any, prefix: str = "") -> dict[str, Any]:
    """Return nested data as key path -> leaf; a text in a list is its own key.

    >>> flatten({"a": {"b": 1}, "expect": ["depth == 14"], "n": [3]})
    {'a.b': 1, 'expect[depth == 14]': 'depth == 14', 'n[0]': 3}
    """
    if isinstance(value, Mapping):
        children = [(f"{prefix}.{key}".lstrip("."), item) for key, item in value.items()]
    elif isinstance(value, list | tuple):
        children = [(f"{prefix}[{item if isinstance(item, str) else n}]", item) for n, item in enumerate(value)]
    else:
        return {prefix: value}
    return {k: v for key, item in children for k, v in flatten(item, key).items()}


def _tensor_changes(before: Outline, after: Outline) -> Iterator[Change]:
    """Compare the tensors that both keep of their base, and those that stand outside all block lists.

    What parts and lists gain or lose is told by their own changes; a change of dtype alone is one line.
    """
    if before.tensors is None or after.tensors is None:
        return
    old, new = _kept(before, after), _kept(after, before)
    casts: dict[tuple[str, str], int] = {}
    for name in dict.fromkeys([*old, *new]):
        a, b = old.get(name), new.get(name)
        if a and b and a.shape == b.shape and a.dtype != b.dtype:
            casts[a.dtype, b.dtype] = casts.get((a.dtype, b.dtype), 0) + 1
        elif (a and b and a.shape != b.shape) or ((a is None) != (b is None) and not name.startswith(_lists(before))):
            yield Change("tensor", name, str(a) if a else None, str(b) if b else None)
    for (was, now), count in casts.items():
        yield Change("tensor", "dtype", was, now, count)


def _kept(outline: Outline, other: Outline) -> dict[str, Tensor]:
    """Return tensor of the base -> itself or, outside block lists, the one that was trained in its place."""
    tensors, lists = outline.tensors or {}, _lists(outline)
    found = {t.base: t for t in tensors.values() if t.base is not None}
    theirs = {t.base for t in (other.tensors or {}).values() if t.base is not None}
    trained = {name for name in theirs & tensors.keys() if name not in found and not name.startswith(lists)}
    return found | {name: tensors[name] for name in sorted(trained)}


def _lists(outline: Outline) -> tuple[str, ...]:
    return tuple(f"{path}." for path in outline.groups.values())


def _measures(before: Outline, after: Outline) -> Iterator[Measure]:
    yield Measure("depth", before.depth, after.depth, "count")
    yield Measure("parameters", before.params, after.params, "count")
    yield Measure("weights", before.weights, after.weights, "bytes")
    old, new = _on_record(before, after), _on_record(after, before)
    for name in dict.fromkeys([*old, *new]):
        yield Measure(name, old.get(name), new.get(name), METRICS[name].unit if name in METRICS else "")


def _on_record(side: Outline, other: Outline) -> Mapping[str, float]:
    """A plain host has no record of its own, but a checkpoint that was compiled from it was measured beside it."""
    its_base = side.kind == "host" and (side.architecture, side.config) == (other.architecture, other.config)
    return side.recorded or (other.of_base if its_base else {})
