"""The MLP Hyena-X of arXiv 2506.05340: gates in place of the activation, and a short convolution along the features."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import ClassVar, Literal, Self

from archspec.host.structure import SiteShape
from archspec.language.fields import arg, node
from archspec.operators.base import Facts, Problem, Signature, linear
from archspec.operators.gated import Filters
from archspec.operators.mlp import WIDEST, inner_width

HALVING = ("gelu", "gelu_pytorch_tanh", "gelu_new", "quick_gelu", "silu", "swish", "relu")
"""Activations that are z / 2 and something even: what q ∘ k can imitate. Their outputs look alike near zero."""


@node
class HyenaMlp(Signature):
    """[q, k, v] = conv_K(W_in x); y = W_out (q ∘ k ∘ v), the convolution along the features.

    Output feature f of the convolution reads features f-K+1 ... f of the same token, across the borders of q, k and v.
    As published, every token has a filter of its own: the weights hold the number of tokens, so the model runs at its
    native size alone. `channels: shared` is the same with one filter for all tokens, for hosts of any length.
    """

    name: ClassVar[str] = "hyena_mlp"
    slots: ClassVar[frozenset[str]] = frozenset({"mlp"})
    inits: ClassVar[tuple[str, ...]] = ("inherit", "random", "identity", "least_squares")
    source: ClassVar[str] = "Grafting, https://arxiv.org/abs/2506.05340, Tab. 3 (MLP Hyena-X)"

    kernel: int = arg("taps of the convolution", default=4, least=1, most=128)
    ratio: float | None = arg(
        "width of q, of k and of v as a multiple of the host's; default: 2",
        default=None,
        above=0,
        most=WIDEST,
        example=2,
    )
    hidden: int | None = arg("width of q, of k and of v, instead of ratio", default=None, least=1, most=WIDEST)
    channels: Literal["tokens", "shared"] = arg("tokens: a filter for each token; shared: one", default="tokens")
    filters: Filters = arg(
        "filters before training: torch's random ones, or 1 at the feature itself, as after init inherit",
        default="random",
    )
    bias: bool | None = arg("bias of W_in; default: true", default=None)
    out_bias: bool | None = arg("bias of W_out; default: as the host", default=None)

    def complete(self, site: SiteShape) -> Self:
        hidden = self.hidden or round((2 if self.ratio is None else self.ratio) * site.width)
        return self.fill(hidden=hidden, ratio=hidden / site.width, bias=True, out_bias=site.out_bias)

    def problems(self, site: SiteShape) -> Iterator[Problem]:
        yield from super().problems(site)
        yield from inner_width(self.ratio, self.hidden, site)
        if self.facts(site).token_bound and site.tokens is None:
            message = "its weights hold the number of tokens, and this site takes any number"
            yield Problem("channels", message, "write channels shared")

    def inherits(self, site: SiteShape) -> tuple[str, ...]:
        return ("up", "gate", "down") if site.gated else ("up", "down")

    def obstacles(self, site: SiteShape) -> Iterator[Problem]:
        """Another inner width is no obstacle, as of `mlp`."""
        if site.hidden is None:
            yield Problem(None, "the teacher at this site is no MLP", "write init random or least_squares")
        elif site.activation not in HALVING:
            message = f"gates cannot imitate the teacher's activation '{site.activation}'"
            yield Problem(None, message, "write init random or least_squares")
        if not self.bias:
            yield Problem("bias", "gates near one need biases of W_in", "leave bias out")
        if site.out_bias and not self.out_bias:
            yield Problem("out_bias", "the teacher's read-out has a bias", "leave out_bias out")

    def tensors(self, site: SiteShape) -> Mapping[str, tuple[int, ...]]:
        hidden = self.hidden or 0
        filters = (site.tokens or 0) if self.channels == "tokens" else 1
        return {
            **linear("project", 3 * hidden, site.width, self.bias),
            "conv.weight": (filters, 1, self.kernel),
            "conv.bias": (filters,),
            **linear("readout", site.width, hidden, self.out_bias),
        }

    def facts(self, site: SiteShape) -> Facts:
        return Facts(causal=True, reach=0, token_bound=self.channels == "tokens")
