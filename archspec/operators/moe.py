"""A mixture of experts that are groups of one MLP's neurons: only the best few work for each token."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import ClassVar

from archspec.host.structure import SiteShape
from archspec.language.fields import arg, node
from archspec.operators.base import Problem, linear
from archspec.operators.mlp import Mlp


@node
class Moe(Mlp):
    """y = Σ_{e in top_k(R x + r)} W_down,e h_e + b, h_e the inner features of `mlp` of expert e alone.

    Experts are equal groups of neurons; inheriting groups the teacher's by balanced k-means of their input weights.
    Experts are not weighed, so with `top_k` equal to `experts` it is the whole MLP. The router starts from the
    groups' mean neurons; `least_squares` refits it to the sizes of the experts' outputs. It learns through softmax
    weights whose value is held at one. FLOPs are those of the chosen experts.
    """

    name: ClassVar[str] = "moe"
    single: ClassVar[str] = "its router and its experts are those of one stream"
    source: ClassVar[str] = "MoEfication, https://arxiv.org/abs/2110.01786, Sec. 3; balanced k-means: its Sec. 3.2"

    experts: int = arg("groups of neurons; must divide the inner width", default=8, least=1, most=4096)
    top_k: int = arg("experts that work for a token", default=2, least=1)

    def problems(self, site: SiteShape) -> Iterator[Problem]:
        yield from super().problems(site)
        if self.experts > 0 and (self.hidden or 0) % self.experts:
            message = f"{self.experts} experts do not divide the inner width {self.hidden}"
            yield Problem("experts", message, f"write a divisor of {self.hidden}")
        if self.top_k > self.experts:
            message = f"top_k is {self.top_k} and there are {self.experts} experts"
            yield Problem("top_k", message, f"write at most {self.experts}")

    def obstacles(self, site: SiteShape) -> Iterator[Problem]:
        yield from super().obstacles(site)
        if site.hidden is not None and (self.hidden or 0) > site.hidden:
            message = f"the teacher has {site.hidden} neurons to group, not {self.hidden}"
            yield Problem("hidden", message, "leave ratio and hidden out")

    def tensors(self, site: SiteShape) -> Mapping[str, tuple[int, ...]]:
        return {**super().tensors(site), **linear("router", self.experts, site.width, True)}
