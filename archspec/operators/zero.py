"""The operator that contributes nothing to the residual stream."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from archspec.host.structure import SiteShape
from archspec.language.fields import node
from archspec.operators.base import Facts, Signature


@node
class Zero(Signature):
    """y = 0: removes a residual branch. Not for whole blocks, which carry the stream itself."""

    name: ClassVar[str] = "zero"
    slots: ClassVar[frozenset[str]] = frozenset({"attn", "cross_attn", "mlp"})
    inits: ClassVar[tuple[str, ...]] = ("identity",)
    source: ClassVar[str] = "y = 0"

    def tensors(self, site: SiteShape) -> Mapping[str, tuple[int, ...]]:
        return {}

    def facts(self, site: SiteShape) -> Facts:
        return Facts(causal=True, reach=0)
