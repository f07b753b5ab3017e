"""Attention with a feature map in place of the softmax: cost linear in the number of tokens, constant state."""

from __future__ import annotations

from typing import ClassVar, Literal

from archspec.host.structure import SiteShape
from archspec.language.fields import arg, node
from archspec.operators.base import Facts
from archspec.operators.heads import Heads


@node
class LinearAttention(Heads):
    """y_i = W_o Σ_j φ(q_i)·φ(k_j) v_j / Σ_j φ(q_i)·φ(k_j). Rotary embeddings are applied before φ, which keeps
    weights positive and leaves the teacher's queries and keys as they are."""

    name: ClassVar[str] = "linear_attention"
    source: ClassVar[str] = "Katharopoulos et al. 2020, https://arxiv.org/abs/2006.16236, Eq. 5 and 12"

    feature: Literal["elu1", "relu"] = arg("φ: elu(x) + 1, or relu(x)", default="elu1")

    def facts(self, site: SiteShape) -> Facts:
        return Facts(causal=bool(self.causal), reach=None)
