"""Where each tensor of a result is in a published state: a name, and the part of that tensor."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from math import prod

from torch import Tensor

from archspec.diagnostics import Collector


@dataclass(frozen=True)
class Part:
    """The tensor `name` of a state, or some of its rows: the `share`-th of `of` equal parts."""

    name: str
    share: int = 0
    of: int = 1

    def read(self, state: Mapping[str, Tensor]) -> Tensor:
        tensor = state[self.name]
        rows = len(tensor) // self.of
        return tensor if self.of == 1 else tensor[self.share * rows : (self.share + 1) * rows]


Recipe = Mapping[str, Part]
Shapes = Mapping[str, tuple[int, ...]]


def linear(target: str, source: str, share: int = 0, of: int = 1) -> dict[str, Part]:
    """Return the recipe of weight and bias of a linear map, or of its rows.

    >>> linear("to_k", "qkv", 1, 3)["to_k.bias"]
    Part(name='qkv.bias', share=1, of=3)
    """
    return {f"{target}.{leaf}": Part(f"{source}.{leaf}", share, of) for leaf in ("weight", "bias")}


def check(recipe: Recipe, shapes: Shapes, wanted: Shapes, problems: Collector) -> None:
    """Report parts that are missing in the state, or are not of the shape that is wanted. AS651."""
    problems.report_few("AS651", _faults(recipe, shapes, wanted), "tensors do not fit", None)


def _faults(recipe: Recipe, shapes: Shapes, wanted: Shapes) -> Iterator[str]:
    for target, part in recipe.items():
        shape = shapes.get(part.name)
        if shape is None:
            yield f"the file has no tensor '{part.name}'"
        elif not shape or shape[0] % part.of or prod(shape) // part.of != prod(wanted[target]):
            yield f"'{part.name}' is {shape}, which does not give '{target}' of shape {wanted[target]}"


def unused(recipe: Recipe, names: Collection[str]) -> list[str]:
    """Return the tensors of a state that no part of a recipe takes."""
    taken = {part.name for part in recipe.values()}
    return [name for name in names if name not in taken]
