"""What a pack is asked to be, and each tensor's difference as that request takes it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from archspec.compiler.packing.calibrate import Calibration
from archspec.compiler.packing.encode import Encoded, within
from archspec.compiler.packing.metric import PLAIN, Metric
from archspec.compiler.packing.recipe import Recipe, build
from archspec.host.excerpt import Excerpt
from archspec.packs.terms import matrix_shape
from archspec.runtime.model.excerpts import taken
from archspec.source import Span


@dataclass(frozen=True)
class Request:
    """What is asked for. `recipe_of`: what a rule fixes for a tensor, or an excerpt of one; None leaves it to the
    budget. `divided`: the excerpts of tensors that are not kept as a whole."""

    name: str
    base: Mapping[str, str]
    recipe_of: Callable[[Excerpt], Recipe | None]
    divided: Mapping[str, tuple[Excerpt, ...]] = field(default_factory=dict)
    budget: float | None = None
    """Part of the bytes of the tensors that differ, as the base stores them."""
    limit: int | None = None
    """Bytes of the file."""
    calibration: Calibration | None = None
    """By which errors are those of outputs; None: they are those of weights."""
    digests: Mapping[str, str] = field(default_factory=dict)
    """Of the base's tensors: XXH3-128, hexadecimal."""
    made: Mapping[str, Any] = field(default_factory=dict)
    licence: str | None = None
    span: Span | None = None
    """Where the budget stands, or all of it."""
    source: Span | None = None
    """Where what differs is named."""

    def subject(self, name: str, delta: Tensor) -> Subject:
        """Return what is encoded of a tensor, and how it is weighed."""
        matrix = delta.reshape(matrix_shape(tuple(delta.shape)))
        turned = self.calibration is not None and name in self.calibration.turned
        whole = Excerpt(name, transposed=turned)
        excerpts = self.divided.get(name, (whole,))
        if self.calibration is None:
            return Subject(matrix, whole, excerpts, PLAIN, 1.0)
        metric = self.calibration.metric(name)
        size = self.calibration.size(name, taken(whole, matrix), metric)
        return Subject(matrix, whole, excerpts, metric, size)


@dataclass(frozen=True)
class Subject:
    """A tensor's difference as a matrix. `whole`: the excerpt that is (outputs, inputs); `excerpts`: what is encoded
    each by itself; `size`: what squared errors are divided by before they are added to those of other tensors."""

    matrix: Tensor
    whole: Excerpt
    excerpts: tuple[Excerpt, ...]
    metric: Metric
    size: float

    def metric_of(self, excerpt: Excerpt) -> Metric:
        """Return how errors of an excerpt are measured: that of some inputs by these alone."""
        if not excerpt.cuts or excerpt.axis == 0:
            return self.metric
        columns = torch.arange(len(taken(self.whole, self.matrix)[0]))
        return self.metric.of(taken(replace(excerpt, transposed=False), columns[None])[0])

    def encoded(self, excerpt: Excerpt, recipe: Recipe) -> list[Encoded]:
        """Return the terms of the tensor by which a recipe keeps an excerpt of it."""
        found = build(recipe, taken(excerpt, self.matrix).contiguous(), self.metric_of(excerpt))
        if not found or not (excerpt.cuts or excerpt.transposed):
            return found
        return [within(excerpt, found, (self.matrix.shape[0], self.matrix.shape[1]))]

    def cost(self, error: Tensor) -> float:
        """Return what an error of the tensor costs, as a part of its size."""
        return self.metric.squared(taken(self.whole, error)) / self.size
