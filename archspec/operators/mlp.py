"""The token-wise MLP at any inner width, gated (SwiGLU) or not."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import ClassVar, Self

from archspec.diagnostics import nearest
from archspec.host.structure import SiteShape
from archspec.language.fields import arg, node
from archspec.operators.base import Facts, Problem, Signature, linear

ACTIVATIONS = (
    "gelu",
    "gelu_pytorch_tanh",
    "gelu_new",
    "quick_gelu",
    "silu",
    "swish",
    "relu",
    "relu2",
    "tanh",
    "sigmoid",
)
"""Names of transformers' ACT2FN that the runtime has a function for."""
WIDEST = 1 << 20
"""Of inner widths: forty times what the largest published model has; more is a slip of the pen."""


def inner_width(ratio: float | None, hidden: int | None, site: SiteShape) -> Iterator[Problem]:
    """Say what is wrong with the inner width of a complete config."""
    if ratio is not None and (ratio <= 0 or round(ratio * site.width) != hidden):
        message = f"ratio {ratio:g} of width {site.width} is not an inner width of {hidden}"
        yield Problem("ratio", message, "write ratio or hidden, not both")
    elif hidden is not None and hidden > WIDEST:
        yield Problem("ratio", f"an inner width of {hidden} is more than {WIDEST}", "write a smaller ratio")


@node
class Mlp(Signature):
    """y = W_down act(W_up x); gated: y = W_down (act(W_gate x) ∘ W_up x).

    A gated MLP inherits from a teacher without gates exactly: the teacher's W_up becomes W_gate, and what it is
    multiplied by begins as one.
    """

    name: ClassVar[str] = "mlp"
    slots: ClassVar[frozenset[str]] = frozenset({"mlp", "attn"})
    inits: ClassVar[tuple[str, ...]] = ("inherit", "random", "identity", "least_squares")
    maps: ClassVar[frozenset[str]] = frozenset({"up", "gate", "readout"})
    source: ClassVar[str] = (
        "Vaswani et al. 2017, https://arxiv.org/abs/1706.03762, Eq. 2; SwiGLU: https://arxiv.org/abs/2002.05202"
    )

    ratio: float | None = arg(
        "inner width as a multiple of the width; default: the site's", default=None, above=0, most=WIDEST, example=3
    )
    hidden: int | None = arg("inner width, instead of ratio", default=None, least=1, most=WIDEST)
    activation: str | None = arg("activation; default: the site's, else gelu_pytorch_tanh", default=None)
    gated: bool | None = arg("multiply by a second projection; default: as the host", default=None)
    bias: bool | None = arg("biases of the input maps; default: as the host", default=None)
    out_bias: bool | None = arg("bias of the read-out; default: as the host", default=None)

    def complete(self, site: SiteShape) -> Self:
        asked = round(self.ratio * site.width) if self.ratio is not None else None
        hidden = self.hidden or asked or site.hidden or 4 * site.width
        return self.fill(
            hidden=hidden,
            ratio=hidden / site.width,
            activation=site.activation or "gelu_pytorch_tanh",
            gated=site.gated,
            bias=site.bias,
            out_bias=site.out_bias,
        )

    def problems(self, site: SiteShape) -> Iterator[Problem]:
        yield from super().problems(site)
        yield from inner_width(self.ratio, self.hidden, site)
        if self.activation not in ACTIVATIONS:
            hint = " ".join(nearest(str(self.activation), ACTIVATIONS)) or f"write one of {', '.join(ACTIVATIONS)}"
            yield Problem("activation", f"unknown activation '{self.activation}'", hint)

    def inherits(self, site: SiteShape) -> tuple[str, ...]:
        return ("up", "gate", "down") if site.gated else ("up", "down")

    def obstacles(self, site: SiteShape) -> Iterator[Problem]:
        """Another inner width is no obstacle: the strongest neurons are kept, missing ones contribute nothing. Nor is a
        teacher without gates, where biases can hold them open."""
        if site.hidden is None:
            yield Problem(None, "the teacher at this site is no MLP", "write init random or least_squares")
            return
        if site.gated and not self.gated:
            yield Problem("gated", "the teacher is gated", "leave gated out")
        if self.gated and not site.gated and not self.bias:
            yield Problem(
                "bias", "the teacher is not gated, and gates that are to begin open need a bias", "write bias true"
            )
        if self.activation != site.activation:
            yield Problem("activation", f"the teacher's activation is '{site.activation}'", "leave activation out")
        if site.bias and not self.bias:
            yield Problem("bias", "the teacher's input maps have biases", "leave bias out")
        if site.out_bias and not self.out_bias:
            yield Problem("out_bias", "the teacher's read-out has a bias", "leave out_bias out")

    def tensors(self, site: SiteShape) -> Mapping[str, tuple[int, ...]]:
        hidden = self.hidden or 0
        return {
            **linear("up", hidden, site.width, self.bias),
            **(linear("gate", hidden, site.width, self.bias) if self.gated else {}),
            **linear("readout", site.width, hidden, self.out_bias),
        }

    def facts(self, site: SiteShape) -> Facts:
        return Facts(causal=True, reach=0)
