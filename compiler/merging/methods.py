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
expectation); with `rescale: false` not at all. What needs a whole tensor (a cut, a norm, a share of squares) is a pass
of its own before the last.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from archspec.compiler.merging.blocks import BLOCK, Files
from archspec.compiler.merging.draws import Draws
from archspec.compiler.merging.layout import SMALL, Task
from archspec.compiler.merging.select import Cut, cut_of, only
from archspec.diagnostics import fail
from archspec.host.structure import TensorHeader
from archspec.runtime.store.checkpoint import DTYPES

PARALLEL = 0.9995
"""Cosine from which SLERP goes straight: the arc is too short for its sine."""
LEAST_NORM = 1e-7
"""DARE does not rescale by norms below it."""
HELD = 96 << 20
"""Bytes of deltas that DARE holds from its first pass to its second, of all models."""


class Reader(NamedTuple):
    """The blocks of one task."""

    files: Files
    task: Task
    seed: int

    def spans(self) -> Iterator[tuple[int, int]]:
        count = self.task.models[0].count
        return ((first, min(first + BLOCK, count)) for first in range(0, count, BLOCK))

    def block(self, header: TensorHeader, first: int, last: int) -> Tensor:
        """Return a block in the dtype of the arithmetic; it may be a view of the file."""
        return self.files.read(header, first, last).to(DTYPES[self.task.work])

    def values(self, header: TensorHeader, first: int, last: int) -> Tensor:
        """Return a block in float32, rounded to the dtype of the arithmetic."""
        return self.block(header, first, last).to(torch.float32)

    def delta(self, model: int, base: Tensor, first: int, last: int) -> Tensor:
        """Return a model's difference from the base's block, both in the dtype of the arithmetic."""
        return self.block(self.task.models[model], first, last) - base

    def base(self, first: int, last: int) -> Tensor:
        """Return the base's block in the dtype of the arithmetic."""
        assert self.task.base is not None
        return self.block(self.task.base, first, last)

    def deltas(self, model: int) -> Iterator[Tensor]:
        return (self.delta(model, self.base(*span), *span) for span in self.spans())


Blocks = Iterator[Tensor]


def merged(files: Files, task: Task, seed: int) -> Blocks:
    """Yield the blocks of one tensor of the result, flat, in its dtype. AS683 for one that is no number somewhere."""
    reader, out = Reader(files, task, seed), DTYPES[task.out]
    for block in METHODS[task.method](reader):
        found = block.to(DTYPES[task.work]).to(out)
        if not math.isfinite(found.sum(dtype=torch.float32)) and not torch.isfinite(found).all():
            message = f"'{task.name}' of the merge is not finite"
            raise fail("AS683", message, None, "a model is damaged there, or a weight is too large for its data type")
        yield found


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
    """Return the weights, divided by their sum where the task says so and it is not 0 (in `linear` it never is)."""
    total = sum(task.weights)
    if not task.options["normalize"] or abs(total) < SMALL:
        return list(map(_single, task.weights))
    return [weight / total for weight in task.weights]


def _task_arithmetic(reader: Reader) -> Blocks:
    return _added(reader, [_all_of(reader, model) for model in range(len(reader.task.models))])


Span = tuple[int, int]
Part = Callable[[Tensor, Span], Tensor]
"""The base's block and its span to what is left there of a model's delta, in the dtype of the arithmetic, a tensor of
its own. Spans come in order, once."""


def _all_of(reader: Reader, model: int) -> Part:
    return lambda base, span: reader.delta(model, base, *span)


def _added(reader: Reader, parts: Sequence[Part], scales: list[float] | None = None) -> Blocks:
    """Yield b + λ Σ wᵢ sᵢ partᵢ; `scales`: 1 where there are none."""
    task = reader.task
    factors = _scaled([weight * task.options["lambda"] for weight in _normalized(task)], scales)
    for span in reader.spans():
        base = reader.base(*span)
        total = base.to(torch.float32, copy=True)
        for part, factor in zip(parts, factors, strict=True):
            total.add_(part(base, span).to(torch.float32), alpha=factor)
        yield total


def _scaled(weights: Sequence[float], scales: list[float] | None) -> list[float]:
    """Return the products as float32 has them, infinity where it has none."""
    return [_single(w * s) for w, s in zip(weights, scales or [1.0] * len(weights), strict=True)]


def _single(value: float) -> float:
    return torch.tensor(value, dtype=torch.float32).item()


def _elected(reader: Reader, parts: Sequence[Part], scales: list[float] | None = None) -> Blocks:
    """Yield b + λ Σ wᵢ sᵢ partᵢ over the models that have the elected sign, divided by the sum of their wᵢ.

    With pᵢ the weighted deltas and s the sign of t = Σ pᵢ, the sum of those that agree is (t + s Σ |pᵢ|) / 2."""
    task = reader.task
    factors = _scaled(task.weights, scales)
    for span in reader.spans():
        base = reader.base(*span)
        total = torch.zeros(len(base))
        sizes, signs = torch.zeros_like(total), []
        for part, factor in zip(parts, factors, strict=True):
            left = part(base, span).to(torch.float32)
            total.add_(left, alpha=factor)
            if task.options["normalize"]:
                signs.append(left.sign())
            sizes.add_(left.abs_(), alpha=abs(factor))
        mixed = _signed(sizes, total).add_(total)  # where t is -0.0 all parts are 0
        if signs:
            mixed.div_(_divisor(signs, task.weights, _sign(total)))
        yield base.to(torch.float32, copy=True).add_(mixed, alpha=task.options["lambda"] / 2)


