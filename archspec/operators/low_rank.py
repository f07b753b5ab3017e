"""The site's own operator with every linear map of low rank.

Each map W (out x in) becomes expand · reduce with reduce (r x in) and expand (out x r, with the bias), r = min(rank,
in, out). `inherit` takes the truncated singular value decomposition of the teacher's maps, the best approximation of
that rank (Eckart and Young 1936). The last factor is the read-out, so that least squares can refit it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import ClassVar

from archspec.host.structure import SiteShape
from archspec.language.fields import arg, node
from archspec.operators.attention import Attention
from archspec.operators.base import Facts, Problem, Signature
from archspec.operators.mlp import Mlp


@node
class LowRank(Signature):
    """Attention, or the MLP, as the site has it, with factorised projections."""

    name: ClassVar[str] = "low_rank"
    slots: ClassVar[frozenset[str]] = frozenset({"attn", "mlp"})
    inits: ClassVar[tuple[str, ...]] = ("inherit", "random", "identity", "least_squares")
    single: ClassVar[str] = "it factorises the maps of one stream"
    source: ClassVar[str] = "Eckart and Young 1936, https://doi.org/10.1007/BF02288367"

    rank: int = arg("largest rank of each map", least=1, example=64)

    @staticmethod
    def body(site: SiteShape) -> Attention | Mlp:
        """Return the operator whose maps are factorised: an MLP where the site has an inner width."""
        return Mlp.native(site) if site.hidden is not None else Attention.native(site)

    def problems(self, site: SiteShape) -> Iterator[Problem]:
        yield from super().problems(site)
        if site.hidden is None and site.heads is None:
            yield Problem(None, "neither the heads nor the inner width of this site are known", "use attention or mlp")
            return
        yield from (Problem(None, p.message, p.hint) for p in self.body(site).problems(site))
        if self.rank > site.width:
            hint = f"write at most {site.width}"
            yield Problem("rank", f"rank {self.rank} is more than the width {site.width}", hint)

    def inherits(self, site: SiteShape) -> tuple[str, ...]:
        return self.body(site).inherits(site)

    def obstacles(self, site: SiteShape) -> Iterator[Problem]:
        return iter(())

    def tensors(self, site: SiteShape) -> Mapping[str, tuple[int, ...]]:
        found: dict[str, tuple[int, ...]] = {}
        for name, shape in self.body(site).tensors(site).items():
            where, _, leaf = name.rpartition(".")
            outside = where == "readout"
            if leaf == "bias" or len(shape) == 1:
                found[name if outside else f"body.{where}.expand.bias" if leaf == "bias" else f"body.{name}"] = shape
            else:
                rank = min(self.rank, *shape)
                found["reduce.weight" if outside else f"body.{where}.reduce.weight"] = (rank, shape[1])
                found["readout.weight" if outside else f"body.{where}.expand.weight"] = (shape[0], rank)
        return found

    def facts(self, site: SiteShape) -> Facts:
        return self.body(site).facts(site)
