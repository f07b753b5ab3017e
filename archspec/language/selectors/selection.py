"""`select`: from a selector to the sites of a host.

A set of sites is a set of positions in `Structure.sites`, so results come out in the host's order without repeats.
Everything that cannot be meant is an error: an unknown name, an index or a slice bound beyond the list, a selection
that is empty.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cached_property

from archspec.diagnostics import ArchspecError, fail, nearest
from archspec.host.structure import Site, Structure
from archspec.language.selectors import expressions as ast

_COMPARE: Mapping[str, Callable[[int, int], bool]] = {
    "==": operator.eq, "!=": operator.ne, "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge,
}  # fmt: skip
_ARITHMETIC: Mapping[str, Callable[[int, int], int]] = {
    "+": operator.add, "-": operator.sub, "*": operator.mul, "//": operator.floordiv, "%": operator.mod,
}  # fmt: skip


def select(
    selector: ast.Selector, structure: Structure, lets: Mapping[str, ast.Selector] | None = None
) -> tuple[Site, ...]:
    """Return the sites that `selector` names, in the host's order. Raises ArchspecError; empty is an error."""
    scope = _Scope(structure, lets or {})
    found = scope.find(selector.expression, selector)
    if not found:
        raise scope.nothing(selector)
    return tuple(structure.sites[k] for k in sorted(found))


@dataclass(frozen=True)
class _Scope:
    """What names mean: those of the host and of `let`. `trail` are the lets being looked up."""

    structure: Structure
    lets: Mapping[str, ast.Selector]
    trail: tuple[str, ...] = ()

    @cached_property
    def blocks(self) -> Mapping[str, list[int]]:
        """Group -> positions of its blocks, by index."""
        groups: dict[str, list[int]] = {name: [] for name in self.structure.groups}
        for position, site in enumerate(self.structure.sites):
            if site.slot == "block":
                groups.setdefault(site.group, []).append(position)
        for positions in groups.values():
            positions.sort(key=lambda k: self.structure.sites[k].index or 0)
        return groups

    @cached_property
    def slots(self) -> Mapping[tuple[str, int | None], list[int]]:
        """(group, index of the block) -> positions of the sites in that block, the block itself left out."""
        found: dict[tuple[str, int | None], list[int]] = {}
        for position, site in enumerate(self.structure.sites):
            if site.slot != "block":
                found.setdefault((site.group, site.index), []).append(position)
        return found

    def find(self, node: ast.Expression, selector: ast.Selector) -> set[int]:
        match node:
            case ast.Name():
                return self._name(node, selector)
            case ast.Glob():
                pattern = _regex(node.pattern)
                return {k for k, site in enumerate(self.structure.sites) if pattern.fullmatch(site.path)}
            case ast.Slotted():
                return self._slot(node, selector)
            case ast.Take():
                return self._take(node, selector)
            case ast.Rank():
                return self._rank(node, selector)
        parts = [self.find(part, selector) for part in node.parts]
        match node.op:
            case "|":
                return set().union(*parts)
            case "&":
                return parts[0].intersection(*parts[1:])
            case "-":
                return parts[0].difference(*parts[1:])

    def _name(self, node: ast.Name, selector: ast.Selector) -> set[int]:
        if node.name in self.lets:
            return self._let(node, selector)
        if node.name in self.blocks:
            return self._indexed(node, selector)
        known = (*self.lets, *self.blocks)
        hints = nearest(node.name, known) or _known("names here are", known)
        span = selector.at((node.at[0], node.at[0] + len(node.name)))
        raise fail("AS170", f"unknown name '{node.name}'", span, *hints)

    def _let(self, node: ast.Name, selector: ast.Selector) -> set[int]:
        name, span = node.name, selector.at(node.at)
        if name in self.trail:
            chain = " -> ".join((*self.trail[self.trail.index(name) :], name))
            raise fail("AS171", f"'{name}' is defined by itself: {chain}", span)
        if name in self.blocks:
            raise fail("AS171", f"let '{name}' hides the host's own '{name}'", span, "choose another name")
        if node.index is not None:
            hint = f"`first 4 of {name}` counts within it; `{name} & blocks[0:4]` counts in the host"
            raise fail("AS171", f"'{name}' is a selection, not a list: it takes no index", span, hint)
        inner = self.lets[name]
        scope = _Scope(self.structure, self.lets, (*self.trail, name))
        return scope.find(inner.expression, inner)

    def _indexed(self, node: ast.Name, selector: ast.Selector) -> set[int]:
        blocks = self.blocks[node.name]
        match node.index:
            case None | ast.Every():
                return set(blocks)
            case ast.Where(test):
                try:
                    return {k for i, k in enumerate(blocks) if _holds(test, i, len(blocks))}
                except ZeroDivisionError:
                    raise fail("AS175", "the predicate divides by zero", selector.at(node.at)) from None
            case ast.Items(parts):
                return {blocks[i] for part in parts for i in _indices(part, node.name, len(blocks), selector)}

    def _slot(self, node: ast.Slotted, selector: ast.Selector) -> set[int]:
        sites = self.structure.sites
        owners = self.find(node.inner, selector)
        span = selector.at((node.at[1] - len(node.slot), node.at[1]))
        stray = next((sites[k] for k in sorted(owners) if sites[k].slot != "block"), None)
        if stray:
            raise fail("AS172", f"{stray.name} is not a block: it has no slots", span, f"leave '.{node.slot}' out")
        if node.slot == "block":
            return owners
        within = [k for owner in owners for k in self.slots.get((sites[owner].group, sites[owner].index), ())]
        found = {k for k in within if sites[k].slot == node.slot}
        if owners and not found:
            known = dict.fromkeys(sites[k].slot for k in sorted(within))
            hints = nearest(node.slot, known) or _known("slots of these blocks are", known)
            raise fail("AS172", f"no slot '{node.slot}' in the selected blocks", span, *hints)
        return found

    def _take(self, node: ast.Take, selector: ast.Selector) -> set[int]:
        found = self._enough(node, selector)
        return set(found[: node.count] if node.which == "first" else found[-node.count :])

    def _enough(self, node: ast.Take | ast.Rank, selector: ast.Selector) -> list[int]:
        """Return what is taken from, in order. Raises ArchspecError when it holds less than is asked for."""
        found = sorted(self.find(node.inner, selector))
        if node.count > len(found):
            message = f"'{node.which} {node.count}' of a selection of {len(found)}"
            raise fail("AS174", message, selector.at(node.at))
        return found

    def _rank(self, node: ast.Rank, selector: ast.Selector) -> set[int]:
        found = self._enough(node, selector)
        values = self._measured(node, selector)
        sites, span = self.structure.sites, selector.at(node.at)
        stray = next((sites[k] for k in found if sites[k].path not in values), None)
        if stray:
            message = f"'{node.measure}' was not measured at {stray.name}"
            raise fail("AS176", message, span, _kinds(self.structure, values))
        sign = -1 if node.which == "top" else 1
        return set(sorted(found, key=lambda k: (sign * values[sites[k].path], k))[: node.count])

    def _measured(self, node: ast.Rank, selector: ast.Selector) -> Mapping[str, float]:
        probe, span = self.structure.probe, selector.at(node.at)
        if probe is None:
            hint = "measure it, `archspec probe HOST -o FILE`, and name the file under `probe`"
            raise fail("AS176", f"'{node.measure}' ranks sites, but the spec names no probe", span, hint)
        if node.measure not in probe.values:
            hints = nearest(node.measure, probe.values) or _known(f"'{probe.file}' holds", list(probe.values))
            raise fail("AS176", f"'{probe.file}' does not hold '{node.measure}'", span, *hints)
        return probe.values[node.measure]

    def nothing(self, selector: ast.Selector) -> ArchspecError:
        """Return the error of an empty selection, with the nearest thing that would not be empty."""
        hints: tuple[str, ...] = ()
        node = selector.expression
        if isinstance(node, ast.Glob):
            near = get_close_matches(node.pattern, [site.path for site in self.structure.sites], n=1, cutoff=0.4)
            hints = tuple(f"a module path near it is '\"{path}\"'" for path in near)
        elif self.blocks:
            hints = _known("the host has", [f"{name}[0:{len(found)}]" for name, found in self.blocks.items()])
        return fail("AS173", f"'{selector}' selects nothing", selector.at((0, len(selector.text))), *hints)


