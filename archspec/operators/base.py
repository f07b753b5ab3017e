"""Signatures: what the language knows of an operator, without torch.

An operator has two files of the same name: its signature here (config, constraints, tensor shapes) and its module
in `archspec.runtime.operators` (the mathematics). A signature's fields are its parameters, declared with `arg`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar, Self

from archspec.fields import Node
from archspec.structure import SiteShape


@dataclass(frozen=True)
class Problem:
    """Why a config does not fit a site. `field` is the parameter to blame, None for the operator as such."""

    field: str | None
    message: str
    hint: str = ""


@dataclass(frozen=True)
class Facts:
    """What the rest of the compiler must know of a configured operator.

    `reach` is how many tokens to either side (in raster order) one output sees, None for all of them.
    `token_bound` marks weights whose shapes hold the number of tokens.
    """

    causal: bool
    reach: int | None
    token_bound: bool = False


@dataclass(frozen=True, kw_only=True)
class Signature(Node):
    """Base of all operator signatures: (batch, tokens, width) to the same."""

    name: ClassVar[str]
    slots: ClassVar[frozenset[str]]
    version: ClassVar[int] = 1
    source: ClassVar[str]
    """Paper and equation that define it."""
    inits: ClassVar[tuple[str, ...]]
    """Initializations it supports, the best that needs no data first."""

    def complete(self, site: SiteShape) -> Self:
        """Return the config with every None replaced by the site's own value."""
        return self

    def problems(self, site: SiteShape) -> Iterator[Problem]:
        """Yield every reason why this (completed) config cannot fill the site."""
        return iter(())

    def tensors(self, site: SiteShape) -> Mapping[str, tuple[int, ...]]:
        """Return parameter name -> shape of the (completed) operator at the site."""
        raise NotImplementedError

    def facts(self, site: SiteShape) -> Facts:
        raise NotImplementedError
