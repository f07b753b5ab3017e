"""What operators with query, key and value heads share: projections, rotary embeddings, inheritance."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from archspec.diagnostics import InternalError
from archspec.host.structure import BESIDE, Port, SiteShape
from archspec.operators.heads import Heads as HeadsConfig
from archspec.runtime.operators.base import Context, Operator, adopt, put, regrouped, slow_map
from archspec.runtime.operators.scores import four_dims, rotate

State = Mapping[str, Tensor]


class Heads(Operator):
    """Base of the attention-like operators. `config` is complete: nothing in it is None."""

    config: HeadsConfig
    readout: nn.Linear

    def __init__(self, config: HeadsConfig, shape: SiteShape, port: Port = Port(), layer: int | None = None) -> None:
        super().__init__(config, shape, port, layer)
        heads, groups, size = sizes(config)
        self.q = nn.Linear(shape.width, heads * size, bias=bool(config.bias))
        self.k = nn.Linear(shape.width, groups * size, bias=bool(config.bias))
        self.v = nn.Linear(shape.width, groups * size, bias=bool(config.bias))
        self.q_norm = nn.RMSNorm(size, eps=1e-6) if config.qk_norm else None
        self.k_norm = nn.RMSNorm(size, eps=1e-6) if config.qk_norm else None
        self.readout = nn.Linear(heads * size, shape.width, bias=bool(config.out_bias))

    def project(self, x: Tensor, context: Context) -> tuple[Tensor, Tensor, Tensor]:
        """(batch, tokens, width) -> q (batch, heads, tokens, head_dim), k and v (batch, kv_heads, ...), rotated."""
        heads, groups, _ = sizes(self.config)
        q, k, v = (split(self.map(n, x, context), count) for n, count in (("q", heads), ("k", groups), ("v", groups)))
        if self.q_norm is not None and self.k_norm is not None:
            dtype = self.q_norm.weight.dtype  # under autocast q and k are in half precision
            q, k = (self.map(f"{n}_norm", part.to(dtype), context, dim=2) for n, part in (("q", q), ("k", k)))
        if self.config.rotary:
            cos, sin = angles(context)
            q, k = rotate(q, cos, sin, context.interleaved), rotate(k, cos, sin, context.interleaved)
        return q, k, v

    def inherit(self, teacher: State) -> None:
        """Take q, k, v and the read-out. Key/value heads are averaged or repeated to the wanted number."""
        adopt(self.q, teacher, "q")
        _, groups, size = sizes(self.config)
        for name, linear in (("k", self.k), ("v", self.v)):
            maps = {key: regrouped(value, groups, size) for key, value in teacher.items() if key[:2] == f"{name}."}
            adopt(linear, maps, name)
        adopt(self.readout, teacher, "o")
        for name, norm in (("q_norm", self.q_norm), ("k_norm", self.k_norm)):
            if norm is not None and f"{name}.weight" in teacher:
                put(norm.weight, teacher[f"{name}.weight"])


def sizes(config: HeadsConfig) -> tuple[int, int, int]:
    """Return (heads, kv_heads, head_dim) of a complete config."""
    if config.heads is None or config.kv_heads is None or config.head_dim is None:
        raise InternalError("an operator was built from an incomplete config")
    return config.heads, config.kv_heads, config.head_dim


def angles(context: Context) -> tuple[Tensor, Tensor]:
    """Return (cos, sin) of the host."""
    if context.rotary is None:
        raise InternalError("the host passed no rotary embeddings")
    return context.rotary


def split(x: Tensor, heads: int) -> Tensor:
    """(batch, tokens, heads * size) -> (batch, heads, tokens, size)."""
    return torch.unflatten(x, -1, (heads, -1)).transpose(1, 2)


def merge(x: Tensor) -> Tensor:
    """(batch, heads, tokens, size) -> (batch, tokens, heads * size)."""
    return x.transpose(1, 2).flatten(2)


def reference_heads(x: Tensor, state: State, config: HeadsConfig, context: Context) -> tuple[Tensor, Tensor, Tensor]:
    """The definition of q, k and v, each (batch, heads, tokens, head_dim), key/value heads repeated."""
    heads, groups, size = sizes(config)
    maps = []
    for name, count in (("q", heads), ("k", groups), ("v", groups)):
        y = slow_map(x, state, name, context).view(*x.shape[:2], count, size).transpose(1, 2)
        if config.qk_norm and name != "v":
            y = y / (y.pow(2).mean(-1, keepdim=True) + 1e-6).sqrt()
            other = f"{BESIDE}.{name}_norm.weight"
            places = [other if other in state else f"{name}_norm.weight"] * context.before
            places += [f"{name}_norm.weight"] * (x.shape[1] - context.before)
            y = y * torch.stack([state[place] for place in places])
        if config.rotary and name != "v":
            cos, sin = angles(context)
            y = y * cos[:, None] + _turned(y, context.interleaved) * sin[:, None]
        maps.append(y.repeat_interleave(heads // count, dim=1))
    return maps[0], maps[1], maps[2]


def _turned(y: Tensor, interleaved: bool) -> Tensor:
    """Return the features that the sines are multiplied with."""
    half, found = y.shape[-1] // 2, torch.empty_like(y)
    for i in range(half):
        one, other = (2 * i, 2 * i + 1) if interleaved else (i, i + half)
        found[..., one], found[..., other] = -y[..., other], y[..., one]
    return found


def reference_softmax(x: Tensor, state: State, config: HeadsConfig, context: Context, allowed: Tensor) -> Tensor:
    """The definition of softmax attention, with `allowed` (tokens, tokens) booleans and the host's mask."""
    q, k, v = reference_heads(x, state, config, context)
    scores = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5
    scores = scores.masked_fill(~allowed, float("-inf"))
    if context.mask is not None:
        mask = four_dims(context.mask)
        scores = scores + mask if mask.is_floating_point() else scores.masked_fill(~mask, float("-inf"))
    weights = scores.softmax(-1).nan_to_num(0.0)
    return slow_map(merge(weights @ v), state, "readout", context)