def _kinds(structure: Structure, values: Mapping[str, float]) -> str:
    slots = sorted({site.slot for site in structure.sites if site.path in values})
    return f"it was measured at sites of the slots {', '.join(slots)}" if slots else "it was measured at no site"


def _known(intro: str, words: object) -> tuple[str, ...]:
    listed = list(words) if isinstance(words, (tuple, list, dict)) else []
    return (f"{intro} {', '.join(listed)}",) if listed else ()


def _indices(part: ast.Item | ast.Slice, name: str, count: int, selector: ast.Selector) -> range:
    """Return the block indices of one entry between brackets. Raises ArchspecError when beyond 0 to `count`."""
    hint = f"'{name}' has {count} entries: 0 to {count - 1}, or -{count} to -1"
    if isinstance(part, ast.Item):
        if not -count <= part.value < count:
            raise fail("AS174", f"index {part.value} is out of range", selector.at(part.at), hint)
        return range(part.value % count, part.value % count + 1)
    for bound in (part.start, part.stop):
        if bound is not None and not -count <= bound <= count:
            raise fail("AS174", f"slice bound {bound} is out of range", selector.at(part.at), hint)
    return range(*slice(part.start, part.stop, part.step).indices(count))


def _holds(test: ast.Test, i: int, n: int) -> bool:
    match test:
        case ast.Not(inner):
            return not _holds(inner, i, n)
        case ast.Logic("and", parts):
            return all(_holds(part, i, n) for part in parts)
        case ast.Logic(_, parts):
            return any(_holds(part, i, n) for part in parts)
        case ast.Compare(first, rest):
            left = _value(first, i, n)
            for op, term in rest:
                right = _value(term, i, n)
                if not _COMPARE[op](left, right):
                    return False
                left = right
    return True


def _value(term: ast.Term, i: int, n: int) -> int:
    match term:
        case int():
            return term
        case ast.Variable(name):
            return i if name == "i" else n
        case ast.Arithmetic(op, left, right):
            return _ARITHMETIC[op](_value(left, i, n), _value(right, i, n))


def _regex(pattern: str) -> re.Pattern[str]:
    """Translate a glob of module paths.

    >>> bool(_regex("h.*.attn").fullmatch("h.3.attn")), bool(_regex("h.*").fullmatch("h.3.attn"))
    (True, False)
    """
    words = re.split(r"(\*\*|\*|\?|\[[^\]]+\])", pattern)
    special = {"**": ".*", "*": "[^.]*", "?": "[^.]"}
    return re.compile("".join(special.get(word) or _class(word) for word in words))


def _class(word: str) -> str:
    if word.startswith("[") and word.endswith("]") and len(word) > 2:
        inner = re.escape(word[1:-1].removeprefix("!")).replace(r"\-", "-")
        return f"[{'^' if word[1] == '!' else ''}{inner}]"
    return re.escape(word)
