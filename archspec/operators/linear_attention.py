"""Attention with a feature map in place of the softmax: cost linear in the number of tokens, constant state."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import ClassVar, Literal

from archspec.host.structure import SiteShape
from archspec.language.fields import arg, node
from archspec.operators.base import Facts, Problem, linear
from archspec.operators.heads import Heads


@node
class LinearAttention(Heads):
    """y_i = W_o Σ_j φ(q_i)·φ(k_j) v_j / (Σ_j φ(q_i)·φ(k_j) + eps). Rotary embeddings are applied before φ, which keeps
    weights positive and leaves the teacher's queries and keys as they are.

    Options, each off by default: a depthwise convolution of the values, added to the average (LiT,
    https://arxiv.org/abs/2501.12976); an output gate, ∘ silu(W_g x + b) before W_o (GLA,
    https://arxiv.org/abs/2312.06635); a decay per head, weights times γ^(i-j) (RetNet,
    https://arxiv.org/abs/2307.08621). `feature=relu, eps=1e-15` is the linear attention of SANA
    (https://arxiv.org/abs/2410.10629; SanaLinearAttnProcessor2_0 of diffusers, without its norms).
    Inheriting begins with small filters and gates near one.
    """

    name: ClassVar[str] = "linear_attention"
    maps: ClassVar[frozenset[str]] = Heads.maps | {"gate"}
    source: ClassVar[str] = "Katharopoulos et al. 2020, https://arxiv.org/abs/2006.16236, Eq. 5 and 12"

    feature: Literal["elu1", "relu", "relu2"] = arg(
        "φ: elu(x) + 1; relu(x); or relu(x)² and relu(-x)² side by side, twice the state", default="elu1"
    )
    eps: float = arg("added to each sum of weights", default=1e-6, above=0)
    conv: int = arg(
        "taps of a convolution of the values; 0: none; causal with the operator, else 'same' padding",
        default=0,
        least=0,
        most=128,
    )
    layout: Literal["raster", "grid"] = arg(
        "of the convolution: raster: 1-D kernel in token order; grid: K x K kernel", default="raster"
    )
    gate: bool = arg("multiply by silu of a map of the input, before the read-out", default=False)
    decay: bool = arg("let weights decay with the distance, at a learned rate per head; causal alone", default=False)

    def problems(self, site: SiteShape) -> Iterator[Problem]:
        yield from super().problems(site)
        if self.eps <= 0:
            yield Problem("eps", f"eps is {self.eps:g}", "write more than 0")
        if self.decay and not self.causal:
            message = "a decay is of what came before, and this operator sees later tokens"
            yield Problem("decay", message, "write causal true, or leave decay out")
        if self.layout == "grid":
            yield from self._grid(site)

    def _grid(self, site: SiteShape) -> Iterator[Problem]:
        if not self.conv:
            yield Problem("layout", "the layout is that of the convolution, and there is none", "write conv 3 too")
        if site.grid is None:
            yield Problem("layout", "the tokens of this site form no 2-D grid", "write layout raster")
        if self.causal:
            yield Problem("layout", "a 2-D kernel is not causal", "write layout raster")

    def tensors(self, site: SiteShape) -> Mapping[str, tuple[int, ...]]:
        heads = self.heads or 0
        inner, kernel = heads * (self.head_dim or 0), (self.conv,) * (2 if self.layout == "grid" else 1)
        return {
            **super().tensors(site),
            **({"conv.weight": (inner, 1, *kernel), "conv.bias": (inner,)} if self.conv else {}),
            **(linear("gate", inner, site.width, True) if self.gate else {}),
            **({"decay": (heads,)} if self.decay else {}),
        }

    def facts(self, site: SiteShape) -> Facts:
        return Facts(causal=bool(self.causal), reach=None)
