"""Signatures: what the language knows of an operator, without torch.

An operator has two files of the same name: its signature here (config, constraints, tensor shapes) and its module
in `archspec.runtime.operators` (the mathematics). A signature's fields are its parameters, declared with `arg`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

from archspec.host.structure import BESIDE, Site, SiteShape
from archspec.language.fields import Node, declared, written

FOREIGN = "foreign"
"""The map of what the second module of a site reads beside the site's own (`SiteShape.foreign`)."""


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
    maps: ClassVar[frozenset[str]] = frozenset()
    """Its parts that take tokens one by one. Where two streams are mixed (`SiteShape.beside`), each has its own."""
    single: ClassVar[str] = ""
    """Why it cannot mix two streams; empty where it can."""

    @classmethod
    def fills(cls, site: Site) -> bool:
        """Whether its contract is that of the site's slot."""
        return site.role in cls.slots and not (site.shape.beside and cls.single)

    @classmethod
    def native(cls, site: SiteShape) -> Self:
        """Return the config that takes everything from the site. For operators whose parameters all have defaults."""
        return cls().complete(site)

    def complete(self, site: SiteShape) -> Self:
        """Return the config with every None replaced by the site's own value."""
        return self

    def problems(self, site: SiteShape) -> Iterator[Problem]:
        """Yield every reason why this (completed) config cannot fill the site. The base checks declared bounds."""
        for field in declared(type(self)):
            value, least, most = getattr(self, field.name), field.metadata.get("least"), field.metadata.get("most")
            if isinstance(value, bool | str | None):
                continue
            if least is not None and value < least:
                yield Problem(field.name, f"{written(field.name)} is {value}", f"write at least {least}")
            if most is not None and value > most:
                yield Problem(field.name, f"{written(field.name)} is {value}", f"write at most {most}")

    def inherits(self, site: SiteShape) -> tuple[str, ...]:
        """Return the teacher's weights that `init inherit` reads (names of `Site.teacher` without `.weight`)."""
        return ()

    def obstacles(self, site: SiteShape) -> Iterator[Problem]:
        """Yield every reason why this (completed) config cannot inherit from the teacher of the site."""
        return iter(())

    def default_init(self, site: SiteShape) -> str:
        """Return the first of `inits` that nothing at the site stands against."""
        return next(kind for kind in self.inits if kind != "inherit" or not any(self.obstacles(site)))

    def tensors(self, site: SiteShape) -> Mapping[str, tuple[int, ...]]:
        """Return parameter name -> shape of the (completed) operator at the site, for one stream of tokens."""
        raise NotImplementedError

    def weights(self, site: SiteShape) -> Mapping[str, tuple[int, ...]]:
        """Return parameter name -> shape of the (completed) operator at the site, the maps of a second stream and of
        foreign features with it."""
        own = self.tensors(site)
        twins = self.twins(site)
        foreign = linear(FOREIGN, site.width, site.foreign, bias=True) if site.foreign else {}
        second = {f"{BESIDE}.{name}": s for name, s in own.items() if name.partition(".")[0] in twins}
        return {**own, **second, **foreign}

    def twins(self, site: SiteShape) -> frozenset[str]:
        """Return those of `maps` that a second stream has at the site."""
        if site.beside is None:
            return frozenset()
        return self.maps if site.beside == "whole" else self.maps - {"readout"}

    @property
    def on_grid(self) -> bool:
        """Whether it arranges its tokens in rows and columns."""
        return getattr(self, "layout", None) == "grid"

    def facts(self, site: SiteShape) -> Facts:
        raise NotImplementedError

    def settings(self) -> dict[str, Any]:
        """Return the config as plain data, what `Install.config` holds."""
        return {field.name: getattr(self, field.name) for field in declared(type(self))}

    def fill(self, **values: Any) -> Self:
        """Return the config with these values in place of those that are None."""
        return replace(self, **{name: value for name, value in values.items() if getattr(self, name) is None})


def projections(site: SiteShape) -> tuple[str, ...]:
    """Return the names of the maps of an attention."""
    return ("q", "k", "v", *(("o",) if site.out_map else ()))


def linear(name: str, rows: int, columns: int, bias: bool | None) -> dict[str, tuple[int, ...]]:
    """Return the tensors of a linear map from `columns` to `rows` features."""
    return {f"{name}.weight": (rows, columns), **({f"{name}.bias": (rows,)} if bias else {})}
