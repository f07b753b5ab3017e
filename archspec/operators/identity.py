"""The operator that returns its input."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from archspec.host.structure import SiteShape
from archspec.language.fields import node
from archspec.operators.base import Facts, Signature


@node
class Identity(Signature):
    """y = x. In place of a block it removes the block; inside a residual branch it adds the branch's input."""

    name: ClassVar[str] = "identity"
    slots: ClassVar[frozenset[str]] = frozenset({"attn", "cross_attn", "mlp", "norm", "block"})
    inits: ClassVar[tuple[str, ...]] = ("identity",)
    source: ClassVar[str] = "y = x"

    def tensors(self, site: SiteShape) -> Mapping[str, tuple[int, ...]]:
        return {}

    def facts(self, site: SiteShape) -> Facts:
        return Facts(causal=True, reach=0)
