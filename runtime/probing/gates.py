"""Gate sensitivity: how much the loss of the host's task would change if a site did a little more or less.

A gate g stands behind each site, one number per example: attentions and MLPs give g f(x), blocks x + g (B(x) - x), so
that g = 1 is the host as it is and g = 0 the host without the site. The first-order Taylor term of leaving the site out
is g dL/dg at g = 1: https://arxiv.org/abs/1905.10650 prunes heads by the mean of its magnitude over examples,
https://arxiv.org/abs/1906.10771 filters by that of its square. One backward pass gives the derivatives of all
gates: each multiplies what the others do, and none changes a number of the forward pass.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from archspec.host.structure import Site
from archspec.runtime.learn.taps import own_part
from archspec.runtime.objectives import Features, Objective


def has_loss(objective: Objective) -> bool:
    """Say whether there is a task to be better or worse at."""
    return not isinstance(objective, Features)


def derivatives(
    host: nn.Module, sites: Sequence[Site], objective: Objective, keywords: Mapping[str, Any], target: Tensor
) -> dict[str, Tensor]:
    """Return module path -> dL/dg of each example, (batch,), of the sites that ran. L is an example's own loss; where
    examples are of unequal length, its part of the batch's."""
    with torch.enable_grad(), _frozen(host), _gated(host, sites) as gates:
        loss = objective.loss(objective.output(host(**keywords)), target)
        found = torch.autograd.grad(loss, list(gates.values()), allow_unused=True)
    zeros = (torch.zeros_like(gate) if grad is None else grad for gate, grad in zip(gates.values(), found, strict=True))
    return {path: len(grad) * grad.detach() for path, grad in zip(gates, zeros, strict=True)}


@contextmanager
def _frozen(host: nn.Module) -> Iterator[None]:
    """Let the backward pass keep nothing for the weights."""
    learning = [parameter for parameter in host.parameters() if parameter.requires_grad]
    host.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in learning:
            parameter.requires_grad_(True)


@contextmanager
def _gated(host: nn.Module, sites: Sequence[Site]) -> Iterator[dict[str, Tensor]]:
    """Put gates at the sites while the block lasts. What is given holds those whose site ran, as g - 1, (batch,)."""
    gates: dict[str, Tensor] = {}
    inputs: list[tuple[Tensor, ...]] = []

    def enter(site: Site, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        names = [name for name, _ in site.port.streams] or [site.port.input]
        inputs.append(tuple(args[i] if i < len(args) else kwargs[name] for i, name in enumerate(names)))

    def leave(site: Site, last: nn.Module, given: tuple[Any, ...], output: Any) -> Any:
        before = inputs.pop()
        parts = list(output) if isinstance(output, tuple) else [output]
        gate = gates.get(site.path)
        if gate is None:  # a module may run more than once: one gate then stands at all of its calls
            like = parts[site.port.output]
            gate = gates.setdefault(site.path, like.new_zeros(len(like), requires_grad=True))
        streams = site.port.streams or ((site.port.input, site.port.output),)
        for x, (_, index) in zip(before, streams, strict=True):
            if index is not None:
                own = own_part(last, given, parts[index], site.port.foreign)
                done = own - x if site.slot == "block" else own
                parts[index] = parts[index] + gate.reshape(-1, *(1,) * (done.ndim - 1)) * done
        return tuple(parts) if isinstance(output, tuple) else parts[0]

    handles = []
    for site in sites:
        first, last = host.get_submodule(site.path), host.get_submodule(site.paths[-1])
        handles.append(first.register_forward_pre_hook(lambda _, a, k, site=site: enter(site, a, k), with_kwargs=True))
        handles.append(last.register_forward_hook(lambda m, a, y, site=site: leave(site, m, a, y)))
    try:
        yield gates
    finally:
        for handle in handles:
            handle.remove()
