"""Calls and graphs: which tensors of a call feed which placeholders.

A host calls a module with nested arguments; a graph has one placeholder per tensor. `Inputs` is the map between
the two, made from one example call and used again to run the graph on other tensors (`read`).
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.utils._pytree import KeyPath, key_get, keystr, tree_flatten_with_path


@dataclass(frozen=True)
class Inputs:
    """`parameters`: names of the positional parameters of forward; `paths`: placeholder -> place in the arguments."""

    parameters: tuple[str, ...]
    paths: tuple[tuple[str, KeyPath], ...]

    @staticmethod
    def of(module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Inputs:
        """Describe a call of `module`."""
        kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
        signature = inspect.signature(module.forward)
        parameters = tuple(p.name for p in signature.parameters.values() if p.kind in kinds)
        named = _named(parameters, args, kwargs)
        found = tree_flatten_with_path(named)[0]
        paths = tuple((_name(path), path) for path, leaf in found if isinstance(leaf, Tensor))
        return Inputs(parameters, paths)

    def read(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[Tensor]:
        """Return the tensors of a call in the order of the placeholders."""
        named = _named(self.parameters, args, kwargs)
        return [key_get(named, path) for _, path in self.paths]

    def names(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[int, str]:
        """Return identity of tensor -> placeholder. A tensor that is passed twice has one placeholder."""
        found: dict[int, str] = {}
        for (name, _), tensor in zip(self.paths, self.read(args, kwargs), strict=True):
            found.setdefault(id(tensor), name)
        return found

    def values(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Tensor]:
        """Return placeholder -> tensor of a call."""
        return {name: tensor for (name, _), tensor in zip(self.paths, self.read(args, kwargs), strict=True)}


def _named(parameters: tuple[str, ...], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments by name; those beyond the named parameters by their place."""
    named = {parameters[i] if i < len(parameters) else f"args_{i}": value for i, value in enumerate(args)}
    return {**named, **kwargs}


def _name(path: KeyPath) -> str:
    """Return a placeholder's name: `position_embeddings_0` for `['position_embeddings'][0]`."""
    text = keystr(path)
    return "_".join(part for part in "".join(c if c.isalnum() or c == "_" else " " for c in text).split())
