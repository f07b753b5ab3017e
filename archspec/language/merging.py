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

A parameter of a model counts before one of the same name for all. What mergekit knows and is not supported here is
refused by its name (AS691), what nobody knows as well (AS690): nothing that is written is passed over.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from archspec.diagnostics import Collector, nearest
from archspec.language.parse import read_source
from archspec.language.spec import Base
from archspec.source import Span
from archspec.syntax.tree import Entry, Map, Scalar, Seq, Tree
from archspec.syntax.yaml_syntax import parse_yaml


@dataclass(frozen=True)
class Method:
    """What a method reads. `deltas`: its models are differences from a base, which is none of them."""

    own: frozenset[str] = frozenset()
    """Parameters of one model."""
    shared: frozenset[str] = frozenset()
    """Parameters of the merge."""
    required: frozenset[str] = frozenset()
    deltas: bool = True
    models: tuple[int, int | None] = (1, None)
    """Fewest and most models, the base left out where there are deltas."""
    normalize: bool = False
    """Whether sums are divided by the sum of the weights unless the configuration says."""


_WEIGHT = frozenset({"weight"})
_TRIMMED = _WEIGHT | {"density"}
_TASK = frozenset({"normalize", "lambda"})
METHODS: Mapping[str, Method] = {
    "linear": Method(_WEIGHT, frozenset({"normalize"}), _WEIGHT, deltas=False, normalize=True),
    "slerp": Method(shared=frozenset({"t"}), required=frozenset({"t"}), models=(1, 1)),
    "task_arithmetic": Method(_WEIGHT, _TASK, _WEIGHT),
    "ties": Method(_TRIMMED, _TASK | {"int8_mask"}, _WEIGHT, normalize=True),
    "dare_linear": Method(_TRIMMED, _TASK | {"rescale"}, _WEIGHT),
    "dare_ties": Method(_TRIMMED, _TASK | {"rescale", "int8_mask"}, _WEIGHT),
    "sce": Method(shared=frozenset({"select_topk", "int8_mask"})),
    "passthrough": Method(deltas=False, models=(1, 1)),
}
UNSUPPORTED = frozenset(
    {
        *("nuslerp", "multislerp", "karcher", "della", "della_linear", "breadcrumbs", "breadcrumbs_ties"),
        *("ram", "ramplus_tl", "model_stock", "nearswap", "arcee_fusion"),
    }
)
"""Methods of mergekit that are not here."""
FOREIGN: Mapping[str, str] = {
    "slices": "merge whole models with `models`; blocks are dropped and repeated by a spec's edits",
    "modules": "merge one model at a time",
    "tokenizer": "write `tokenizer_source: base`; tokenizers are copied, never joined",
    "chat_template": "edit tokenizer_config.json of the result",
}
"""Keys of mergekit that are not here, each with what to do instead."""
KEYS = ("merge_method", "base_model", "models", "parameters", "dtype", "out_dtype", "tokenizer_source")
DTYPES: Mapping[str, str] = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}
SWITCHES = frozenset({"normalize", "rescale", "int8_mask"})
FRACTIONS = frozenset({"density", "select_topk"})


@dataclass(frozen=True)
class Rule:
    """Values spread evenly over depth, for tensors whose name holds `filter` (all, when it is None)."""

    values: tuple[float, ...]
    filter: str | None = None
    span: Span | None = field(default=None, compare=False, repr=False)

    def holds(self, name: str) -> bool:
        return self.filter is None or self.filter in name

    def at(self, depth: float) -> float:
        """Return the value at a depth from 0 to 1, linear between neighbours.

        >>> Rule((0.0, 1.0, 3.0)).at(0.75)
        2.0
        """
        place = depth * (len(self.values) - 1)
        low = min(int(place), len(self.values) - 1)
        high = min(low + 1, len(self.values) - 1)
        return self.values[low] + (place - low) * (self.values[high] - self.values[low])


Setting = tuple[Rule, ...]
Settings = Mapping[str, Setting]


def value_of(name: str, tensor: str, depth: float, *settings: Settings) -> float | None:
    """Return a parameter of one tensor: of the first settings that have a rule for it; None where there is none."""
    rules = (rule for group in settings for rule in group.get(name, ()))
    return next((rule.at(depth) for rule in rules if rule.holds(tensor)), None)


@dataclass(frozen=True)
class Model:
    base: Base
    settings: Settings
    span: Span = field(compare=False, repr=False)

    @property
    def name(self) -> str:
        return self.base.from_ + (f"@{self.base.revision}" if self.base.revision else "")


@dataclass(frozen=True)
class Merge:
    """A whole configuration. `models` has what is merged, without a base that is only subtracted."""

    method: str
    models: tuple[Model, ...]
    base: Model | None
    settings: Settings
    dtype: str | None
    """Of the arithmetic, as safetensors spells it; None: each tensor's own."""
    out_dtype: str | None
    tokenizer: str | None
    """Name of the model whose tokenizer the result has; None: the base's, else the first's."""
    span: Span = field(compare=False, repr=False)

    @property
    def all_models(self) -> tuple[Model, ...]:
        """The base first, when there is one."""
        rest = tuple(model for model in self.models if self.base is None or model.base != self.base.base)
        return (self.base, *rest) if self.base else rest


