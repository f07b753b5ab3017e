"""The configuration of a merge: mergekit's YAML, read strictly.

    merge_method: ties
    base_model: ./base
    models:
      - model: ./chat
        parameters: {weight: 1.0, density: 0.5}
      - model: ./math
        parameters: {weight: [0.0, 1.0]}              # a gradient over depth
    parameters:
      lambda: [{filter: mlp, value: 0.5}, {value: 1}]  # the first filter that is part of a tensor's name counts
    dtype: float32

    slices:                                           # instead of models: blocks, one slice behind the other
      - sources: [{model: ./chat, layer_range: [0, 24]}]
      - sources: [{model: ./math, layer_range: [8, 32]}]

A parameter of a model counts before one of its slice, and that before one for all. What mergekit knows and is not
supported here is refused by its name (AS691), what nobody knows as well (AS690): nothing is passed over.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

from archspec.diagnostics import Collector, nearest
from archspec.language.merges import (
    DTYPES,
    FRACTIONS,
    METHODS,
    SWITCHES,
    Merge,
    Method,
    Model,
    Part,
    Rule,
    Setting,
    Settings,
    Slice,
)
from archspec.language.parse import read_source
from archspec.language.spec import Base
from archspec.source import Span
from archspec.syntax.tree import Entry, Map, Scalar, Seq, Tree
from archspec.syntax.yaml_syntax import parse_yaml

UNSUPPORTED = frozenset(
    {
        *("nuslerp", "multislerp", "karcher", "della", "della_linear", "breadcrumbs", "breadcrumbs_ties"),
        *("ram", "ramplus_tl", "model_stock", "nearswap", "arcee_fusion"),
    }
)
"""Methods of mergekit that are not here."""
FOREIGN: Mapping[str, str] = {
    "modules": "merge one model at a time",
    "tokenizer": "write `tokenizer_source: base`; tokenizers are copied, never joined",
    "chat_template": "edit tokenizer_config.json of the result",
}
"""Keys of mergekit that are not here, each with what to do instead."""
SOURCES = "sources: [{model: PATH, layer_range: [0, 8]}]"
KEYS = ("merge_method", "base_model", "models", "slices", "parameters", "dtype", "out_dtype", "tokenizer_source")

ANY = "a merge"
KINDS: Mapping[str, Method] = {
    **METHODS,
    ANY: Method(
        frozenset().union(*(kind.own for kind in METHODS.values())),
        frozenset().union(*(kind.shared for kind in METHODS.values())),
        deltas=False,
    ),
}
"""The methods, and one that reads what any of them does: for the rest of a file whose method is unknown."""


def load_merge(path: Path) -> Merge:
    """Read a configuration. AS690 to AS693, and those of YAML; all mistakes at once."""
    tree = parse_yaml(read_source(path), foreign="`merge_method: ...` and `models: ...`")
    reader = _Reader(Collector())
    found = reader.merge(tree)
    reader.collector.raise_if_errors()
    return found


class _Reader:
    """Reads a tree and reports what is wrong with it."""

    def __init__(self, collector: Collector) -> None:
        self.collector = collector

    def wrong(self, message: str, span: Span, *hints: str, code: str = "AS690") -> None:
        self.collector.report(code, message, span, *hints)

    def merge(self, tree: Map) -> Merge:
        self._keys(tree)
        method = self._method(tree)
        kind = KINDS[method]
        shared = self._settings(tree.entry("parameters"), method, kind.shared | kind.own)
        base_entry = tree.entry("base_model")
        base = self._model(base_entry.value, method) if base_entry else None
        written, slices = self._models(tree, method), self._slices(tree, method)
        models = _beside(base, written, kind)
        for run in slices:
            self._needs_in_slice(method, base, run, shared)
        self._needs(tree, method, base, models, shared)
        dtype, out = self._dtype(tree, "dtype"), self._dtype(tree, "out_dtype")
        found = Merge(method, models, slices, base, shared, dtype, out, None, tree.span)
        return replace(found, tokenizer=self._tokenizer(tree, base, found.all_models))

    def _keys(self, tree: Map) -> None:
        for entry in tree.entries:
            key = str(entry.key.value)
            if key in FOREIGN:
                self.wrong(f"'{key}' is not supported", entry.key.span, FOREIGN[key], code="AS691")
            elif key not in KEYS:
                longer = [f"did you mean '{known}'?" for known in KEYS if key in known.split("_")]
                self.wrong(f"unknown key '{key}'", entry.key.span, *(nearest(key, KEYS) or longer[:1]))

    def _method(self, tree: Map) -> str:
        """Return the method; ANY where there is none, so that the rest is read all the same."""
        entry = tree.entry("merge_method")
        known = f"methods are {', '.join(METHODS)}"
        if entry is None:
            self.wrong("no merge_method", tree.span.narrow(0, 1), known)
            return ANY
        name = entry.value.value if isinstance(entry.value, Scalar) else None
        if isinstance(name, str) and name in METHODS:
            return name
        if name in UNSUPPORTED:
            self.wrong(f"merge_method '{name}' is not supported", entry.value.span, known, code="AS691")
        else:
            near = nearest(str(name), METHODS)
            self.wrong(f"no merge_method '{_shown(entry.value)}'", entry.value.span, *(near or (known,)))
        return ANY

    def _models(self, tree: Map, method: str) -> tuple[Model, ...]:
        entry = tree.entry("models")
        if entry is None:
            if tree.entry("slices") is None:
                self.wrong("no models", tree.span.narrow(0, 1), "write `models: [{model: PATH}, ...]`")
            return ()
        if (slices := tree.entry("slices")) is not None:
            self.wrong("models and slices", slices.key.span, "write one of the two")
        if not isinstance(entry.value, Seq) or not entry.value.items:
            self.wrong("models is a list", entry.value.span, "write `models: [{model: PATH}, ...]`")
            return ()
        found = [model for item in entry.value.items if (model := self._model(item, method))]
        self._once(found)
        return tuple(found)

    def _once(self, models: Iterable[Model]) -> None:
        seen: dict[Base, Span] = {}
        for model in models:
            if model.base in seen:
                hint = f"first on line {seen[model.base].line}; add the weights instead"
                self.wrong(f"'{model.name}' is merged twice", model.span, hint)
            seen.setdefault(model.base, model.span)

    def _slices(self, tree: Map, method: str) -> tuple[Slice, ...]:
        entry = tree.entry("slices")
        if entry is None:
            return ()
        items = entry.value.items if isinstance(entry.value, Seq) else ()
        if not items:
            self.wrong("slices is a list of sources", entry.value.span, f"write `slices: [{{{SOURCES}}}, ...]`")
        return tuple(run for item in items if (run := self._slice(item, method)))

    def _slice(self, tree: Tree, method: str) -> Slice | None:
        entry = tree.entry("sources") if isinstance(tree, Map) else None
        if not isinstance(tree, Map) or entry is None:
            self.wrong("a slice without sources", tree.span, f"write `{SOURCES}`")
            return None
        self._known(tree, ("sources", "parameters"), ("base_model", "residual_weight"))
        settings = self._settings(tree.entry("parameters"), method, KINDS[method].own | KINDS[method].shared)
        items = entry.value.items if isinstance(entry.value, Seq) else ()
        if not items:
            message = "'sources' is a list of {model, layer_range}"
            self.wrong(message, entry.value.span, f"write `{SOURCES}`", code="AS692")
        parts = [part for item in items if (part := self._part(item, method))]
        self._once(part.model for part in parts)
        for part in parts[1:]:
            if len(part) != len(parts[0]):
                hint = "all sources of a slice have as many blocks"
                self.wrong(f"{len(part)} blocks beside {len(parts[0])}", part.span, hint, code="AS699")
        return Slice(tuple(parts), settings) if parts else None

    def _part(self, tree: Tree, method: str) -> Part | None:
        model = self._model(tree, method, ("layer_range",))
        ends = self._range(tree) if isinstance(tree, Map) or model else None
        return Part(model, *ends) if model and ends else None

    def _range(self, tree: Tree) -> tuple[int, int, Span] | None:
        entry = tree.entry("layer_range") if isinstance(tree, Map) else None
        hint = "write `layer_range: [0, 8]`: from the first block to before the last"
        if entry is None:
            self.wrong("a source of a slice without layer_range", tree.span, hint)
            return None
        items = entry.value.items if isinstance(entry.value, Seq) else ()
        first, last = (getattr(item, "value", None) for item in items) if len(items) == 2 else (None, None)
        if type(first) is not int or type(last) is not int or not 0 <= first < last:
            self.wrong(f"layer_range '{_shown(entry.value)}' is no range", entry.value.span, hint, code="AS692")
            return None
        return first, last, entry.value.span

    def _known(self, tree: Map, keys: tuple[str, ...], foreign: tuple[str, ...] = ()) -> None:
        for entry in tree.entries:
            key = str(entry.key.value)
            if key in foreign:
                self.wrong(f"'{key}' of a slice is not supported", entry.key.span, "leave it out", code="AS691")
            elif key not in keys:
                self.wrong(f"unknown key '{key}'", entry.key.span, *nearest(key, keys))

    def _model(self, tree: Tree, method: str, more: tuple[str, ...] = ()) -> Model | None:
        """Read an entry of `models`, or `base_model`: a name alone. `more`: keys that others read."""
        entries: Entry | None = None
        name = tree
        if isinstance(tree, Map):
            self._known(tree, ("model", "parameters", *more))
            found, entries = tree.entry("model"), tree.entry("parameters")
            if found is None:
                self.wrong("no model", tree.span.narrow(0, 1), "write `model: PATH`")
                return None
            name = found.value
        settings = self._settings(entries, method, KINDS[method].own)
        if not isinstance(name, Scalar) or not isinstance(name.value, str) or not name.value:
            self.wrong(f"'{_shown(name)}' is no model", name.span, "write a path or a hub id")
            return None
        path, _, revision = name.value.partition("@")
        if "+" in name.value:
            hint = "merge the adapter into its model first (peft: merge_and_unload)"
            self.wrong("an adapter on a model ('+') is not supported", name.span, hint, code="AS691")
        origin = Map((Entry(Scalar("from", "from", name.span), name),), name.span)
        return Model(Base(origin=origin, from_=path, revision=revision or None), settings, name.span)

    def _settings(self, entry: Entry | None, method: str, known: frozenset[str]) -> Settings:
        if entry is None:
            return {}
        if not isinstance(entry.value, Map):
            self.wrong("parameters is a map", entry.value.span, "write `parameters: {weight: 1.0}`")
            return {}
        found: dict[str, Setting] = {}
        for item in entry.value.entries:
            key = str(item.key.value)
            if key in known:
                found[key] = self._setting(key, item.value)
            else:
                names = ", ".join(sorted(known)) or "none"
                hints = nearest(key, known) or (f"it reads here: {names}",)
                self.wrong(f"{method} reads no parameter '{key}' here", item.key.span, *hints)
        return found

    def _setting(self, key: str, tree: Tree) -> Setting:
        if isinstance(tree, Seq) and tree.items and all(isinstance(item, Map) for item in tree.items):
            return tuple(rule for item in tree.items if isinstance(item, Map) and (rule := self._rule(key, item)))
        return (Rule(self._values(key, tree), None, tree.span),)

    def _rule(self, key: str, tree: Map) -> Rule | None:
        for entry in tree.entries:
            if entry.key.value not in ("filter", "value"):
                near = nearest(str(entry.key.value), ("filter", "value"))
                self.wrong(f"unknown key '{entry.key.value}'", entry.key.span, *near)
        value, filter_ = tree.entry("value"), tree.entry("filter")
        if value is None:
            self.wrong("a filter without a value", tree.span, "write `{filter: TEXT, value: NUMBER}`")
            return None
        text = filter_.value.value if filter_ and isinstance(filter_.value, Scalar) else None
        if filter_ and not isinstance(text, str) and not (isinstance(filter_.value, Scalar) and text is None):
            self.wrong("a filter is a part of a tensor's name", filter_.value.span, "write it in quotes")
            return None
        wanted = text if isinstance(text, str) and text != "*" else None
        return Rule(self._values(key, value.value), wanted, filter_.value.span if filter_ else tree.span)

    def _values(self, key: str, tree: Tree) -> tuple[float, ...]:
        items = tree.items if isinstance(tree, Seq) and tree.items and key not in SWITCHES else (tree,)
        return tuple(self._value(key, item) for item in items)

    def _value(self, key: str, tree: Tree) -> float:
        value = tree.value if isinstance(tree, Scalar) else None
        if key in SWITCHES:
            if not isinstance(value, bool):
                self.wrong(f"'{key}' is true or false, not '{_shown(tree)}'", tree.span, code="AS692")
            return float(value is True)
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            hint = "write a number, a list of numbers over depth, or a list of {filter, value}"
            self.wrong(f"'{key}' is a number, not '{_shown(tree)}'", tree.span, hint, code="AS692")
            return 0.0
        if key in FRACTIONS and not 0 <= value <= 1:
            self.wrong(f"'{key}' is a fraction from 0 to 1, not {value}", tree.span, code="AS692")
        return float(value)

    def _needs(self, tree: Map, method: str, base: Model | None, models: tuple[Model, ...], shared: Settings) -> None:
        """Report what the method needs and is not there."""
        kind, at = KINDS[method], tree.span_of("merge_method")
        if kind.deltas and base is None and tree.entry("base_model") is None:
            self.wrong(f"{method} needs a base_model", at, "write `base_model: PATH`", code="AS693")
        if tree.entry("models"):
            self._enough(method, models, tree.span_of("models"))
        for name in sorted(kind.required - shared.keys()):
            hint = f"write `parameters: {{{name}: 0.5}}`"
            slices = self._settled_in_slices(tree, name)
            places = [m.span for m in models if name not in m.settings] if name in kind.own else [at] * (not slices)
            for span in places:
                self.wrong(f"{method} needs '{name}'", span, hint, code="AS693")

    def _settled_in_slices(self, tree: Map, name: str) -> bool:
        """Whether every slice has a parameter of the merge of its own."""
        entry = tree.entry("slices")
        items = entry.value.items if entry and isinstance(entry.value, Seq) else ()
        own = [item.entry("parameters") for item in items if isinstance(item, Map)]
        return bool(own) and all(e and isinstance(e.value, Map) and e.value.entry(name) for e in own)

    def _enough(self, method: str, models: tuple[Model, ...], span: Span) -> None:
        kind = KINDS[method]
        least, most = kind.models
        if not self.collector.has_errors and not least <= len(models) <= (most or len(models)):
            wanted = f"{least}" if most == least else f"at least {least}"
            beside = " beside its base" if kind.deltas else ""
            message = f"{method} takes {wanted} model{'s' * (wanted != '1')}{beside}, not {len(models)}"
            self.wrong(message, span, code="AS693")

    def _needs_in_slice(self, method: str, base: Model | None, run: Slice, shared: Settings) -> None:
        """Report what a slice lacks: its part of the base, models, parameters of its models."""
        kind, models = KINDS[method], tuple(part.model for part in run.parts)
        if kind.deltas and base and all(model.base != base.base for model in models):
            hint = f"add `{{model: {base.name}, layer_range: [...]}}` to its sources"
            self.wrong("a slice without a part of the base", run.parts[0].span, hint, code="AS693")
        beside = _beside(base, models, kind)
        self._enough(method, beside, run.parts[0].span)
        for name in sorted((kind.required & kind.own) - shared.keys() - run.settings.keys()):
            for model in (model for model in beside if name not in model.settings):
                self.wrong(f"{method} needs '{name}'", model.span, f"write `parameters: {{{name}: 0.5}}`", code="AS693")

    def _dtype(self, tree: Map, key: str) -> str | None:
        entry = tree.entry(key)
        if entry is None:
            return None
        name = entry.value.value if isinstance(entry.value, Scalar) else None
        if not isinstance(name, str) or name not in DTYPES:
            near = nearest(str(name), DTYPES) or (f"write one of {', '.join(DTYPES)}",)
            self.wrong(f"{key} '{_shown(entry.value)}' is not supported", entry.value.span, *near, code="AS692")
            return None
        return DTYPES[name]

    def _tokenizer(self, tree: Map, base: Model | None, models: tuple[Model, ...]) -> str | None:
        entry = tree.entry("tokenizer_source")
        if entry is None:
            return None
        name = entry.value.value if isinstance(entry.value, Scalar) else None
        if name == "base" and base:
            return base.name
        names = [model.name for model in (*((base,) if base else ()), *models)]
        if isinstance(name, str) and name in names:
            return name
        hint = "write `base`, or one of the models: tokenizers are copied, never joined"
        self.wrong(f"tokenizer_source '{_shown(entry.value)}' is not supported", entry.value.span, hint, code="AS691")
        return None


def _beside(base: Model | None, models: tuple[Model, ...], kind: Method) -> tuple[Model, ...]:
    """Return what is merged: without a base that is only subtracted."""
    return tuple(model for model in models if base is None or not kind.deltas or model.base != base.base)


def _shown(tree: Tree) -> str:
    return tree.text if isinstance(tree, Scalar) else tree.span.text[:30].partition("\n")[0]
