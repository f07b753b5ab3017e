"""What a merge will do to each tensor, from its configuration and the headers of its models; no weight is read."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from archspec.compiler.merging.slices import Place, blocks_of, check_ranges, sliced
from archspec.diagnostics import ArchspecError, Collector, fail
from archspec.host.headers import BITS
from archspec.host.locate import Located, locate, structure_of
from archspec.host.structure import TensorHeader
from archspec.language.merges import FRACTIONS, METHODS, SWITCHES, Merge, Model, Settings, value_of
from archspec.language.spec import Base

FLOATS = ("BF16", "F16", "F32")
"""Dtypes that are merged. Others are copied where all models have the same values."""
MOST_NAMED = 8
SMALL = 1e-8
"""Sums of weights below it do not divide."""
_LAYER = re.compile(r"^(.*?)\.(\d+)\.")
DEFAULTS: Mapping[str, float] = {"density": 1.0, "lambda": 1.0, "select_topk": 1.0, "rescale": 1.0}


@dataclass(frozen=True)
class Source:
    """One model of a merge. `tensors`: without repeats of tied ones."""

    model: Model
    located: Located
    config: Mapping[str, Any]
    architecture: str
    tensors: Mapping[str, TensorHeader]


@dataclass(frozen=True)
class Task:
    """One tensor of the result. `weights` and `densities`: of each model; `options`: by the names of parameters."""

    name: str
    method: str
    shape: tuple[int, ...]
    work: str
    """Dtype of the arithmetic: what models and deltas are rounded to."""
    out: str
    base: TensorHeader | None
    models: tuple[TensorHeader, ...]
    weights: tuple[float, ...]
    densities: tuple[float, ...]
    options: Mapping[str, float]

    @property
    def sources(self) -> tuple[TensorHeader, ...]:
        return ((self.base,) if self.base else ()) + self.models

    @property
    def rule(self) -> str:
        """What is done, for people: the method and its values; equal for tensors that are treated alike."""
        parts = [f"{name} {', '.join(f'{v:g}' for v in values)}" for name, values in self._values() if values]
        return " ".join([self.method, *parts])

    def _values(self) -> Iterator[tuple[str, tuple[float, ...]]]:
        kind = METHODS[self.method]
        yield "weight", self.weights if "weight" in kind.own else ()
        yield "density", self.densities if "density" in kind.own else ()
        for name in sorted(kind.shared - SWITCHES):
            yield name, (self.options[name],)


@dataclass(frozen=True)
class Layout:
    merge: Merge
    sources: tuple[Source, ...]
    """All models, the base first."""
    tasks: tuple[Task, ...]

    blocks: tuple[int, ...] | None = None
    """Of a merge of slices: the block that each block of the result is, of the first source of its slice."""

    @property
    def reads(self) -> int:
        """Bytes of the inputs."""
        return sum(header.end - header.start for task in self.tasks for header in task.sources)

    @property
    def writes(self) -> int:
        return sum(task.models[0].count * BITS[task.out] // 8 for task in self.tasks)


def lay_out(merge: Merge, near: Path) -> Layout:
    """Find the models and settle every tensor; relative paths start at `near`. AS6xx, all at once."""
    problems = Collector()
    sources = [source for model in merge.all_models if (source := _source(model, near, problems))]
    problems.raise_if_errors()
    _check_alike(sources, problems)
    _check_filters(merge, sources[0], problems)
    if merge.slices:
        check_ranges(merge, sources, problems)
    problems.raise_if_errors()
    tensors = {source.model.base: source.tensors for source in sources}
    places = sliced(merge, sources[0].tensors) if merge.slices else _whole(merge, sources[0].tensors)
    tasks = tuple(_task(merge, tensors, place) for place in sorted(places, key=lambda place: place.name))
    _check_sums(merge, tasks)
    return Layout(merge, tuple(sources), tasks, blocks_of(merge) if merge.slices else None)


def _whole(merge: Merge, names: Mapping[str, TensorHeader]) -> Iterator[Place]:
    for name, depth in depths_of(names).items():
        models = (*merge.models, *((merge.base,) if merge.base and METHODS[merge.method].deltas else ()))
        yield Place(name, depth, tuple((model, name) for model in models), {})


def _source(model: Model, near: Path, problems: Collector) -> Source | None:
    try:
        located = locate(model.base, near)
        structure = structure_of(located)
        if not structure.tensors:
            raise fail("AS694", f"'{model.name}' has no weights", model.span, "name a folder with safetensors files")
    except ArchspecError as error:
        problems.add(error.diagnostics)
        return None
    return Source(model, located, structure.config, structure.architecture, structure.tensors)


def _check_alike(sources: list[Source], problems: Collector) -> None:
    """Report every model whose class, names, shapes or dtypes are not those of the first."""
    first = sources[0]
    for other in sources[1:]:
        span, name = other.model.span, other.model.name
        if other.architecture != first.architecture:
            message = f"'{name}' is a {other.architecture}, '{first.model.name}' a {first.architecture}"
            problems.report("AS697", message, span, "only models of one class are merged")
            continue
        missing = [tensor for tensor in first.tensors if tensor not in other.tensors]
        if missing:
            problems.report("AS694", f"'{name}' lacks {_listed(missing)}", span, f"'{first.model.name}' has them")
        extra = [tensor for tensor in other.tensors if tensor not in first.tensors]
        if extra:
            problems.report("AS694", f"'{name}' has {_listed(extra)}", span, f"'{first.model.name}' lacks them")
        shapes = [
            f"{tensor} {other.tensors[tensor].shape}, not {header.shape}"
            for tensor, header in first.tensors.items()
            if tensor in other.tensors and other.tensors[tensor].shape != header.shape
        ]
        if shapes:
            problems.report("AS695", f"'{name}' has other shapes: {_listed(shapes)}", span, _vocabulary(first, other))
    for source in sources:
        odd = [f"{name} ({h.dtype})" for name, h in source.tensors.items() if h.dtype not in FLOATS]
        if odd:
            hint = f"tensors of {', '.join(FLOATS)} are merged; save the model in one of these"
            problems.report("AS696", f"'{source.model.name}' holds {_listed(odd)}", source.model.span, hint)


def _listed(names: list[str]) -> str:
    rest = len(names) - MOST_NAMED
    return ", ".join(names[:MOST_NAMED]) + (f" and {rest} more" if rest > 0 else "")


def _vocabulary(first: Source, other: Source) -> str:
    a, b = first.config.get("vocab_size"), other.config.get("vocab_size")
    if a != b:
        return f"the vocabularies have {a} and {b} entries: resize one model's embeddings first"
    return "only models of one shape are merged"


def _check_filters(merge: Merge, source: Source, problems: Collector) -> None:
    """A filter that no tensor has is a mistake: it would do nothing."""
    for settings in (merge.settings, *(model.settings for model in merge.models)):
        for rule in (rule for setting in settings.values() for rule in setting):
            if not any(rule.holds(name) for name in source.tensors):
                hint = f"a filter is part of a name such as {next(iter(source.tensors))}"
                problems.report("AS698", f"no tensor's name holds '{rule.filter}'", rule.span, hint)


def _check_sums(merge: Merge, tasks: Sequence[Task]) -> None:
    """Refuse a mean over weights that sum to 0: mergekit writes infinities there. AS692."""
    found = [t.name for t in tasks if t.method == "linear" and t.options["normalize"] and abs(sum(t.weights)) < SMALL]
    if not found:
        return
    places = (*(model.settings for model in merge.models), *(run.settings for run in merge.slices), merge.settings)
    spans = [rule.span for settings in places for rule in settings.get("weight", ()) if rule.span]
    more = f" and {len(found) - 1} more" if len(found) > 1 else ""
    message = f"the weights of '{found[0]}'{more} sum to 0, which linear divides by"
    hint = "write `parameters: {normalize: false}` to add up without dividing; a difference is `task_arithmetic`"
    raise fail("AS692", message, spans[0] if spans else merge.span.narrow(0, 1), hint)


def depths_of(names: Mapping[str, TensorHeader]) -> dict[str, float]:
    """Return the depth of each tensor: its block's index over the last index of its list, as in mergekit. What
    stands in no list has depth 0, embeddings and heads alike."""
    last: dict[str, int] = {}
    found = {name: _LAYER.match(name) for name in names}
    for match in filter(None, found.values()):
        last[match[1]] = max(last.get(match[1], 0), int(match[2]))
    return {name: _depth(int(match[2]), last[match[1]]) if match else 0.0 for name, match in found.items()}


def _depth(index: int, last: int) -> float:
    return index / last if last else 1.0


def _task(merge: Merge, tensors: Mapping[Base, Mapping[str, TensorHeader]], place: Place) -> Task:
    kind = METHODS[merge.method]
    subtracted = merge.base.base if merge.base and kind.deltas else None
    merged = [(model, name) for model, name in place.parts if model.base != subtracted]
    models = tuple(tensors[model.base][name] for model, name in merged)
    base = next((tensors[model.base][name] for model, name in place.parts if model.base == subtracted), None)
    own = merge.dtype or (base or models[0]).dtype
    return Task(
        name=place.name,
        method=merge.method,
        shape=models[0].shape,
        work=own,
        out=merge.out_dtype or own,
        base=base,
        models=models,
        weights=tuple(_value("weight", merge, place, model.settings) for model, _ in merged),
        densities=tuple(_value("density", merge, place, model.settings) for model, _ in merged),
        options={key: _value(key, merge, place) for key in sorted(kind.shared | FRACTIONS)},
    )


def _value(key: str, merge: Merge, place: Place, *own: Settings) -> float:
    kind = METHODS[merge.method]
    found = value_of(key, place.name, place.depth, *own, place.settings, merge.settings)
    if found is None and key in kind.required:
        message = f"{merge.method} needs '{key}' for '{place.name}', and no filter holds there"
        raise fail("AS693", message, merge.span.narrow(0, 1), "end the list with `{value: NUMBER}`")
    if found is None:
        return float(kind.normalize) if key == "normalize" else DEFAULTS.get(key, 0.0)
    return found
