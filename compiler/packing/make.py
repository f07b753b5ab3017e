"""A pack made: differences looked at one by one, bytes shared out, differences encoded one by one.

Two passes over the tensors, so that memory holds one difference and its decomposition at a time, whatever the size of
the model. Between them stand the curves of all tensors: sizes and errors, no weights.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import sqrt
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from archspec.compiler.packing.allocate import allocate
from archspec.compiler.packing.choices import Choice, Recipe, build, choices
from archspec.compiler.packing.encode import Encoded
from archspec.compiler.packing.sources import Headers, Source, finite
from archspec.compiler.packing.write import PackWriter, parts_of
from archspec.diagnostics import Collector, fail
from archspec.host.fingerprint import digest_of
from archspec.host.headers import BITS
from archspec.packs.header import Change, Header
from archspec.packs.terms import matrix_shape
from archspec.quantity import quantity
from archspec.source import Span

PER_TENSOR, PER_PART = 260, 90
"""Bytes that a tensor and a part take in the header, beside their names; measured when the file is written."""
ROUNDS = 4
Progress = Callable[[str, str], None]


@dataclass(frozen=True)
class Request:
    """What is asked for. `recipe_of`: what a rule fixes for a tensor; None leaves it to the budget."""

    name: str
    base: Mapping[str, str]
    recipe_of: Callable[[str], Recipe | None]
    budget: float | None = None
    """Part of the bytes of the tensors that differ, as the base stores them."""
    limit: int | None = None
    """Bytes of the file."""
    made: Mapping[str, Any] = field(default_factory=dict)
    licence: str | None = None
    span: Span | None = None


@dataclass(frozen=True)
class Made:
    """`size` of the file and `whole` of what differs, in bytes; `header` has every tensor's error."""

    header: Header
    size: int
    whole: int

    @property
    def error(self) -> float:
        """Relative error of all differences together."""
        changes = self.header.tensors.values()
        return sqrt(sum(c.error**2 for c in changes) / (sum(c.norm**2 for c in changes) or 1.0))


def make_pack(
    request: Request, base: Headers, source: Source, out: Path, progress: Progress = lambda stage, name: None
) -> Made:
    """Write the pack of a source's differences to `out`. AS683 for differences that are no numbers, AS684 for a budget
    that cannot be met, AS685 where nothing differs."""
    curves, whole = _curves(request, base, source, progress)
    budget = _budget(request, whole)
    room = budget
    for _ in range(ROUNDS):
        chosen = allocate(curves, room) if room is not None else {n: curve[-1] for n, curve in curves.items()}
        if chosen is None:
            raise _too_small(request, curves, budget)
        with PackWriter(out) as writer:
            header = _encode(request, base, source, chosen, writer, progress)
            size = header.size + len(writer.head(header))
            if budget is None or size <= budget:
                return Made(header, writer.publish(header), whole)
        assert room is not None
        room -= size - budget
    raise _too_small(request, curves, budget)


def _curves(
    request: Request, base: Headers, source: Source, progress: Progress
) -> tuple[dict[str, list[Choice]], int]:
    """Return what can be done with each tensor that differs, and the bytes of all of these."""
    problems, found, whole = Collector(), {}, 0
    for name in source.names():
        progress("measuring", name)
        delta = source.delta(name)
        if not finite(delta, name, problems, request.span) or not delta.any():
            continue
        recipe, matrix = request.recipe_of(name), delta.reshape(matrix_shape(tuple(delta.shape)))
        found[name] = [_weighed(choice, name) for choice in _offered(recipe, matrix, request)]
        whole += delta.numel() * BITS[base[name].dtype] // 8
    problems.raise_if_errors()
    if not found:
        raise fail("AS685", "nothing differs from the base", request.span, "are both the same checkpoint?")
    return found, whole


def _offered(recipe: Recipe | None, matrix: Tensor, request: Request) -> Sequence[Choice]:
    if recipe is None:
        if request.budget is None and request.limit is None:
            message = "a tensor that no rule names needs a budget"
            raise fail("AS684", message, request.span, "write a budget, or a last rule for '*'")
        return choices(matrix)
    encoded = build(recipe, matrix)
    lost = matrix - _sum(encoded, matrix)
    return [Choice(sum(e.size for e in encoded), float(lost.double().square().sum()), recipe)]


def _weighed(choice: Choice, name: str) -> Choice:
    """Add what a choice takes in the header."""
    parts = sum(PARTS.get(step.op, 4) for step in choice.recipe)
    return Choice(choice.size + PER_TENSOR + parts * PER_PART + (parts + 1) * len(name), choice.error, choice.recipe)


PARTS: Mapping[str, int] = {"dense": 1, "sparse": 2, "quantized": 2, "rank": 5, "energy": 5, "bands": 13, "price": 21}
"""Parts of a step's term, or about as many."""


def _budget(request: Request, whole: int) -> int | None:
    shares = [request.limit, None if request.budget is None else int(request.budget * whole)]
    return min((share for share in shares if share is not None), default=None)


def _too_small(request: Request, curves: Mapping[str, Sequence[Choice]], budget: int | None) -> Exception:
    least = sum(curve[0].size for curve in curves.values())
    message = f"the pack cannot be as small as {quantity(budget or 0, 'bytes')}"
    hint = f"what the rules fix takes {quantity(least, 'bytes')}: write at least that, or `none` for some tensors"
    return fail("AS684", message, request.span, hint)


def _encode(
    request: Request,
    base: Headers,
    source: Source,
    chosen: Mapping[str, Choice],
    writer: PackWriter,
    progress: Progress,
) -> Header:
    """Encode every tensor. One that nothing is spent on stands in the header without terms: all of it is lost."""
    tensors: dict[str, Change] = {}
    for name, choice in chosen.items():
        progress("encoding", name)
        delta = source.delta(name)
        matrix = delta.reshape(matrix_shape(tuple(delta.shape)))
        encoded = build(choice.recipe, matrix)
        for place, term in enumerate(encoded):
            for part, value in parts_of(name, place, term.parts).items():
                writer.add(part, value)
        terms = tuple(term.term for term in encoded)
        lost = float((matrix - _sum(encoded, matrix)).double().norm())
        digest = digest_of(base[name]).hex()
        tensors[name] = Change(
            tuple(delta.shape), base[name].dtype, digest, terms, float(matrix.double().norm()), lost
        )
    return Header(request.name, request.base, tensors, request.made, request.licence)


def _sum(encoded: Sequence[Encoded], like: Tensor) -> Tensor:
    return sum((term.value() for term in encoded), torch.zeros_like(like))

