"""The contract of an operator module: features, then one linear read-out.

    forward(x) = readout(features(x)),  (batch, tokens, width) -> (batch, tokens, width)

`features` is everything but the last linear map. This split is what makes a closed-form initialization possible: with the
features fixed, the read-out that best imitates the teacher is a least-squares problem whose Gram matrix is small
whatever the number of tokens. An operator without parameters has no read-out and overrides `mix`.

The host calls an operator as it called the module that stood there; `Port` says which argument holds the tokens, and
`Context` carries what else an operator may use.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from archspec.operators.base import Signature
from archspec.structure import Port, SiteShape


class Cache(Protocol):
    """The part of `transformers.Cache` that operators use."""

    def update(self, keys: Tensor, values: Tensor, layer: int) -> tuple[Tensor, Tensor]: ...

    def get_seq_length(self, layer: int = 0) -> int: ...


@dataclass(frozen=True)
class Context:
    """What the host offers beside the tokens.

    `rotary`: (cos, sin), each (batch or 1, tokens, head_dim), of the tokens in `x`. `mask`: what the host passes to its
    attention (additive or boolean, broadcastable to (batch, heads, queries, keys)) or (batch, keys). `cache` and
    `layer`: the host's key/value cache and the operator's place in it.
    """

    rotary: tuple[Tensor, Tensor] | None = None
    mask: Tensor | None = None
    cache: Cache | None = None
    layer: int = 0


EMPTY = Context()


class Operator(nn.Module):
    """Base of all operators. Subclasses set `signature` and build their modules in `__init__` after `super()`."""

    signature: type[Signature]
    readout: nn.Linear | None = None

    def __init__(self, config: Any, shape: SiteShape, port: Port = Port(), layer: int | None = None) -> None:
        super().__init__()
        self.config, self.shape, self.port = config, shape, port
        self.layer_idx = layer
        """Named as in transformers, whose code renumbers and reads it."""

    def features(self, x: Tensor, context: Context = EMPTY) -> Tensor:
        """(batch, tokens, width) -> (batch, tokens, features)."""
        raise NotImplementedError

    def mix(self, x: Tensor, context: Context = EMPTY) -> Tensor:
        """(batch, tokens, width) -> (batch, tokens, width)."""
        assert self.readout is not None
        return self.readout(self.features(x, context))

    def inherit(self, teacher: Mapping[str, Tensor]) -> None:
        """Take over the teacher's weights (canonical names of `Site.teacher`) as far as the operator has a place for
        them. Called once, after the random initialization."""
        raise NotImplementedError

    def identify(self) -> None:
        """Set weights so that the operator (with its residual around it) changes nothing, or maps x to x."""
        raise NotImplementedError

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        port = self.port
        x = kwargs[port.input] if port.input in kwargs else args[0]
        context = Context(
            rotary=kwargs.get(port.rotary) if port.rotary else None,
            mask=kwargs.get(port.mask) if port.mask else None,
            cache=kwargs.get(port.cache) if port.cache else None,
            layer=self.layer_idx or 0,
        )
        y = self.mix(x, context)
        return y if port.returns == 0 else (y, *(None,) * (port.returns - 1))


def reset(operator: nn.Module, seed: int) -> None:
    """Draw random weights from `seed` alone, whatever was drawn before: torch's own `reset_parameters` of each part."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for module in operator.modules():
            if callable(getattr(module, "reset_parameters", None)):
                module.reset_parameters()
