"""A `Rig` is an operator built at a tiny site, with an input, the host's context and a teacher, all in float64."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor

from archspec.host.structure import SiteShape
from archspec.operators import signature
from archspec.runtime.operators import module_class
from archspec.runtime.operators.base import Context, Operator, reset

SITES = {
    "dit.attn": SiteShape(width=24, tokens=20, grid=(4, 5), heads=3, kv_heads=3, head_dim=8),
    "dit.mlp": SiteShape(width=24, tokens=20, grid=(4, 5), hidden=40, activation="gelu_pytorch_tanh"),
    "vit.attn": SiteShape(width=24, tokens=22, grid=(4, 5), prefix=2, heads=3, kv_heads=3, head_dim=8),
    "vit.mlp": SiteShape(width=24, tokens=21, grid=(4, 5), prefix=1, hidden=40, activation="gelu"),
    "llama.attn": SiteShape(
        width=24, heads=4, kv_heads=2, head_dim=6, causal=True, rotary=True, bias=False, out_bias=False
    ),
    "llama.mlp": SiteShape(width=24, causal=True, hidden=36, activation="silu", gated=True, bias=False, out_bias=False),
    "qwen.attn": SiteShape(
        width=24, heads=4, kv_heads=2, head_dim=8, causal=True, rotary=True, bias=False, out_bias=False, qk_norm=True
    ),
}
NEEDED = {"local_attention": {"window": 2}, "low_rank": {"rank": 7}, "moe": {"experts": 4}}
AT_ANY_LENGTH = {"hyena_mlp": {"channels": "shared"}}
"""What an operator needs where the number of tokens is not fixed."""


def rotary(shape: SiteShape, tokens: int) -> tuple[Tensor, Tensor]:
    """(cos, sin) as Llama makes them, (1, tokens, head_dim)."""
    size = shape.head_dim or 0
    angles = torch.arange(tokens, dtype=torch.float64)[:, None] * 10000.0 ** -(torch.arange(0, size, 2) / size)
    both = torch.cat((angles, angles), -1)[None]
    return both.cos(), both.sin()


@dataclass
class Rig:
    operator: Operator
    shape: SiteShape
    x: Tensor
    context: Context

    @property
    def config(self) -> Any:
        return self.operator.config

    def mix(self, x: Tensor | None = None, **changes: Any) -> Tensor:
        return self.operator.mix(self.x if x is None else x, replace(self.context, **changes))

    def reference(self, x: Tensor | None = None, **changes: Any) -> Tensor:
        state = {name: value.detach() for name, value in self.operator.state_dict().items()}
        context = replace(self.context, **changes)
        return self.operator.reference(self.x if x is None else x, state, self.config, self.shape, context)

    def at(self, start: int, end: int, **changes: Any) -> Tensor:
        """The operator on tokens start to end, with their rotary embeddings."""
        turned = self.context.rotary and (self.context.rotary[0][:, start:end], self.context.rotary[1][:, start:end])
        return self.mix(self.x[:, start:end], rotary=turned, **changes)

    def teacher(self, seed: int = 7) -> dict[str, Tensor]:
        return teacher(self.shape, seed)


def teacher(shape: SiteShape, seed: int = 7) -> dict[str, Tensor]:
    """Random weights of a host's attention or MLP, by canonical names."""
    generator = torch.Generator().manual_seed(seed)
    if shape.hidden is not None:
        maps = {"up": (shape.hidden, shape.width, shape.bias), "down": (shape.width, shape.hidden, shape.out_bias)}
        maps |= {"gate": (shape.hidden, shape.width, shape.bias)} if shape.gated else {}
    else:
        inner, shared = (shape.heads or 0) * (shape.head_dim or 0), (shape.kv_heads or 0) * (shape.head_dim or 0)
        maps = {"q": (inner, shape.width, shape.bias), "k": (shared, shape.width, shape.bias)}
        maps |= {"v": (shared, shape.width, shape.bias), "o": (shape.width, inner, shape.out_bias)}
    found: dict[str, Tensor] = {}
    for name, (rows, columns, bias) in maps.items():
        found[f"{name}.weight"] = torch.randn(rows, columns, dtype=torch.float64, generator=generator) / columns**0.5
        if bias:
            found[f"{name}.bias"] = torch.randn(rows, dtype=torch.float64, generator=generator)
    if shape.qk_norm:
        for name in ("q_norm", "k_norm"):
            found[f"{name}.weight"] = torch.rand(shape.head_dim or 0, dtype=torch.float64, generator=generator) + 0.5
    return found


@pytest.fixture
def rig() -> Callable[..., Rig]:
    def make(operator: str, site: str | SiteShape, tokens: int | None = None, batch: int = 2, **params: Any) -> Rig:
        shape = SITES[site] if isinstance(site, str) else site
        needed = NEEDED.get(operator, {}) | ({} if shape.tokens else AT_ANY_LENGTH.get(operator, {}))
        config = signature(operator)(**{**needed, **params}).complete(shape)
        problems = list(config.problems(shape))
        assert not problems, problems
        module = module_class(operator)(config, shape, layer=0)
        reset(module, 3)
        generator = torch.Generator().manual_seed(1)
        count = tokens or shape.tokens or 20
        x = torch.randn(batch, count, shape.width, dtype=torch.float64, generator=generator)
        return Rig(module.double(), shape, x, Context(rotary=rotary(shape, count) if shape.rotary else None))

    return make


@pytest.fixture
def sites() -> dict[str, SiteShape]:
    return SITES
