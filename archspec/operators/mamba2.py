"""Mamba-2: a selective state space model, the recurrent operator of arXiv 2506.05340; cost linear in the tokens."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import ClassVar, Self

from archspec.host.structure import SiteShape
from archspec.language.fields import arg, node
from archspec.operators.base import Facts, Problem, Signature, linear, projections


@node
class Mamba2(Signature):
    """[z, u, dt] = W_in x; [x, B, C] = silu(conv_K(u)), depthwise, over the tokens before; per head
    h_i = exp(-exp(a) dt_i) h_{i-1} + dt_i B_i x_iᵀ and y_i = h_iᵀ C_i + D x_i, with dt = softplus(dt + dt_bias);
    out = W_out RMSNorm(y ∘ silu(z)), normalised per group.

    Heads: expand x width / head_dim; B and C are shared by the heads of a group. Causal false: convolution and scan
    run over the tokens and, with the same weights, over the tokens in reverse; their y are added before the norm.
    The rows of W_in are in the order of mamba_ssm: z, x, B, C, dt. Inheriting sets x, B, C from v, k, q (The Mamba
    in the Llama, https://arxiv.org/abs/2408.15237) without rotary embeddings and query/key norms; it needs the
    teacher's heads: groups and head_dim as its heads, state = head_dim, and expand x width = heads x head_dim.
    """

    name: ClassVar[str] = "mamba2"
    slots: ClassVar[frozenset[str]] = frozenset({"attn"})
    inits: ClassVar[tuple[str, ...]] = ("inherit", "random", "identity", "least_squares")
    maps: ClassVar[frozenset[str]] = frozenset({"project", "readout"})
    source: ClassVar[str] = (
        "Dao & Gu 2024, https://arxiv.org/abs/2405.21060, Sec. 6 and 7; sizes: Grafting, "
        "https://arxiv.org/abs/2506.05340, Tab. 3"
    )

    state: int = arg("features of B and of C, the state per channel", default=64, least=1, most=1024)
    conv: int = arg("taps of the convolution", default=4, least=1, most=128)
    expand: float = arg("inner width as a multiple of the width", default=2.0, above=0)
    head_dim: int = arg("channels per head; must divide the inner width", default=16, least=1)
    groups: int = arg("sets of B and C; must divide the heads", default=1, least=1)
    chunk: int = arg("tokens per step of the scan in plain torch: speed and memory alone", default=32, least=1)
    causal: bool | None = arg("no token sees a later one; default: true", default=None)
    bias: bool | None = arg("bias of W_in; default: false", default=None)
    out_bias: bool | None = arg("bias of W_out; default: false", default=None)

    def complete(self, site: SiteShape) -> Self:
        return self.fill(causal=True, bias=False, out_bias=False)

    def inner(self, site: SiteShape) -> int:
        """Channels of x, of z and of the output before W_out."""
        return round(self.expand * site.width)

    def heads(self, site: SiteShape) -> int:
        return self.inner(site) // self.head_dim

    def parts(self, site: SiteShape) -> tuple[int, int, int, int, int]:
        """Rows of W_in: z, x, B, C, dt."""
        inner, shared = self.inner(site), self.groups * self.state
        return inner, inner, shared, shared, self.heads(site)

    def problems(self, site: SiteShape) -> Iterator[Problem]:
        broken = tuple(super().problems(site))
        yield from broken
        if self.expand <= 0 or abs(self.inner(site) - self.expand * site.width) > 1e-6 * site.width:
            message = f"expand {self.expand:g} of width {site.width} is no whole number of channels"
            yield Problem("expand", message, f"write a multiple of 1 / {site.width}")
        elif not broken:
            yield from self._division(site)
        if site.causal and not self.causal:
            yield Problem("causal", "the host is causal and this operator would see later tokens", "leave causal out")

    def _division(self, site: SiteShape) -> Iterator[Problem]:
        inner, heads = self.inner(site), self.heads(site)
        if inner % self.head_dim:
            message = f"head_dim {self.head_dim} does not divide the inner width {inner}"
            yield Problem("head_dim", message, f"write a divisor of {inner}")
        elif heads % self.groups:
            yield Problem("groups", f"{self.groups} groups do not divide {heads} heads", f"write a divisor of {heads}")

    def inherits(self, site: SiteShape) -> tuple[str, ...]:
        return projections(site)

    def obstacles(self, site: SiteShape) -> Iterator[Problem]:
        """B, C and x are the teacher's k, q and v only where its heads stay apart."""
        if not site.heads or not site.head_dim:
            yield Problem(None, "the teacher at this site is no attention", "write init random or least_squares")
            return
        if self.groups != site.heads:
            yield Problem(
                "groups", f"the teacher has {site.heads} heads, not {self.groups}", f"write groups {site.heads}"
            )
        if self.inner(site) != site.heads * site.head_dim:
            wanted = site.heads * site.head_dim
            hint = f"write expand {wanted / site.width:g}"
            yield Problem("expand", f"the teacher's heads are {wanted} wide, not {self.inner(site)}", hint)
        for name, size in (("head_dim", self.head_dim), ("state", self.state)):
            if size != site.head_dim:
                message = f"the teacher's heads have {site.head_dim} features, and {name} is {size}"
                yield Problem(name, message, f"write {name} {site.head_dim}")
        if site.bias and not self.bias:
            yield Problem("bias", "the teacher's projections have biases", "write bias true")
        if site.out_bias and not self.out_bias:
            yield Problem("out_bias", "the teacher's read-out has a bias", "write out_bias true")

    def tensors(self, site: SiteShape) -> Mapping[str, tuple[int, ...]]:
        inner, heads, parts = self.inner(site), self.heads(site), self.parts(site)
        mixed = sum(parts[1:4])
        return {
            "dt_bias": (heads,),
            "a_log": (heads,),
            "skip": (heads,),
            **linear("project", sum(parts), site.width, self.bias),
            "conv.weight": (mixed, 1, self.conv),
            "conv.bias": (mixed,),
            "norm.weight": (inner,),
            **linear("readout", site.width, inner, self.out_bias),
        }

    def facts(self, site: SiteShape) -> Facts:
        return Facts(causal=bool(self.causal), reach=None)
