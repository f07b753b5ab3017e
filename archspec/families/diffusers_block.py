"""diffusers' BasicTransformerBlock, as DiT and PixArt use it: tensors, sites and how the block calls them.

The block runs attn1, then (with cross attention) attn2, then ff, each in a residual branch; all take and give
(batch, tokens, width). `norm` sites are the plain LayerNorms: those that read the tokens and nothing else. The
modulating norm of DiT (`norm1`, five outputs) is no site; the LayerNorm inside it is.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from archspec.diagnostics import fail
from archspec.families.base import (
    Attribute,
    Shape,
    choice,
    count,
    flag,
    layer_norm,
    linear,
    norm_site,
    prefixed,
    teachers,
)
from archspec.host.structure import Port, Site, SiteShape
from archspec.source import Span

BLOCKS = "transformer_blocks"
ACTIVATIONS: Mapping[str, str] = {
    "gelu-approximate": "gelu_pytorch_tanh",
    "gelu": "gelu",
    "geglu-approximate": "quick_gelu",
    "linear-silu": "silu",
}
"""diffusers' name -> the name in transformers' ACT2FN. The gated ones (geglu, swiglu) fuse two projections in one."""

HANDLED: Mapping[str, Attribute] = {
    "num_attention_heads": count(16),
    "attention_head_dim": count(72),
    "in_channels": count(4),
    "num_layers": count(28, most=10_000),
    "attention_bias": flag(True),
    "patch_size": count(2),
    "activation_fn": choice("gelu-approximate", *list(ACTIVATIONS)[1:]),
    "num_embeds_ada_norm": count(1000),
    "norm_elementwise_affine": flag(False),
}
"""What the two families have in common, with diffusers' defaults."""
IGNORED = frozenset({"dropout", "norm_num_groups", "upcast_attention", "norm_eps"})
"""Numerics and training of the host's own modules, which keep them."""
SPARE = frozenset({"pos_embed.pos_embed"})
"""The table of positions is computed; a checkpoint that stores it is no other model."""

ATTENTION = {"q": "to_q", "k": "to_k", "v": "to_v", "o": "to_out.0"}
MLP = {"up": "ff.net.0.proj", "down": "ff.net.2"}
TO_SELF = Port(mask="attention_mask")
TO_CONTEXT = Port(mask="attention_mask", context="encoder_hidden_states")


@dataclass(frozen=True)
class Block:
    """The sizes of one block; `norms` are the paths of its plain LayerNorms, in the order in which they run."""

    width: int
    heads: int
    head_dim: int
    grid: tuple[int, int]
    bias: bool
    activation: str
    affine: bool
    norms: tuple[str, ...]
    context: int | None = None

    @staticmethod
    def of(values: Mapping[str, Any], norms: tuple[str, ...], context: int | None = None) -> Block:
        heads, head_dim = values["num_attention_heads"], values["attention_head_dim"]
        side = values["sample_size"] // values["patch_size"]
        return Block(
            width=heads * head_dim,
            heads=heads,
            head_dim=head_dim,
            grid=(side, side),
            bias=values["attention_bias"],
            activation=values["activation_fn"],
            affine=values["norm_elementwise_affine"],
            norms=norms,
            context=context,
        )

    def tensors(self) -> dict[str, Shape]:
        """Return name within the block -> shape, without what modulates."""
        return {
            **prefixed("attn1", self._attention(self.width)),
            **(prefixed("attn2", self._attention(self.context)) if self.context else {}),
            **linear(MLP["up"], 4 * self.width, self.width),
            **linear(MLP["down"], self.width, 4 * self.width),
            **{k: shape for norm in self._affine_norms for k, shape in layer_norm(norm, self.width).items()},
        }

    @property
    def _affine_norms(self) -> tuple[str, ...]:
        return tuple(n for n in self.norms if self.affine and "." not in n)

    def _attention(self, source: int) -> dict[str, Shape]:
        return {
            **linear("to_q", self.width, self.width, self.bias),
            **linear("to_k", self.width, source, self.bias),
            **linear("to_v", self.width, source, self.bias),
            **linear("to_out.0", self.width, self.width),
        }

    def sites(self, index: int, tensors: Mapping[str, Shape]) -> Iterator[Site]:
        """Yield the block and its parts in the order in which they run. `tensors` are all of the host's."""
        path = f"{BLOCKS}.{index}"
        plain = SiteShape(self.width, self.grid[0] * self.grid[1], self.grid)
        yield Site(path, "block", plain, TO_CONTEXT if self.context else TO_SELF, index=index)
        yield norm_site(f"{path}.{self.norms[0]}", plain, index, tensors)
        yield self._attn(path, "attn1", index, tensors)
        if self.context:
            yield self._attn(path, "attn2", index, tensors)
        yield norm_site(f"{path}.{self.norms[1]}", plain, index, tensors)
        yield self._mlp(path, index, tensors)

    def _attn(self, block: str, name: str, index: int, tensors: Mapping[str, Shape]) -> Site:
        cross = name == "attn2"
        shape = SiteShape(
            self.width,
            self.grid[0] * self.grid[1],
            self.grid,
            heads=self.heads,
            kv_heads=self.heads,
            head_dim=self.head_dim,
            bias=self.bias,
            context=self.context if cross else None,
        )
        path, slot = f"{block}.{name}", "cross_attn" if cross else "attn"
        teacher = teachers(path, ATTENTION, tensors)
        return Site(path, slot, shape, TO_CONTEXT if cross else TO_SELF, index=index, teacher=teacher)

    def _mlp(self, block: str, index: int, tensors: Mapping[str, Shape]) -> Site:
        shape = SiteShape(
            self.width,
            self.grid[0] * self.grid[1],
            self.grid,
            hidden=4 * self.width,
            activation=ACTIVATIONS[self.activation],
        )
        teacher = teachers(block, MLP, tensors)
        return Site(f"{block}.ff", "mlp", shape, Port(), index=index, teacher=teacher)


def check_grid(values: Mapping[str, Any], span: Span | None) -> None:
    """The patches must tile the sample."""
    sample, patch = values["sample_size"], values["patch_size"]
    if sample % patch:
        raise fail("AS604", f"config attribute 'sample_size' is {sample}: no multiple of 'patch_size' {patch}", span)


def timestep_embedding(name: str, width: int, channels: int = 256) -> dict[str, Shape]:
    """Return the tensors of diffusers' TimestepEmbedding."""
    return {**linear(f"{name}.linear_1", width, channels), **linear(f"{name}.linear_2", width, width)}


def patch_embedding(width: int, channels: int, patch: int) -> dict[str, Shape]:
    """Return the tensors of diffusers' PatchEmbed; its position table is computed, not stored."""
    return {"pos_embed.proj.weight": (width, channels, patch, patch), "pos_embed.proj.bias": (width,)}
