"""The contract of an operator module: features, then one linear read-out.

    forward(x) = readout(features(x)),  (batch, tokens, width) -> (batch, tokens, width)

`features` is everything but the last linear map. This split is what makes a closed-form initialization possible: with
the features fixed, the read-out that best imitates the teacher is a least-squares problem whose Gram matrix is small
whatever the number of tokens. An operator without parameters has no read-out and overrides `mix`.

`reference` says the same mathematics slowly and obviously, in loops or dense matrices: it is the definition that the
tests hold `forward` to. It knows no cache.

Where a site mixes two streams (`SiteShape.beside`), the operator sees them as one sequence, the second stream first.
Each stream goes through maps of its own (`Signature.maps`), the second one's are kept in `beside`; what is between the
maps is one for both.

Where the host's module reads features of others before those of the site (`SiteShape.foreign`), the operator has the
host's map of these in `foreign`, and adds what it gives.

The host calls an operator as it called the module that stood there; `Port` says which argument holds the tokens, and
`Context` carries what else an operator may use.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, Self

import torch
from torch import Tensor, nn

from archspec.diagnostics import InternalError, fail
from archspec.host.structure import BESIDE, Port, SiteShape, Streams
from archspec.operators.base import FOREIGN, Signature


class Cache(Protocol):
    """The part of `transformers.Cache` that operators use."""

    layers: list[Any]
    layer_class_to_replicate: type | None

    def update(self, key_states: Tensor, value_states: Tensor, layer_idx: int) -> tuple[Tensor, Tensor]: ...

    def get_seq_length(self, layer_idx: int = 0) -> int: ...


@dataclass(frozen=True)
class Context:
    """What the host offers beside the tokens.

    `rotary`: (cos, sin), each (batch or 1, tokens, head_dim), of the tokens in `x`. `mask`: what the host passes to its
    attention (additive or boolean, broadcastable to (batch, heads, queries, keys)) or (batch, keys). `cache` and
    `layer`: the host's key/value cache and the operator's place in it. `interleaved`: as `Port.interleaved`. `before`:
    how many of the tokens are those of a second stream, which stand before the others.
    """

    rotary: tuple[Tensor, Tensor] | None = None
    mask: Tensor | None = None
    cache: Cache | None = None
    layer: int = 0
    interleaved: bool = False
    before: int = 0


EMPTY = Context()
GATE = 0.1
"""How far an inherited gate moves from its constant for an input of unit variance."""


class Calibration(Protocol):
    """A closed form, beside that of the read-out, from the tokens that a teacher is given."""

    def update(self, x: Tensor) -> None:
        """See more tokens, (..., width)."""

    def finish(self, ridge: float) -> None:
        """Write what was found into the operator. `ridge`: as of `least_squares.fit`."""


class Operator(nn.Module):
    """Base of all operators. Subclasses set `signature` and build their modules in `__init__` after `super()`.

    A last linear map is named `readout`; input maps have the names of the teacher's weights where there are any.
    """

    signature: type[Signature]
    readout: nn.Linear | None
    foreign: nn.Linear | None

    def __init__(self, config: Any, shape: SiteShape, port: Port = Port(), layer: int | None = None) -> None:
        super().__init__()
        self.config, self.shape, self.port = config, shape, port
        self.register_module("readout", None)
        self.beside: nn.ModuleDict | None = None
        self.register_module(FOREIGN, nn.Linear(shape.foreign, shape.width) if shape.foreign else None)
        self.layer_idx = layer
        """Named as in transformers, whose code renumbers and reads it."""

    def features(self, x: Tensor, context: Context = EMPTY) -> Tensor:
        """(batch, tokens, width) -> (batch, tokens, features)."""
        raise NotImplementedError

    def mix(self, x: Tensor, context: Context = EMPTY) -> Tensor:
        """(batch, tokens, width) -> (batch, tokens, width), without tokens of a stream that ends here."""
        if self.readout is None:
            raise InternalError(f"{type(self).__name__} has no read-out and does not override mix")
        return self.map("readout", self.features(x, context), context)

    def joined(self) -> Self:
        """Return itself, with maps of a second stream where the site has one. Once, after all is built."""
        if self.shape.beside is not None:
            twins = self.config.twins(self.shape)
            self.beside = nn.ModuleDict({n: copy.deepcopy(m) for n, m in self.named_children() if n in twins})
        return self

    def map(self, name: str, x: Tensor, context: Context, dim: int = 1) -> Tensor:
        """Return what the map `name` makes of the tokens, which lie along `dim`, each stream by its own. Of a second
        stream that has no such map nothing remains."""
        own: nn.Module = getattr(self, name)
        if not context.before or self.beside is None:
            y: Tensor = own(x)
            return y
        first, rest = x.narrow(dim, 0, context.before), x.narrow(dim, context.before, x.shape[dim] - context.before)
        twins: Mapping[str, nn.Module] = dict(self.beside)
        return torch.cat([*([twins[name](first)] if name in twins else []), own(rest)], dim)

    @property
    def readouts(self) -> tuple[nn.Linear, ...]:
        """The read-outs of the streams that come out, the own one's first."""
        found: list[Any] = [self.readout, dict(self.beside or {}).get("readout")]
        return tuple(readout for readout in found if readout is not None)

    @staticmethod
    def reference(x: Tensor, state: Mapping[str, Tensor], config: Any, shape: SiteShape, context: Context) -> Tensor:
        """The definition: what `mix` computes with the weights `state`."""
        raise NotImplementedError

    def inherit(self, teacher: Mapping[str, Tensor]) -> None:
        """Take over the teacher's weights (canonical names of `Site.teacher`) as far as the operator has a place for
        them. Called once, after the random initialization."""
        raise InternalError(f"{type(self).__name__} inherits nothing")

    def lend(self, teacher: Mapping[str, Tensor]) -> Operator:
        """Let the maps of the second stream take over its weights of the teacher. They do as those of a twin, which is
        returned."""
        twin = copy.deepcopy(self)
        twin.beside = None
        for name, child in (self.beside or nn.ModuleDict()).items():
            setattr(twin, name, child)
        twin.inherit(teacher)
        return twin

    def calibration(self) -> Calibration | None:
        """Return what a fit does before it solves for the read-out; None: nothing."""
        return None

    def identify(self) -> None:
        """Set weights so that the operator changes nothing in the residual stream: a read-out of zeros."""
        for readout in self.readouts:
            nn.init.zeros_(readout.weight)
            if readout.bias is not None:
                nn.init.zeros_(readout.bias)

    def tokens(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Tensor:
        """Return the tokens of a call by the host, (batch, tokens, width)."""
        found: Tensor = self._given(args, kwargs)[self.port.input]
        return found

    def _given(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """Return the arguments of a call by the names of the host's parameters."""
        streams = [name for name, _ in self.port.streams] or [self.port.input]
        names = (*streams, *(self.port.places or (self.port.mask or "",)))
        return {**dict(zip(names, args, strict=False)), **kwargs}

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        port = self.port
        x, given = self.tokens(args, kwargs), self._given(args, kwargs)
        other = given[port.streams[1][0]] if self.shape.beside else x[:, :0]
        before = leading(x.shape[1], self.shape) if self.config.on_grid else 0
        context = Context(
            rotary=_batched(given.get(port.rotary)) if port.rotary else None,
            mask=given.get(port.mask) if port.mask else None,
            cache=given.get(port.cache) if port.cache else None,
            layer=self.layer_idx or 0,
            interleaved=port.interleaved,
            before=before + other.shape[1],
        )
        if self.foreign is not None:
            return self.foreign(x[..., : self.shape.foreign]) + self.mix(x[..., self.shape.foreign :], context)
        y = self.mix(torch.cat((other, x), 1) if other.shape[1] else x, context)
        if self.shape.beside:
            return _parted(y, x.shape[1], port)
        if port.streams:
            return handed_on(y, port.streams, args, kwargs)
        return y if port.returns == 0 else (y, *(None,) * (port.returns - 1))

    def extra_repr(self) -> str:
        return ", ".join(f"{name}={value}" for name, value in self.config.settings().items())


def _batched(rotary: tuple[Tensor, Tensor] | None) -> tuple[Tensor, Tensor] | None:
    """Return (cos, sin) as (batch or 1, tokens, head_dim)."""
    return rotary and (rotary[0].reshape(-1, *rotary[0].shape[-2:]), rotary[1].reshape(-1, *rotary[1].shape[-2:]))


def _parted(y: Tensor, own: int, port: Port) -> tuple[Tensor | None, ...]:
    """Return what the host expects of mixed streams: the last `own` tokens and, of a stream that goes on, the rest."""
    found: list[Tensor | None] = [None] * port.returns
    found[port.output] = y[:, y.shape[1] - own :]
    index = port.streams[1][1]
    if index is not None:
        found[index] = y[:, : y.shape[1] - own]
    return tuple(found)


def stream_of(place: int, name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """Return what a call gives for the stream that is a module's parameter number `place`."""
    return args[place] if place < len(args) else kwargs[name]


def handed_on(y: Tensor, streams: Streams, args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[Any, ...]:
    """Return what a module of these streams returns: `y` for its own, the others as it was given them."""
    found: list[Any] = [None] * (1 + max(index or 0 for _, index in streams))
    for place, (name, index) in enumerate(streams):
        if index is not None:
            found[index] = stream_of(place, name, args, kwargs) if place else y
    return tuple(found)


def slow_map(x: Tensor, state: Mapping[str, Tensor], name: str, context: Context) -> Tensor:
    """The definition of `Operator.map` for a linear map. x (batch, tokens, features)."""
    if not any(key.startswith(f"{BESIDE}.") for key in state):
        return torch.nn.functional.linear(x, state[f"{name}.weight"], state.get(f"{name}.bias"))
    parts = []
    for tokens, prefix in ((x[:, : context.before], f"{BESIDE}.{name}"), (x[:, context.before :], name)):
        if tokens.shape[1] and f"{prefix}.weight" in state:
            parts.append(torch.nn.functional.linear(tokens, state[f"{prefix}.weight"], state.get(f"{prefix}.bias")))
    return torch.cat(parts, 1)


def slow_shape(shape: SiteShape, context: Context) -> SiteShape:
    """Return the shape by which a definition tells the tokens before the grid."""
    return replace(shape, prefix=shape.prefix + context.before)


def adopt(linear: nn.Linear, teacher: Mapping[str, Tensor], name: str) -> None:
    """Copy `name`.weight and `name`.bias of the teacher; a bias that the teacher has not becomes zero."""
    put(linear.weight, teacher[f"{name}.weight"])
    if linear.bias is not None:
        put(linear.bias, teacher.get(f"{name}.bias", torch.zeros_like(linear.bias)))


@torch.no_grad()
def put(target: Tensor, value: Tensor) -> None:
    """Copy a value of the same shape, in the target's dtype and device."""
    if target.shape != value.shape:
        raise InternalError(f"a weight of shape {tuple(value.shape)} was put in place of {tuple(target.shape)}")
    target.copy_(value)


def regrouped(value: Tensor, count: int, size: int) -> Tensor:
    """Return the rows (heads * size, ...) of a teacher's heads for `count` heads: the mean of the heads that fall
    together (Ainslie et al. 2023, Sec. 2.1), or repeats."""
    if value.shape[0] == count * size:
        return value
    heads = torch.unflatten(value, 0, (-1, size))
    if heads.shape[0] > count:
        heads = torch.unflatten(heads, 0, (count, -1)).mean(1)
    return heads.repeat_interleave(count // heads.shape[0], 0).flatten(0, 1)


def gate_scale(weight: Tensor) -> Tensor:
    """Return (rows, 1), what the rows w of a gate's map are multiplied by to start near a constant: GATE / |w|, at most
    1, so that an input of unit variance moves the gate by about GATE, whatever the scale of the map."""
    norms: Tensor = weight.norm(dim=1, keepdim=True)
    return GATE / norms.clamp(min=GATE)


def grid_of(tokens: int, shape: SiteShape, before: int = 0) -> tuple[int, int]:
    """Return (rows, columns) of a raster of `tokens`, those before the grid left out (`before` of a second stream among
    them): the shape's grid (`tell_grid`), or where nobody told of it, one of its aspect ratio at another size."""
    if shape.grid is None:
        raise InternalError("a 2-D operator stands at a site without a grid")
    rows, columns = shape.grid
    tokens -= shape.prefix + before
    scale = (tokens / (rows * columns)) ** 0.5
    found = (round(rows * scale), round(columns * scale))
    if found[0] * found[1] != tokens:
        message = f"{tokens} tokens are no grid of {rows} x {columns} at any size"
        raise fail("AS790", message, None, "feed inputs of the model's native aspect ratio, or use layout raster")
    return found


def leading(tokens: int, shape: SiteShape) -> int:
    """Return how many of a site's tokens stand before those of the grid. AS790 where there are fewer than its own."""
    if not shape.context_first or shape.grid is None:
        return 0
    rows, columns = shape.grid
    if tokens < rows * columns:
        message = f"{tokens} tokens are fewer than those of a grid of {rows} x {columns}"
        raise fail("AS790", message, None, "run the operator's host, which tells it the grid, or use layout raster")
    return tokens - rows * columns


def native_tokens(tokens: int, shape: SiteShape, operator: str, hint: str) -> None:
    """Raise AS350 if these are not the tokens that the weights of an operator were made for."""
    if tokens != shape.tokens:
        message = f"{operator} has weights for each of {shape.tokens} tokens, and was given {tokens}"
        raise fail("AS350", message, None, "run the model at its native size", hint)


def reset(operator: nn.Module, seed: int) -> None:
    """Draw random weights from `seed` alone: torch's own `reset_parameters` of each part, children before parents.

    Values are drawn on the CPU in float32, so that they depend neither on the device nor on what was drawn before.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for module in reversed(list(operator.modules())):
            if callable(getattr(module, "reset_parameters", None)):
                _reset_one(module)


def _reset_one(module: nn.Module) -> None:
    own = list(module.parameters(recurse=False)) or list(module.parameters())
    if any(p.is_meta for p in own):
        return
    if all(p.device.type == "cpu" and p.dtype == torch.float32 for p in own):
        module.reset_parameters()  # type: ignore[operator]
        return
    twin = copy.deepcopy(module).to(device="cpu", dtype=torch.float32)
    twin.reset_parameters()  # type: ignore[operator]
    for mine, drawn in zip(module.parameters(), twin.parameters(), strict=True):
        put(mine, drawn)
