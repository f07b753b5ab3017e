"""Softmax attention over all tokens: the control of every graft (the same operator, new weights), and grouped heads."""

from __future__ import annotations

from typing import ClassVar

from archspec.host.structure import SiteShape
from archspec.language.fields import node
from archspec.operators.base import Facts
from archspec.operators.heads import Heads


@node
class Attention(Heads):
    """y = W_o softmax(q kᵀ / √d) v, every token on every other (on every earlier one when causal)."""

    name: ClassVar[str] = "attention"
    source: ClassVar[str] = "Vaswani et al. 2017, https://arxiv.org/abs/1706.03762, Eq. 1"

    def facts(self, site: SiteShape) -> Facts:
        return Facts(causal=bool(self.causal), reach=None)
