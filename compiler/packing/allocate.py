"""Bytes shared out among tensors: which choice each gets so that all errors together are least.

This is the multiple-choice knapsack problem. On the lower convex hulls of the tensors' curves the best is to buy
steps by error taken away per byte, which is exact but for the last step that does not fit; what is left of the budget
then buys whatever still fits. The result is compared with every uniform choice, one recipe for all tensors (or what
takes no more and errs no more, for a tensor where there is such): so it is never worse than any of them.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Mapping, Sequence
from typing import TypeVar

from archspec.compiler.packing.choices import Choice
from archspec.compiler.packing.recipe import Recipe
from archspec.host.excerpt import Excerpt

K = TypeVar("K", Excerpt, str)
"""What bytes are shared out among: tensors, or excerpts of some."""
Curves = Mapping[K, Sequence[Choice]]
"""What can be done with each by rising size and falling error, the first of size 0 where it may be left out."""


def allocate(curves: Curves[K], budget: int) -> dict[K, Choice] | None:
    """Return the choice of every tensor, None where even the smallest do not fit into `budget` bytes."""
    least = {name: curve[0] for name, curve in curves.items()}
    if _size(least) > budget:
        return None
    best = _filled(curves, _bought(curves, least, budget), budget)
    for uniform in uniforms(curves):
        if _size(uniform) <= budget and _error(uniform) < _error(best):
            best = _filled(curves, uniform, budget)
    return best


def uniforms(curves: Curves[K]) -> Iterator[dict[K, Choice]]:
    """Yield the choices that give every tensor the same recipe, or what stands for it; those without it get their
    smallest."""
    named = {name: _by_recipe(curve) for name, curve in curves.items()}
    recipes: dict[Recipe, None] = {}
    for known in named.values():
        recipes |= dict.fromkeys(known)
    for recipe in recipes:
        yield {name: named[name].get(recipe, curve[0]) for name, curve in curves.items()}


def _by_recipe(curve: Sequence[Choice]) -> dict[Recipe, Choice]:
    return {recipe: choice for choice in curve for recipe in (choice.recipe, *choice.also)}


def _bought(curves: Curves[K], chosen: dict[K, Choice], budget: int) -> dict[K, Choice]:
    """Buy steps along the hulls, the best first, until one does not fit."""
    hulls = {name: list(hull(curve)) for name, curve in curves.items()}
    offers = [(-_rate(h[0], h[1]), name, 1) for name, h in hulls.items() if len(h) > 1]
    heapq.heapify(offers)
    chosen, spent = dict(chosen), _size(chosen)
    while offers:
        _, name, place = heapq.heappop(offers)
        steps = hulls[name]
        spent += steps[place].size - steps[place - 1].size
        if spent > budget:
            break
        chosen[name] = steps[place]
        if place + 1 < len(steps):
            heapq.heappush(offers, (-_rate(steps[place], steps[place + 1]), name, place + 1))
    return chosen


def _filled(curves: Curves[K], chosen: dict[K, Choice], budget: int) -> dict[K, Choice]:
    """Spend what is left: again and again the better choice that takes most away and fits."""
    chosen, left = dict(chosen), budget - _size(chosen)
    while True:
        better = (
            (chosen[name].error - choice.error, name, choice)
            for name, curve in curves.items()
            for choice in curve
            if choice.error < chosen[name].error and choice.size - chosen[name].size <= left
        )
        best = max(better, key=lambda found: (found[0], found[1]), default=None)
        if best is None:
            return chosen
        _, name, choice = best
        left -= choice.size - chosen[name].size
        chosen[name] = choice


def hull(curve: Sequence[Choice]) -> Iterator[Choice]:
    """Yield the choices on the lower convex hull of (size, error)."""
    kept: list[Choice] = []
    for choice in curve:
        while len(kept) > 1 and _rate(kept[-2], kept[-1]) <= _rate(kept[-1], choice):
            kept.pop()
        kept.append(choice)
    yield from kept


def _rate(a: Choice, b: Choice) -> float:
    """Return the error that the step from a to b takes away per byte."""
    return (a.error - b.error) / max(1, b.size - a.size)


def _size(chosen: Mapping[K, Choice]) -> int:
    return sum(choice.size for choice in chosen.values())


def _error(chosen: Mapping[K, Choice]) -> float:
    return sum(choice.error for choice in chosen.values())
