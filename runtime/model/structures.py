"""Containers that stand where a block of the host stood, or stands.

All are called exactly as the host calls a block, with whatever arguments it passes, and give back what a block gives
back. All answer for the public attributes that a host reads off a block (DiT takes the conditioning from
`transformer_blocks[0].norm1.emb`, transformers reads `layer.attention_type`): what they do not have themselves they ask
of the block they stand for. Names that start with `_` are never forwarded, so hooks, flags and pickling stay their own.

A block may carry several streams (`Port.streams`). Blocks side by side merge each by a map of its own; what is inserted
and what skips are of the block's own stream, and the others go by.

    Parallel   y = merge(x, B1(x), ..., Bn(x)), branches as `branches.<k>`, the merge weights as `merge`,
               those of a stream beside the own one as `merge_<stream>`
    Tied       y = B(x) with the weights of another module, none of its own
    Inserted   y = x + op(norm(x)), the operator as `operator`
    Linked     y = B(merge(x, s)), s the output of an earlier Linked; the block as `block`, the merge as `merge`
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from archspec.host.structure import Streams
from archspec.instructions import LEARNED_MERGES, merge_names
from archspec.runtime.model.program import MERGES, SKIP_MERGES
from archspec.runtime.operators.base import Operator, handed_on, stream_of


class Standin(nn.Module):
    """A module that answers for the public attributes of the block it stands for."""

    def _block(self) -> nn.Module:
        raise NotImplementedError

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name.startswith("_") or not self._ready:
                raise
            return getattr(self._block(), name)

    @property
    def _ready(self) -> bool:
        """False while the object is being built or unpickled."""
        return False

    def _carried(self) -> Streams:
        """The streams of the block: those it was told of, else its first argument and the head of what it returns."""
        return self.__dict__.get("streams") or ((_input_name(self), 0),)

    def _own(self, result: Any) -> Tensor:
        """The block's own tokens in what it returned."""
        found: Tensor = result[self._carried()[0][1] or 0] if isinstance(result, tuple) else result
        return found

    def _input(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Tensor:
        """The block's tokens: its first argument, by place or by the name that the block gives it."""
        found: Tensor = args[0] if args else kwargs[_input_name(self)]
        return found

    def _given(self, x: Tensor, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
        """Return the arguments of a call with other tokens."""
        return ((x, *args[1:]), dict(kwargs)) if args else ((), {**kwargs, _input_name(self): x})


class Parallel(Standin):
    """Blocks that all read the same input, (batch, tokens, width), and whose outputs are merged into one of that shape.

    With x the input and Bi(x) the outputs:

        linear            W [B1(x); ...; Bn(x)] + b
        residual_linear   x + W [B1(x) - x; ...; Bn(x) - x] + b
        sum               x + sum of (Bi(x) - x)
        average           mean of Bi(x)

    Where blocks return tuples, the result is the first branch's with merged tokens in front. Where they carry several
    `streams`, it holds those: the own one and those `beside` it, each merged by a map of its own; others end here.
    """

    def __init__(
        self,
        branches: Iterable[nn.Module],
        merge: str,
        width: int,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        streams: Streams = (),
        beside: Sequence[str] = (),
    ) -> None:
        super().__init__()
        if merge not in MERGES:
            raise ValueError(f"unknown merge {merge!r}: one of {sorted(MERGES)}")
        self.branches = nn.ModuleList(branches)
        self.kind, self.width, self.streams, self.beside = merge, width, streams, tuple(beside)
        self.merge: nn.Linear | None = None
        for name in merge_names(beside) if merge in LEARNED_MERGES else ():
            setattr(self, name, nn.Linear(len(self.branches) * width, width, device=device, dtype=dtype))

    @property
    def _ready(self) -> bool:
        return "branches" in self.__dict__.get("_modules", {})

    def _block(self) -> nn.Module:
        return self.branches[0]

    @property
    def maps(self) -> dict[str, nn.Linear]:
        """The learned maps, by their names: that of the own stream first."""
        return {name: getattr(self, name) for name in merge_names(self.beside)} if self.merge is not None else {}

    @property
    def residual(self) -> bool:
        """Whether the merge weighs what the branches add to the input, not their whole outputs."""
        return self.kind in ("residual_linear", "sum")

    def identify(self) -> None:
        """Start from weights that need no data: the mean of the outputs, or the sum of what the branches add."""
        with torch.no_grad():
            for linear in self.maps.values():
                linear.weight.copy_(plain_merge(self.kind, len(self.branches), self.width))
                linear.bias.zero_()

    def combine(self, x: Tensor, outputs: Sequence[Tensor], name: str = "merge") -> Tensor:
        """Merge outputs, each (batch, tokens, width) like the input `x`, by the map `name`."""
        if self.kind == "average":
            return torch.stack(list(outputs)).mean(0)
        if self.residual:
            outputs = [y - x for y in outputs]
        if self.merge is None:
            return x + torch.stack(list(outputs)).sum(0)
        y: Tensor = getattr(self, name)(torch.cat(list(outputs), dim=-1))
        return x + y if self.residual else y

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        results = [branch(*args, **kwargs) for branch in self.branches]
        if not self.streams:
            merged = self.combine(self._input(args, kwargs), [r[0] if isinstance(r, tuple) else r for r in results])
            return (merged, *results[0][1:]) if isinstance(results[0], tuple) else merged
        found: list[Any] = [None] * len(results[0])
        for place, (stream, index) in enumerate(self.streams):
            if index is not None and (place == 0 or stream in self.beside):
                x, outputs = stream_of(place, stream, args, kwargs), [result[index] for result in results]
                found[index] = self.combine(x, outputs, f"merge_{stream}" if place else "merge")
        return tuple(found)

    def extra_repr(self) -> str:
        return f"merge={self.kind}, width={self.width}"


def plain_merge(kind: str, count: int, width: int) -> Tensor:
    """Return the weight, (width, count * width) in float64, by which a merge is the mean of the outputs, or the sum of
    what the branches add. Its bias is zero."""
    scale = 1.0 if kind == "residual_linear" else 1.0 / count
    return torch.cat([torch.eye(width, dtype=torch.float64) * scale] * count, dim=1)


class Tied(Standin):
    """Another module of the same model, used once more with the same weights.

    The target is held but not registered: it has one home in the tree, where `to`, `state_dict`, optimizers and
    adapters find it, and it is found once. Copying or pickling the whole model keeps the tie, since both follow
    references. Where the host counts layers for its key/value cache, `layer_idx` is this place's own count; the
    target's modules carry it for the time of the call.
    """

    target: nn.Module

    def __init__(self, target: nn.Module, layer_idx: int | None = None) -> None:
        super().__init__()
        while isinstance(target, Tied):
            target = target.target
        self.__dict__["target"] = target
        self.layer_idx = layer_idx

    @property
    def _ready(self) -> bool:
        return "target" in self.__dict__

    def _block(self) -> nn.Module:
        return self.target

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        with _numbered(self.target, self.layer_idx):
            return self.target(*args, **kwargs)

    def extra_repr(self) -> str:
        return f"{type(self.target).__name__}, layer_idx={self.layer_idx}"


class Inserted(Standin):
    """An operator in a residual branch of its own, behind a block: x + op(norm(x)), x (batch, tokens, width).

    The norm is LayerNorm without weights, which the operator's input maps make up for. What the host reads off a block
    is answered by the block in front.
    """

    def __init__(self, operator: nn.Module, neighbour: nn.Module, width: int, streams: Streams = ()) -> None:
        super().__init__()
        self.operator, self.width, self.streams = operator, width, streams
        self.__dict__["neighbour"] = neighbour

    @property
    def _ready(self) -> bool:
        return "neighbour" in self.__dict__

    def _block(self) -> nn.Module:
        found: nn.Module = self.__dict__["neighbour"]
        return found

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        x = self._input(args, kwargs)
        normed = torch.layer_norm(x, (self.width,), None, None, NORM_EPS)
        inner, named = self._given(normed, args, kwargs)
        y = x + self.operator(*inner, **named)
        return handed_on(y, self.streams, args, kwargs) if self.streams else y


class Linked(Standin):
    """A block that a skip leaves from, ends in, or both. With x its input and s the output of its `source`:

        linear            B(W [x; s] + b)
        residual_linear   B(x + W s + b)
        sum               B(x + s)

    The source holds its output until it is read; where gradients are taken until the next run, since gradient
    checkpointing runs blocks again.
    """

    def __init__(
        self,
        block: nn.Module,
        source: Linked | None = None,
        merge: str | None = None,
        width: int = 0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        streams: Streams = (),
    ) -> None:
        super().__init__()
        if (source is None) != (merge is None) or merge not in (None, *SKIP_MERGES):
            raise ValueError(f"unknown merge of a skip {merge!r}: one of {sorted(SKIP_MERGES)}")
        self.block, self.kind, self.streams = block, merge, streams
        self.merge: nn.Linear | None = None
        if merge in LEARNED_MERGES:
            self.merge = nn.Linear((2 if merge == "linear" else 1) * width, width, device=device, dtype=dtype)
        self.__dict__ |= {"source": source, "held": None, "holds": False}
        if source is not None:
            source.__dict__["holds"] = True

    @property
    def _ready(self) -> bool:
        return "block" in self.__dict__.get("_modules", {})

    def _block(self) -> nn.Module:
        return self.block

    def combine(self, x: Tensor, s: Tensor) -> Tensor:
        """Merge the block's input with what skips to it, both (batch, tokens, width)."""
        if self.merge is None:
            return x + s
        y: Tensor = self.merge(torch.cat([x, s], dim=-1) if self.kind == "linear" else s)
        return y if self.kind == "linear" else x + y

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        if self.__dict__["source"] is not None:
            x = self.combine(self._input(args, kwargs), self.__dict__["source"].take())
            args, kwargs = self._given(x, args, kwargs)
        result = self.block(*args, **kwargs)
        if self.__dict__["holds"]:
            self.__dict__["held"] = self._own(result)
        return result

    def take(self) -> Tensor:
        """Return the output of this run, and forget it unless it may be asked for again."""
        found: Tensor | None = self.__dict__["held"]
        if found is None:
            raise RuntimeError(UNREAD)
        if not torch.is_grad_enabled():
            self.__dict__["held"] = None
        return found

    def __getstate__(self) -> dict[str, Any]:
        """Copies and pickles are of the block, not of what one run left in it."""
        return self.__dict__ | {"held": None}

    def extra_repr(self) -> str:
        return f"merge={self.kind}, holds={self.__dict__['holds']}"


NORM_EPS = 1e-6
UNREAD = (
    "a block reads the output of an earlier one that has not run; with gradient checkpointing, "
    "write gradient_checkpointing_kwargs={'use_reentrant': False}"
)


def plain_skip(kind: str, width: int) -> Tensor:
    """Return the weight by which a merge is the block's own input: (width, 2 * width) for linear, else zeros."""
    eye, zero = torch.eye(width, dtype=torch.float64), torch.zeros(width, width, dtype=torch.float64)
    return torch.cat([eye, zero], dim=1) if kind == "linear" else zero


def _input_name(block: nn.Module) -> str:
    """Return the name of the parameter by which a block takes its tokens."""
    while isinstance(block, Standin):
        block = block._block()
    if isinstance(block, Operator):
        return block.port.input
    return next(iter(inspect.signature(block.forward).parameters))


def numbered_modules(module: nn.Module) -> Iterator[nn.Module]:
    """Yield the modules under (and with) `module` that carry a layer number for the host's cache."""
    return (m for m in module.modules() if isinstance(m.__dict__.get("layer_idx"), int))


@contextmanager
def _numbered(module: nn.Module, layer: int | None) -> Iterator[None]:
    """Let every numbered module under `module` have number `layer` for a while."""
    if layer is None:
        yield
        return
    before = [(m, m.__dict__["layer_idx"]) for m in numbered_modules(module)]
    for m, _ in before:
        m.layer_idx = layer  # type: ignore[assignment]
    try:
        yield
    finally:
        for m, number in before:
            m.layer_idx = number
