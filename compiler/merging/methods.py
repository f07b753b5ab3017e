"""The arithmetic of merges, on blocks of flat tensors.

    linear            x = Σ wᵢ xᵢ (/ Σ wᵢ)                                             arXiv 2203.05482
    task arithmetic   x = b + λ Σ wᵢ δᵢ,  δᵢ = xᵢ - b                                  arXiv 2212.04089
    TIES              δᵢ trimmed to its largest; of each number only the δᵢ count whose weighted sign is that of
                      Σ wᵢ δᵢ, divided by the sum of their weights                     arXiv 2306.01708
    DARE              each number of δᵢ kept with chance p, the rest rescaled           arXiv 2311.03099
    SLERP             along the arc between two tensors, read as vectors
    SCE               δᵢ where they vary most; one coefficient a tensor, its share of the squares; signs as in TIES
                      without weights                                                  arXiv 2408.07990

Models and their deltas are rounded to the dtype of the arithmetic first, as mergekit does; sums are float32 and rounded
once, at the end. A sum of exactly 0 elects the positive sign (TIES, SCE), as in mergekit. DARE rescales by the ratio
of L1 norms of a tensor's delta before and after, as mergekit does (PEFT and the paper divide by p: the same in
expectation); with `rescale: false` not at all. Its draws are 32 bits of numpy's SFC64, seeded by seed, model, tensor
and block. What needs a whole tensor (a cut, a norm, a share of squares) is a pass of its own before the last.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
import xxhash
from torch import Tensor

from archspec.compiler.merging.blocks import BLOCK, Files
from archspec.compiler.merging.layout import Task
from archspec.compiler.merging.select import Cut, cut_of
from archspec.host.structure import TensorHeader
from archspec.runtime.store.checkpoint import DTYPES

SMALL = 1e-8
"""Sums of weights below it do not divide."""
PARALLEL = 0.9995
"""Cosine from which SLERP goes straight: the arc is too short for its sine."""
LEAST_NORM = 1e-7
"""DARE does not rescale by norms below it."""


class Reader(NamedTuple):
    """The blocks of one task."""

    files: Files
    task: Task
    seed: int

    def spans(self) -> Iterator[tuple[int, int]]:
        count = self.task.models[0].count
        return ((first, min(first + BLOCK, count)) for first in range(0, count, BLOCK))

    def values(self, header: TensorHeader, first: int, last: int) -> Tensor:
        """Return a block in float32, rounded to the dtype of the arithmetic."""
        block, work = self.files.read(header, first, last), DTYPES[self.task.work]
        return block.to(work).to(torch.float32) if block.dtype != work else block.to(torch.float32)

    def delta(self, model: int, base: Tensor, first: int, last: int) -> Tensor:
        """Return a model's difference from the base's block, in the dtype of the arithmetic."""
        block = self.values(self.task.models[model], first, last)
        if block.data_ptr() == base.data_ptr() or self.task.work == "F32":
            return block - base
        return block.sub_(base).to(DTYPES[self.task.work])

    def base(self, first: int, last: int) -> Tensor:
        assert self.task.base is not None
        return self.values(self.task.base, first, last)

    def deltas(self, model: int) -> Iterator[Tensor]:
        return (self.delta(model, self.base(*span), *span) for span in self.spans())


Blocks = Iterator[Tensor]


def merged(files: Files, task: Task, seed: int) -> Blocks:
    """Yield the blocks of one tensor of the result, flat, in its dtype."""
    reader, out = Reader(files, task, seed), DTYPES[task.out]
    for block in METHODS[task.method](reader):
        yield block.to(DTYPES[task.work]).to(out)


def _passthrough(reader: Reader) -> Blocks:
    return (reader.values(reader.task.models[0], *span) for span in reader.spans())


def _linear(reader: Reader) -> Blocks:
    task = reader.task
    factors = _normalized(task)
    for span in reader.spans():
        total = reader.values(task.models[0], *span) * factors[0]
        for model, factor in zip(task.models[1:], factors[1:], strict=True):
            total.add_(reader.values(model, *span), alpha=factor)
        yield total


def _normalized(task: Task) -> list[float]:
    """Return the weights, divided by their sum where the task says so and the sum is not 0."""
    total = sum(task.weights)
    if not task.options["normalize"] or abs(total) < SMALL:
        return list(task.weights)
    return [weight / total for weight in task.weights]


def _task_arithmetic(reader: Reader) -> Blocks:
    return _added(reader, [None] * len(reader.task.models))


Keep = Callable[[int, Tensor], Tensor]
"""Number of a block and the delta to what is left of the delta, float32."""


def _added(reader: Reader, keeps: list[Keep | None]) -> Blocks:
    """Yield b + λ Σ wᵢ keepᵢ(δᵢ)."""
    task = reader.task
    factors = [weight * task.options["lambda"] for weight in _normalized(task)]
    for number, span in enumerate(reader.spans()):
        base = reader.base(*span)
        total = base.clone()
        for model, (keep, factor) in enumerate(zip(keeps, factors, strict=True)):
            delta = reader.delta(model, base, *span)
            total.add_(keep(number, delta) if keep else delta.float(), alpha=factor)
        yield total


def _elected(reader: Reader, keeps: list[Keep | None]) -> Blocks:
    """Yield b + λ Σ wᵢ δᵢ over the models that agree with the elected sign, divided by the sum of their weights."""
    task = reader.task
    for number, span in enumerate(reader.spans()):
        base = reader.base(*span)
        parts = []
        for model, (keep, weight) in enumerate(zip(keeps, task.weights, strict=True)):
            delta = reader.delta(model, base, *span)
            parts.append((keep(number, delta) if keep else delta.float()).mul_(weight))
        total = parts[0].clone()
        for part in parts[1:]:
            total += part
        yield _agreeing(parts, total, task).mul_(task.options["lambda"]).add_(base)


def _agreeing(parts: list[Tensor], total: Tensor, task: Task) -> Tensor:
    """Return the sum of the weighted deltas that have the sign of `total`, normalized where the task says so."""
    sign = _sign(total)
    mixed, divisor = torch.zeros_like(total), torch.zeros_like(total)
    for part, weight in zip(parts, task.weights, strict=True):
        agrees = part.mul_(sign).clamp_(min=0)
        mixed += agrees
        if task.options["normalize"]:
            divisor.add_(agrees.sign_(), alpha=weight)
    if task.options["normalize"]:
        mixed.div_(divisor.masked_fill_(divisor.abs() < SMALL, 1.0))
    return mixed.mul_(sign)


def _sign(total: Tensor) -> Tensor:
    """Return 1 where a sum is 0 or more, else -1."""
    return total.sign().add_(0.5).sign_()


def _ties(reader: Reader) -> Blocks:
    return _elected(reader, [_trim(reader, model) for model in range(len(reader.task.models))])


def _trim(reader: Reader, model: int) -> Keep | None:
    """Keep the floor(density · n) largest of a model's delta."""
    density, count = reader.task.densities[model], reader.task.models[0].count
    if density >= 1:
        return None
    cut = cut_of(lambda: reader.deltas(model), int(density * count))
    return lambda _, delta: delta.to(torch.float32).mul_(cut.mask(delta).to(torch.float32))