def load_merge(path: Path) -> Merge:
    """Read a configuration. AS690 to AS693, and those of YAML; all mistakes at once."""
    tree = parse_yaml(read_source(path), foreign=True)
    reader = _Reader(Collector())
    found = reader.merge(tree)
    reader.collector.raise_if_errors()
    assert found is not None
    return found


class _Reader:
    """Reads a tree and reports what is wrong with it."""

    def __init__(self, collector: Collector) -> None:
        self.collector = collector

    def wrong(self, message: str, span: Span, *hints: str, code: str = "AS690") -> None:
        self.collector.report(code, message, span, *hints)

    def merge(self, tree: Map) -> Merge | None:
        self._keys(tree)
        method = self._method(tree)
        if method is None:
            return None
        kind = METHODS[method]
        shared = self._settings(tree.entry("parameters"), method, kind.shared | kind.own)
        base_entry = tree.entry("base_model")
        base = self._model(base_entry.value, method) if base_entry else None
        written = self._models(tree, method)
        models = tuple(m for m in written if base is None or not kind.deltas or m.base != base.base)
        self._needs(tree, method, base, models, shared)
        dtype, out = self._dtype(tree, "dtype"), self._dtype(tree, "out_dtype")
        return Merge(method, models, base, shared, dtype, out, self._tokenizer(tree, base, written), tree.span)

    def _keys(self, tree: Map) -> None:
        for entry in tree.entries:
            key = str(entry.key.value)
            if key in FOREIGN:
                self.wrong(f"'{key}' is not supported", entry.key.span, FOREIGN[key], code="AS691")
            elif key not in KEYS:
                self.wrong(f"unknown key '{key}'", entry.key.span, *nearest(key, KEYS))

    def _method(self, tree: Map) -> str | None:
        entry = tree.entry("merge_method")
        known = f"methods are {', '.join(METHODS)}"
        if entry is None:
            self.wrong("no merge_method", tree.span.narrow(0, 1), known)
            return None
        name = entry.value.value if isinstance(entry.value, Scalar) else None
        if isinstance(name, str) and name in METHODS:
            return name
        if name in UNSUPPORTED:
            self.wrong(f"merge_method '{name}' is not supported", entry.value.span, known, code="AS691")
        else:
            near = nearest(str(name), METHODS)
            self.wrong(f"no merge_method '{_shown(entry.value)}'", entry.value.span, *(near or (known,)))
        return None

    def _models(self, tree: Map, method: str) -> tuple[Model, ...]:
        entry = tree.entry("models")
        if entry is None:
            if tree.entry("slices") is None:
                self.wrong("no models", tree.span.narrow(0, 1), "write `models: [{model: PATH}, ...]`")
            return ()
        if not isinstance(entry.value, Seq) or not entry.value.items:
            self.wrong("models is a list", entry.value.span, "write `models: [{model: PATH}, ...]`")
            return ()
        found = [model for item in entry.value.items if (model := self._model(item, method))]
        seen: dict[Base, Span] = {}
        for model in found:
            if model.base in seen:
                hint = f"first on line {seen[model.base].line}; add the weights instead"
                self.wrong(f"'{model.name}' is merged twice", model.span, hint)
            seen.setdefault(model.base, model.span)
        return tuple(found)

    def _model(self, tree: Tree, method: str) -> Model | None:
        """Read an entry of `models`, or `base_model`: a name alone."""
        entries: Entry | None = None
        name = tree
        if isinstance(tree, Map):
            for entry in tree.entries:
                if entry.key.value not in ("model", "parameters"):
                    near = nearest(str(entry.key.value), ("model", "parameters"))
                    self.wrong(f"unknown key '{entry.key.value}'", entry.key.span, *near)
            found, entries = tree.entry("model"), tree.entry("parameters")
            if found is None:
                self.wrong("no model", tree.span.narrow(0, 1), "write `model: PATH`")
                return None
            name = found.value
        settings = self._settings(entries, method, METHODS[method].own)
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
        kind, at = METHODS[method], tree.span_of("merge_method")
        if kind.deltas and base is None and tree.entry("base_model") is None:
            self.wrong(f"{method} needs a base_model", at, "write `base_model: PATH`", code="AS693")
        least, most = kind.models
        if tree.entry("models") and not self.collector.has_errors and not least <= len(models) <= (most or len(models)):
            wanted = f"{least}" if most == least else f"at least {least}"
            beside = " beside its base" if kind.deltas else ""
            message = f"{method} takes {wanted} model{'s' * (wanted != '1')}{beside}, not {len(models)}"
            self.wrong(message, tree.span_of("models"), code="AS693")
        for name in sorted(kind.required - shared.keys()):
            hint = f"write `parameters: {{{name}: 0.5}}`"
            places = [m.span for m in models if name not in m.settings] if name in kind.own else [at]
            for span in places:
                self.wrong(f"{method} needs '{name}'", span, hint, code="AS693")

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


def _shown(tree: Tree) -> str:
    return tree.text if isinstance(tree, Scalar) else tree.span.text[:30].partition("\n")[0]
