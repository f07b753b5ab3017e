"""Merges as data: what each method reads, what a configuration says. `archspec.language.merging` reads it. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from archspec.language.spec import Base
from archspec.source import Span


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
class Part:
    """Blocks `first` to before `last` of a model."""

    model: Model
    first: int
    last: int
    span: Span = field(compare=False, repr=False)

    def __len__(self) -> int:
        return self.last - self.first


@dataclass(frozen=True)
class Slice:
    """A run of blocks of the result: parts of one length, combined block by block."""

    parts: tuple[Part, ...]
    settings: Settings


@dataclass(frozen=True)
class Merge:
    """A whole configuration. `models` has what is merged, without a base that is only subtracted."""

    method: str
    models: tuple[Model, ...]
    slices: tuple[Slice, ...]
    """What is merged instead of whole models; none: whole models are."""
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
        named = (*self.models, *(part.model for run in self.slices for part in run.parts))
        rest = {model.base: model for model in reversed(named) if self.base is None or model.base != self.base.base}
        return (*((self.base,) if self.base else ()), *reversed(rest.values()))