def _dare_linear(reader: Reader) -> Blocks:
    return _added(reader, [_drop(reader, model) for model in range(len(reader.task.models))])


def _dare_ties(reader: Reader) -> Blocks:
    return _elected(reader, [_drop(reader, model) for model in range(len(reader.task.models))])


def _drop(reader: Reader, model: int) -> Keep | None:
    """Keep each number of a model's delta with the chance `density`, rescaled."""
    density = reader.task.densities[model]
    if density >= 1:
        return None

    def kept(number: int, delta: Tensor) -> Tensor:
        return delta.to(torch.float32).mul_(_drawn(reader, model, number, len(delta), density).to(torch.float32))

    factor = _rescaling(reader, model, kept) if reader.task.options["rescale"] else 1.0
    return lambda number, delta: kept(number, delta).mul_(factor)


def _drawn(reader: Reader, model: int, number: int, count: int, density: float) -> Tensor:
    """Return which numbers of a block are kept, bool."""
    text = f"{reader.seed}\n{model}\n{reader.task.name}\n{number}"
    bits = np.random.SFC64(xxhash.xxh3_128_intdigest(text.encode())).random_raw((count + 1) // 2)
    return torch.from_numpy(bits.view(np.uint32)[:count] < np.uint32(min(round(density * 2**32), 2**32 - 1)))


def _rescaling(reader: Reader, model: int, kept: Keep) -> float:
    before = after = 0.0
    for number, delta in enumerate(reader.deltas(model)):
        before += float(delta.to(torch.float32).abs_().sum())
        after += float(kept(number, delta).abs_().sum())
    return 1.0 if min(before, after) < LEAST_NORM else before / after


def _slerp(reader: Reader) -> Blocks:
    task = reader.task
    assert task.base is not None
    first, second = _arc(reader, task.options["t"])
    for span in reader.spans():
        yield reader.base(*span).mul(first).add_(reader.values(task.models[0], *span), alpha=second)


def _arc(reader: Reader, t: float) -> tuple[float, float]:
    """Return the factors of both ends at `t` of the arc; of the straight line where they are all but parallel."""
    dot = square = other = 0.0
    for span in reader.spans():
        a, b = reader.base(*span), reader.values(reader.task.models[0], *span)
        dot, square, other = dot + float(a.dot(b)), square + float(a.dot(a)), other + float(b.dot(b))
    lengths = [root if (root := math.sqrt(x)) > SMALL else 1.0 for x in (square, other)]
    cosine = dot / (lengths[0] * lengths[1])
    if abs(cosine) > PARALLEL:
        return 1 - t, t
    angle = math.acos(cosine)
    return math.sin((1 - t) * angle) / math.sin(angle), math.sin(t * angle) / math.sin(angle)


def _sce(reader: Reader) -> Blocks:
    """Select, calculate, erase."""
    cut = _selection(reader)
    coefficients = _shares(reader, replace(cut) if cut else None)  # a cut serves one pass
    for span in reader.spans():
        base = reader.base(*span)
        deltas = _selected(reader, base, span, cut)
        sign = _sign(torch.stack(deltas).sum(0))
        mixed, divisor = torch.zeros_like(base), torch.zeros_like(base)
        for delta, share in zip(deltas, coefficients, strict=True):
            agrees = delta.mul(sign).clamp_(min=0)
            mixed.add_(agrees, alpha=share)
            divisor.add_(agrees.sign_(), alpha=share)
        yield mixed.div_(divisor.clamp_(min=1e-6)).mul_(sign).add_(base)


def _selection(reader: Reader) -> Cut | None:
    """Return the cut that keeps the fraction `select_topk` of the numbers whose deltas vary, those that vary most."""
    top = reader.task.options["select_topk"]
    if top >= 1:
        return None
    varying = sum(int(block.count_nonzero()) for block in _variances(reader))
    return cut_of(lambda: _variances(reader), int(top * varying))


def _variances(reader: Reader) -> Blocks:
    for span in reader.spans():
        base = reader.base(*span)
        yield _variance([reader.delta(model, base, *span).float() for model in range(len(reader.task.models))])


def _variance(deltas: list[Tensor]) -> Tensor:
    return torch.stack(deltas).var(0, unbiased=False)


def _selected(reader: Reader, base: Tensor, span: tuple[int, int], cut: Cut | None) -> list[Tensor]:
    deltas = [reader.delta(model, base, *span).float() for model in range(len(reader.task.models))]
    if cut is None:
        return deltas
    mask = cut.mask(_variance(deltas))
    return [delta * mask for delta in deltas]


def _shares(reader: Reader, cut: Cut | None) -> list[float]:
    """Return each model's share of the sum of squares of what is selected; equal ones where all is 0."""
    squares = [0.0] * len(reader.task.models)
    for span in reader.spans():
        for model, delta in enumerate(_selected(reader, reader.base(*span), span, cut)):
            squares[model] += float(delta.dot(delta))
    means = [square / reader.task.models[0].count for square in squares]
    total = sum(means)
    return [mean / total for mean in means] if total >= 1e-6 else [1 / len(means)] * len(means)


METHODS: Mapping[str, Callable[[Reader], Blocks]] = {
    "passthrough": _passthrough,
    "linear": _linear,
    "task_arithmetic": _task_arithmetic,
    "ties": _ties,
    "dare_linear": _dare_linear,
    "dare_ties": _dare_ties,
    "slerp": _slerp,
    "sce": _sce,
}
