"""A mixture of experts over the neurons of one MLP: the rows of W_up and the columns of W_down, expert after expert.

Tokens are sorted by expert, so that each expert is two or three dense products over its own tokens and the others cost
nothing. Where the tokens of an expert cannot be counted (a graph is being compiled) all experts work and the unchosen
are masked; on fake tensors, of which FLOPs are counted, experts have equal shares.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.nn.functional import linear

from archspec.host.structure import Port, SiteShape
from archspec.operators.moe import Moe as Signature
from archspec.runtime.learn.clusters import balanced_groups
from archspec.runtime.learn.least_squares import GramAccumulator, fit
from archspec.runtime.learn.scores import norm_scores, select_neurons
from archspec.runtime.operators import memory
from archspec.runtime.operators.base import EMPTY, Context, put
from archspec.runtime.operators.mlp import ACTIVATIONS, Mlp
from archspec.runtime.operators.scan import single_precision


@dataclass(frozen=True)
class Routes:
    """Who works for whom. `slots` (pairs): token x experts + expert of each pair of the two, sorted by expert; `back`:
    where the pairs of each token in turn stand among them; `counts`: pairs of each expert."""

    slots: Tensor
    back: Tensor
    counts: list[int]


class ExpertReadout(nn.Linear):
    """The read-out of all experts: y = W h + b. Told the routes, it leaves out the zeros of those that do not work."""

    def forward(self, h: Tensor, routes: Routes | None = None) -> Tensor:
        """(batch, tokens, hidden) -> (batch, tokens, width)."""
        if routes is None:
            return super().forward(h)
        experts = len(routes.counts)
        parts = torch.split(h.reshape(-1, h.shape[-1] // experts)[routes.slots], routes.counts)
        columns = self.weight.chunk(experts, dim=1)
        y = torch.cat([linear(part, column) for part, column in zip(parts, columns, strict=True)])[routes.back]
        y = y.view(*h.shape[:-1], -1, self.out_features).sum(-2)
        return y if self.bias is None else y + self.bias.to(y.dtype)


class Moe(Mlp):
    """y = Σ W_down,e h_e + b over the experts e of the `top_k` highest scores R x + r."""

    signature = Signature
    config: Signature
    readout: ExpertReadout

    def __init__(self, config: Signature, shape: SiteShape, port: Port = Port(), layer: int | None = None) -> None:
        super().__init__(config, shape, port, layer)
        old = self.readout
        self.readout = ExpertReadout(old.in_features, old.out_features, old.bias is not None)
        self.router = nn.Linear(shape.width, config.experts)

    def mix(self, x: Tensor, context: Context = EMPTY) -> Tensor:
        y: Tensor = self.readout(*self._work(x, context))
        return y

    def features(self, x: Tensor, context: Context = EMPTY) -> Tensor:
        """(batch, tokens, width) -> (batch, tokens, hidden), zeros at experts that do not work."""
        return self._work(x, context)[0]

    def _work(self, x: Tensor, context: Context) -> tuple[Tensor, Routes | None]:
        memory.count(context, x)
        experts, top_k = self.config.experts, self.config.top_k
        scores = self._scores(x)
        chosen, held = scores.topk(top_k).indices, scores.softmax(-1)
        held = (1 + held - held.detach()).to(x.dtype)  # ones, by whose gradients the router learns
        if top_k == experts or torch.compiler.is_compiling():
            mask = torch.zeros_like(held).scatter(-1, chosen, 1.0)
            h = torch.unflatten(self._hidden(x, self.up, self.gate), -1, (experts, -1)) * (mask * held)[..., None]
            return h.flatten(-2), None
        routes = self._routes(chosen.reshape(-1, top_k))
        rows = x.reshape(-1, x.shape[-1])[routes.slots // experts]
        h = self._grouped(rows, routes.counts)
        h = h * held.reshape(-1)[routes.slots].to(h.dtype)[:, None]
        whole = h.new_zeros(len(chosen.reshape(-1, top_k)) * experts, h.shape[-1]).index_copy(0, routes.slots, h)
        return whole.view(*x.shape[:-1], -1), routes

    def _scores(self, x: Tensor) -> Tensor:
        """Return (batch, tokens, experts), in float32 at least: a choice should not hang on how numbers are rounded."""
        wide = torch.promote_types(x.dtype, torch.float32)
        with single_precision(x.device.type):
            return linear(x.to(wide), self.router.weight.to(wide), self.router.bias.to(wide))

    def _hidden(self, x: Tensor, up: nn.Linear, gate: nn.Linear | None) -> Tensor:
        act = ACTIVATIONS[self.config.activation or ""]
        h: Tensor = up(x)
        return act(h) if gate is None else act(gate(x)) * h

    def _routes(self, chosen: Tensor) -> Routes:
        experts = self.config.experts
        flat = chosen.reshape(-1)
        order = torch.argsort(flat, stable=True)
        back = torch.empty_like(order).scatter(0, order, torch.arange(len(order), device=order.device))
        slots = order // chosen.shape[1] * experts + flat[order]
        if flat.is_meta or isinstance(flat, FakeTensor):
            counts = [(len(flat) + e) // experts for e in range(experts)]
        else:
            counts = torch.bincount(flat, minlength=experts).tolist()
        return Routes(slots, back, counts)

    def _grouped(self, rows: Tensor, counts: list[int]) -> Tensor:
        """(pairs, width) sorted by expert -> (pairs, hidden / experts)."""
        act, parts = ACTIVATIONS[self.config.activation or ""], torch.split(rows, counts)
        h = _each(parts, self.up)
        if self.gate is None:
            return torch.cat([act(part) for part in h])
        return torch.cat([act(g) * part for g, part in zip(_each(parts, self.gate), h, strict=True)])

    @torch.no_grad()
    def inherit(self, teacher: Mapping[str, Tensor]) -> None:
        """Group the teacher's neurons (the strongest, if there are too many) by what they respond to: the rows of
        W_gate where there is one, else of W_up. The router scores an expert by the mean response of its neurons, each
        counted by the norm of its output."""
        kept = select_neurons(norm_scores(teacher), self.up.out_features)
        name = "gate" if "gate.weight" in teacher else "up"
        rows = teacher[f"{name}.weight"][kept.to(teacher[f"{name}.weight"].device)]
        groups = balanced_groups(rows, self.config.experts)
        self.keep(teacher, kept[groups.flatten().to(kept.device)])
        source = self.up if self.gate is None else self.gate
        sizes = self.readout.weight.norm(dim=0)
        sizes = sizes / sizes.mean().clamp(min=torch.finfo(sizes.dtype).tiny)
        weight = torch.unflatten(source.weight * sizes[:, None], 0, groups.shape).mean(1)
        put(self.router.weight, weight)
        nn.init.zeros_(self.router.bias)
        if source.bias is not None:
            put(self.router.bias, (source.bias * sizes).view(groups.shape).mean(1))

    def calibration(self) -> RouterFit:
        return RouterFit(self)

    @torch.no_grad()
    def sizes(self, x: Tensor) -> Tensor:
        """Return the norm of each expert's output, (..., experts) of x (..., width): what a perfect router goes by."""
        h = self._hidden(x, self.up, self.gate).chunk(self.config.experts, -1)
        columns = self.readout.weight.chunk(self.config.experts, 1)
        return torch.stack([linear(part, column).norm(dim=-1) for part, column in zip(h, columns, strict=True)], -1)

    @staticmethod
    def reference(x: Tensor, state: Mapping[str, Tensor], config: Any, shape: SiteShape, context: Context) -> Tensor:
        act, size, none = ACTIVATIONS[config.activation], config.hidden // config.experts, x.new_zeros(config.hidden)
        y = state.get("readout.bias", x.new_zeros(1)).expand(x.shape).clone()
        for index in torch.cartesian_prod(*map(torch.arange, x.shape[:2])).tolist():
            token = x[tuple(index)]
            scores = state["router.weight"] @ token + state["router.bias"]
            for expert in sorted(range(config.experts), key=lambda e: -float(scores[e]))[: config.top_k]:
                own = slice(expert * size, (expert + 1) * size)
                h = state["up.weight"][own] @ token + state.get("up.bias", none)[own]
                if config.gated:
                    h = act(state["gate.weight"][own] @ token + state.get("gate.bias", none)[own]) * h
                else:
                    h = act(h)
                y[tuple(index)] += state["readout.weight"][:, own] @ h
        return y


class RouterFit:
    """Fits a router to the sizes of its experts' outputs, from the tokens that the teacher is given."""

    def __init__(self, operator: Moe) -> None:
        self.operator = operator
        weight = operator.router.weight
        self.sums = GramAccumulator.empty(weight.shape[1], weight.shape[0], weight.device)

    def update(self, x: Tensor) -> None:
        """x (..., width)."""
        self.sums.update(x, self.operator.sizes(x))

    @torch.no_grad()
    def finish(self, ridge: float) -> None:
        weight, bias = fit(self.sums, ridge)
        put(self.operator.router.weight, weight)
        if bias is not None:
            put(self.operator.router.bias, bias)


def _each(parts: tuple[Tensor, ...], maps: nn.Linear) -> list[Tensor]:
    """Apply the rows of a map that belong to each expert to that expert's tokens."""
    weights = maps.weight.chunk(len(parts))
    biases = [None] * len(parts) if maps.bias is None else maps.bias.chunk(len(parts))
    return [linear(part, weight, bias) for part, weight, bias in zip(parts, weights, biases, strict=True)]
