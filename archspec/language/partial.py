"""A spec with mistakes in it: what of it can be built, and what is left out because of a mistake.

One wrong word must not hide what is wrong elsewhere, and no finding may follow from another one. So a broken edit,
expectation, stanza or `let` is left out, the rest is a `Spec` like any other, and `Gaps` names what is missing: later
stages check what is there, and leave alone what the missing parts could have changed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, get_args

from archspec.diagnostics import Collector, meant
from archspec.language import shapes
from archspec.language.build import Builder, Wrong
from archspec.language.edits import EDITS, Init, Insert, OperatorCall, Replace
from archspec.language.selectors import Selector, names_in
from archspec.language.spec import Base, Spec
from archspec.language.stages import Distill, Eval, Finetune
from archspec.syntax.tree import Entry, Map, Seq, Tree

VERBS = frozenset(cls.verb for cls in EDITS)


@dataclass(frozen=True)
class Broken:
    """What could be read of an edit that has a mistake in it."""

    target: Selector | None = None
    with_: OperatorCall | None = None


@dataclass(frozen=True)
class Gaps:
    """What is missing of a spec."""

    parts: frozenset[str] = frozenset()
    """Keys of the spec, and verbs of edits."""
    lets: frozenset[str] = frozenset()
    edits: tuple[Broken, ...] = ()

    def has(self, *parts: str) -> bool:
        """Say whether something is missing of any of these keys and verbs."""
        return not self.parts.isdisjoint(parts)

    @property
    def of_edits(self) -> bool:
        """Whether any edit is missing."""
        return self.has(*VERBS)

    def also(self, *parts: str) -> Gaps:
        """Return the gaps when these keys or verbs miss something too."""
        return replace(self, parts=self.parts.union(parts))

    def hides(self, selector: Selector, lets: Mapping[str, Selector]) -> bool:
        """Say whether a selector needs a name that is missing, itself or through the names that it uses."""
        return bool(self.lets) and not self.lets.isdisjoint(closure([selector], lets))


WHOLE = Gaps()


@dataclass(frozen=True)
class Partial:
    spec: Spec
    gaps: Gaps = WHOLE


def closure(selectors: Iterable[Selector], lets: Mapping[str, Selector]) -> set[str]:
    """Return the names that selectors use, themselves or through those of `let`."""
    found: set[str] = set()
    waiting = list(selectors)
    while waiting:
        fresh = names_in(waiting.pop().expression) - found
        found |= fresh
        waiting += [lets[name] for name in fresh if name in lets]
    return found


def build_spec(tree: Map, collector: Collector) -> Partial:
    """Build what can be built of a spec, after reporting the rest to the collector."""
    return _Parts(collector).spec(tree)


@dataclass
class _Parts(Builder):
    values: dict[str, Any] = field(default_factory=dict)
    parts: set[str] = field(default_factory=set)
    lets: set[str] = field(default_factory=set)
    edits: list[Broken] = field(default_factory=list)

    def spec(self, tree: Map) -> Partial:
        known = shapes.keys(Spec)
        self.parts |= self.unknown(tree, Spec, known)
        for key, rules in known.items():
            entry = tree.entry(key)
            if entry is not None:
                self._part(key, rules, entry.value)
            elif key not in self.parts:
                self.missing(key, rules, tree, Spec)
        if "edits" in self.parts:
            self.parts |= VERBS
        gaps = Gaps(frozenset(self.parts), frozenset(self.lets), tuple(self.edits))
        return Partial(_seeded(Spec(origin=tree, **{"name": "", **self.values})), gaps)

    def _part(self, key: str, rules: Any, tree: Tree) -> None:
        """Build what stands under one key of the spec: edits, expectations and names one by one, else as a whole."""
        hint = shapes.hints(Spec)[rules.name]
        try:
            if key in ("edits", "expect") and isinstance(tree, Seq):
                inner = get_args(hint)[0]
                self.values[key] = tuple(v for item in tree.items for v in self._item(item, inner, rules.metadata, key))
            elif key == "let" and isinstance(tree, Map):
                self.values[key] = {k: v for entry in tree.entries for k, v in self._name(entry, hint, rules.metadata)}
            else:
                self.values[rules.name] = self.value(tree, hint, rules.metadata, key)
        except Wrong:
            self.parts.add(key)

    def _item(self, tree: Tree, hint: Any, rules: Mapping[str, Any], key: str) -> Iterator[Any]:
        try:
            yield self.value(tree, hint, rules, key)
        except Wrong:
            if key == "edits":
                self._broken(tree)
            else:
                self.parts.add(key)

    def _name(self, entry: Entry, hint: Any, rules: Mapping[str, Any]) -> Iterator[tuple[str, Selector]]:
        try:
            yield from self.value(Map((entry,), entry.key.span), hint, rules, "let").items()
        except Wrong:
            self.lets.add(str(entry.key.value))

    def _broken(self, tree: Tree) -> None:
        """Note an edit that cannot be built. One whose verb is no word, or near none, may have been any."""
        entries = tree.entries if isinstance(tree, Map) else ()
        words = [str(entry.key.value) for entry in entries]
        verbs = [word for word in words if word in VERBS]
        near = meant(words[0], VERBS) if words and not verbs else None
        verb = verbs[0] if len(verbs) == 1 else near
        self.parts |= {verb} if verb else VERBS
        aside = Builder(Collector())
        found = dict(zip(words, entries, strict=True))
        target = aside.attempt(found.get(verb or ""), Selector)
        calls = verb in (Replace.verb, Insert.verb)
        self.edits.append(Broken(target, aside.attempt(found.get("with"), OperatorCall) if calls else None))


SEEDED = (Base, Init, Distill, Finetune, Eval)
"""What the spec's `seed` is for: not the choice of a subset of the data, which is what a result depends on."""


def _seeded(spec: Spec) -> Spec:
    """Give the spec's seed to every init and stage that states none of its own."""
    if spec.seed is None:
        return spec
    stages = {name: _with_seed(getattr(spec, name), spec.seed) for name in ("distill", "finetune", "eval")}
    if spec.base is not None and spec.base.weights == "random":
        stages["base"] = _with_seed(spec.base, spec.seed)
    edits = (replace(e, init=_with_seed(e.init, spec.seed)) if hasattr(e, "init") else e for e in spec.edits)
    return replace(spec, edits=tuple(edits), **stages)


def _with_seed(node: Any, seed: int) -> Any:
    stated = isinstance(node, SEEDED) and node.origin is not None and node.origin.entry("seed") is not None
    return node if stated or node is None else replace(node, seed=seed)