def _divisor(signs: list[Tensor], weights: Sequence[float], elected: Tensor) -> Tensor:
    """Return the sum of the weights of the deltas that have the elected sign once weighted, 1 where it is all but 0.

    `signs`: of the deltas, overwritten."""
    total = torch.zeros_like(elected)
    for sign, weight in zip(signs, weights, strict=True):
        agrees = sign.mul_(elected)
        total.add_((agrees if weight > 0 else agrees.neg_()).clamp_(min=0), alpha=weight)
    small = total.abs().numpy() < SMALL
    return total.add_(torch.from_numpy(small.view(np.int8)))


_SIGN, _ONE = -(1 << 31), 0x3F800000
"""Bits of a float32: its sign, and all of 1.0."""


def _signed(sizes: Tensor, total: Tensor) -> Tensor:
    """Give sizes (float32, 0 or more) the signs of a sum, in place: `copysign` by bits, which is twice as quick."""
    sizes.view(torch.int32).bitwise_or_(total.view(torch.int32) & _SIGN)
    return sizes


def _sign(total: Tensor) -> Tensor:
    """Return 1 where a sum is 0 or more, else -1, in place. (-0.0 is a sum of zeros alone, of which none counts.)"""
    total.view(torch.int32).bitwise_and_(_SIGN).bitwise_or_(_ONE)
    return total


def _ties(reader: Reader) -> Blocks:
    return _elected(reader, [_trim(reader, model) for model in range(len(reader.task.models))])


def _trim(reader: Reader, model: int) -> Part:
    """Keep the floor(density · n) largest of a model's delta."""
    density, count = reader.task.densities[model], reader.task.models[0].count
    if density >= 1:
        return _all_of(reader, model)
    cut = cut_of(lambda: reader.deltas(model), int(density * count))

    def trimmed(base: Tensor, span: Span) -> Tensor:
        delta = reader.delta(model, base, *span)
        return only(delta, cut.mask(delta))

    return trimmed


def _dare_linear(reader: Reader) -> Blocks:
    return _added(reader, *_dropped(reader))


def _dare_ties(reader: Reader) -> Blocks:
    return _elected(reader, *_dropped(reader))


def _dropped(reader: Reader) -> tuple[list[Part], list[float]]:
    """Return for each model what is left of its delta where a number is kept with the chance `density`, and what
    rescales it: the L1 norm of the delta over that of what is left."""
    densities, rescale = reader.task.densities, bool(reader.task.options["rescale"])
    drops = {model: Drop(reader, model) for model, density in enumerate(densities) if density < 1}
    for span in reader.spans() if drops and rescale else ():
        base = reader.base(*span)
        for drop in drops.values():
            drop.measure(base, span)
    models = range(len(densities))
    parts = [drops.get(model) or _all_of(reader, model) for model in models]
    return parts, [drops[model].factor if rescale and model in drops else 1.0 for model in models]


class Drop:
    """What DARE leaves of a model's delta (a `Part`). `measure`, over all spans before, gives `factor`; what it drew is
    held for the second pass as far as `HELD` goes, and made again beyond."""

    def __init__(self, reader: Reader, model: int) -> None:
        self._reader, self._model = reader, model
        self._draws, self._again = (self._fresh() for _ in range(2))
        self._held: deque[Tensor] = deque()
        self._room: int | None = HELD // len(reader.task.models)
        """Bytes that may still be held; None once something was not."""
        self._before = self._after = 0.0

    def _fresh(self) -> Draws:
        task = self._reader.task
        return Draws(task.densities[self._model], self._reader.seed, self._model, task.name)

    def measure(self, base: Tensor, span: Span) -> None:
        delta = self._reader.delta(self._model, base, *span)
        self._hold(delta.nbytes)
        mask = self._draws(delta.numel())
        sizes = delta.to(torch.float32, copy=True).abs_()
        self._before += float(sizes.sum())
        self._after += float(sizes.dot(torch.from_numpy(mask.view(np.int8)).to(torch.float32)))
        if self._room is not None:
            self._held.append(only(delta, mask))

    def _hold(self, size: int) -> None:
        """Take room for the next block; where there is none, the second pass draws from here on."""
        if self._room is None:
            return
        if self._room < size:
            self._room, self._again = None, deepcopy(self._draws)
        else:
            self._room -= size

    @property
    def factor(self) -> float:
        return 1.0 if min(self._before, self._after) < LEAST_NORM else self._before / self._after

    def __call__(self, base: Tensor, span: Span) -> Tensor:
        if self._held:
            return self._held.popleft()
        delta = self._reader.delta(self._model, base, *span)
        return only(delta, self._again(delta.numel()))


def _slerp(reader: Reader) -> Blocks:
    task = reader.task
    assert task.base is not None
    first, second = _arc(reader, task.options["t"])
    for span in reader.spans():
        yield reader.values(task.base, *span).mul(first).add_(reader.values(task.models[0], *span), alpha=second)


def _arc(reader: Reader, t: float) -> tuple[float, float]:
    """Return the factors of both ends at `t` of the arc; of the straight line where they are all but parallel."""
    assert reader.task.base is not None
    dot = square = other = 0.0
    for span in reader.spans():
        a, b = reader.values(reader.task.base, *span), reader.values(reader.task.models[0], *span)
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
        mixed, divisor = torch.zeros_like(sign), torch.zeros_like(sign)
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
    return [only(delta, mask) for delta in deltas]


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
