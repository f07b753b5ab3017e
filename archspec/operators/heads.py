"""What operators with query, key and value heads share: their parameters, constraints and tensors.

Heads default to the site's own. With grouped heads (Ainslie et al. 2023, https://arxiv.org/abs/2305.13245) every
key/value head serves `heads / kv_heads` query heads. Rotary embeddings and causality follow the site.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import ClassVar, Self

from archspec.host.structure import SiteShape
from archspec.language.fields import arg, node
from archspec.operators.base import Problem, Signature, linear, projections


@node
class Heads(Signature):
    """Base of the attention-like signatures: maps q, k, v, a mixer of heads, a read-out."""

    slots: ClassVar[frozenset[str]] = frozenset({"attn"})
    inits: ClassVar[tuple[str, ...]] = ("inherit", "random", "identity", "least_squares")
    maps: ClassVar[frozenset[str]] = frozenset({"q", "k", "v", "q_norm", "k_norm", "readout"})

    heads: int | None = arg("query heads; default: the site's", default=None, least=1)
    kv_heads: int | None = arg("key and value heads; must divide `heads`; default: the site's", default=None, least=1)
    head_dim: int | None = arg("features per head; default: the site's", default=None, least=1)
    causal: bool | None = arg("no token sees a later one; default: as the host", default=None)
    rotary: bool | None = arg("apply the host's rotary embeddings; default: as the host", default=None)
    qk_norm: bool | None = arg("RMS-normalise queries and keys per head; default: as the host", default=None)
    bias: bool | None = arg("biases of the query, key and value maps; default: as the host", default=None)
    out_bias: bool | None = arg("bias of the read-out; default: as the host", default=None)

    def complete(self, site: SiteShape) -> Self:
        heads = self.heads or site.heads
        own = heads == site.heads
        inner = _inner(site)
        return self.fill(
            heads=heads,
            kv_heads=(site.kv_heads if own else None) or heads,
            head_dim=site.head_dim if own and site.head_dim else inner // heads if heads else None,
            causal=site.causal,
            rotary=site.rotary,
            qk_norm=site.qk_norm,
            bias=site.bias,
            out_bias=site.out_bias,
        )

    def problems(self, site: SiteShape) -> Iterator[Problem]:
        broken = tuple(super().problems(site))
        yield from broken
        if self.heads is None or self.kv_heads is None or self.head_dim is None:
            yield Problem("heads", "the number of heads of this site is not known", "write heads and head_dim")
        elif self.head_dim == 0:
            yield Problem("heads", f"{self.heads} heads leave no feature of {_inner(site)}", "write fewer heads")
        elif not broken:
            yield from self._division(site, self.heads, self.kv_heads)
        yield from self._order(site)
        yield from self._rotary(site)

    def _division(self, site: SiteShape, heads: int, kv_heads: int) -> Iterator[Problem]:
        inner = _inner(site)
        if heads % kv_heads:
            message = f"{kv_heads} key/value heads do not divide {heads} heads"
            yield Problem("kv_heads", message, f"write a divisor of {heads}")
        if inner % heads and self.head_dim == inner // heads:
            message = f"{heads} heads do not divide the width {inner}"
            yield Problem("heads", message, f"write a divisor of {inner}, or head_dim")

    def _order(self, site: SiteShape) -> Iterator[Problem]:
        if site.causal and not self.causal:
            yield Problem("causal", "the host is causal and this operator would see later tokens", "leave causal out")

    def _rotary(self, site: SiteShape) -> Iterator[Problem]:
        if not self.rotary or self.head_dim is None:
            return
        if not site.rotary:
            yield Problem("rotary", "the host gives this site no rotary embeddings", "leave rotary out")
        elif site.head_dim and self.head_dim != site.head_dim:
            hint = f"write head_dim {site.head_dim}, or rotary false"
            yield Problem("head_dim", f"the host's rotary embeddings are {site.head_dim} wide", hint)
        elif self.head_dim % 2:
            yield Problem(
                "head_dim", f"rotary embeddings need an even head_dim, not {self.head_dim}", "write an even one"
            )

    def inherits(self, site: SiteShape) -> tuple[str, ...]:
        return (*projections(site), *(("q_norm", "k_norm") if site.qk_norm and self.qk_norm else ()))

    def obstacles(self, site: SiteShape) -> Iterator[Problem]:
        """Other key/value heads than the teacher's are pooled (mean) or repeated; all else must be the teacher's."""
        if self.heads != site.heads:
            yield Problem("heads", f"the teacher has {site.heads} heads, not {self.heads}", "leave heads out")
        elif self.head_dim != site.head_dim:
            yield Problem("head_dim", f"the teacher's heads are {site.head_dim} wide", "leave head_dim out")
        elif self.kv_heads and site.kv_heads and max(self.kv_heads, site.kv_heads) % min(self.kv_heads, site.kv_heads):
            hint = f"write a divisor or a multiple of {site.kv_heads}"
            yield Problem("kv_heads", f"{self.kv_heads} heads cannot be made of the teacher's {site.kv_heads}", hint)
        if site.qk_norm and not self.qk_norm:
            yield Problem("qk_norm", "the teacher normalises queries and keys", "leave qk_norm out")
        if site.bias and not self.bias:
            yield Problem("bias", "the teacher's projections have biases", "leave bias out")
        if site.out_bias and not self.out_bias:
            yield Problem("out_bias", "the teacher's read-out has a bias", "leave out_bias out")

    def tensors(self, site: SiteShape) -> Mapping[str, tuple[int, ...]]:
        heads, groups, size = self.heads or 0, self.kv_heads or 0, self.head_dim or 0
        return {
            **linear("q", heads * size, site.width, self.bias),
            **linear("k", groups * size, site.width, self.bias),
            **linear("v", groups * size, site.width, self.bias),
            **({"q_norm.weight": (size,), "k_norm.weight": (size,)} if self.qk_norm else {}),
            **linear("readout", site.width, heads * size, self.out_bias),
        }


def _inner(site: SiteShape) -> int:
    """Return the width of all the site's heads together; the site's width where they are not known."""
    return (site.heads or 0) * (site.head_dim or 0) or site.width
