"""Blocks of two streams, as SD3 and FLUX use them (MMDiT, https://arxiv.org/abs/2403.03206, Sec. 4): an image's tokens
and its text's each have norms and an MLP of their own, and attend over both at once.

A block is called with both and gives back (context, image). Its own stream is the image's. The attention gives an
output for each stream and has a slot of its own, `joint_attn`: an operator there has maps for each stream and mixes
them as one sequence, the context first; the MLPs are `mlp` and `context_mlp`. `norm` sites are the LayerNorms within
the modulating ones, and the plain ones before the MLPs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from archspec.families.base import Shape, linear, norm_site, prefixed, teachers
from archspec.families.diffusers_block import timestep_embedding
from archspec.host.structure import BESIDE, JOINT, Port, Site, SiteShape

IMAGE, CONTEXT = "hidden_states", "encoder_hidden_states"
CARRIES = Port(returns=2, streams=((IMAGE, 1), (CONTEXT, 0)))
ENDS = Port(returns=2, streams=((IMAGE, 1), (CONTEXT, None)))
"""Of a last block that reads the context and gives none back."""
OWN = {"q": "to_q", "k": "to_k", "v": "to_v", "q_norm": "norm_q", "k_norm": "norm_k", "o": "to_out.0"}
OTHER = {
    **{role: f"add_{role}_proj" for role in "qkv"},
    "q_norm": "norm_added_q",
    "k_norm": "norm_added_k",
    "o": "to_add_out",
}
"""Canonical projections of the image and of the context in a joint attention."""
MLP = {"up": "net.0.proj", "down": "net.2"}
ACTIVATION = "gelu_pytorch_tanh"


@dataclass(frozen=True)
class Sizes:
    """What the blocks of a host have in common. `image`: the contract of a module over the image's tokens. `port`: how
    an attention is called."""

    heads: int
    head_dim: int
    qk_norm: bool
    image: SiteShape
    port: Port = Port(mask="attention_mask")

    @property
    def width(self) -> int:
        return self.heads * self.head_dim

    @property
    def context(self) -> SiteShape:
        """The contract of a module over the context's tokens: any number, in the order of the text."""
        return replace(self.image, tokens=None, grid=None)

    def attention(self, plain: SiteShape) -> SiteShape:
        sizes = {"heads": self.heads, "kv_heads": self.heads, "head_dim": self.head_dim}
        return replace(plain, **sizes, qk_norm=self.qk_norm, rotary=self.port.rotary is not None)  # type: ignore[arg-type]


def attention(sizes: Sizes, *, out: bool = True) -> dict[str, Shape]:
    """Return the tensors of attention over one stream."""
    width = sizes.width
    return {
        **_norms(sizes, "norm_q", "norm_k"),
        **{name: shape for role in "qkv" for name, shape in linear(f"to_{role}", width, width).items()},
        **(linear("to_out.0", width, width) if out else {}),
    }


def joint_attention(sizes: Sizes, *, ends: bool = False) -> dict[str, Shape]:
    """Return the tensors of attention over both streams. Where the context ends, nothing maps its output."""
    width = sizes.width
    return {
        **attention(sizes),
        **_norms(sizes, "norm_added_q", "norm_added_k"),
        **{name: shape for role in "qkv" for name, shape in linear(f"add_{role}_proj", width, width).items()},
        **({} if ends else linear("to_add_out", width, width)),
    }


def _norms(sizes: Sizes, *names: str) -> dict[str, Shape]:
    return {f"{name}.weight": (sizes.head_dim,) for name in names} if sizes.qk_norm else {}


def feed_forward(width: int) -> dict[str, Shape]:
    return {**linear(MLP["up"], 4 * width, width), **linear(MLP["down"], width, 4 * width)}


def inside(sizes: Sizes, *, modulations: int = 6, ends: bool = False) -> dict[str, Shape]:
    """Return name within a block -> shape. `modulations`: vectors that the image's first norm makes."""
    width = sizes.width
    return {
        **linear("norm1.linear", modulations * width, width),
        **linear("norm1_context.linear", (2 if ends else 6) * width, width),
        **prefixed("attn", joint_attention(sizes, ends=ends)),
        **prefixed("ff", feed_forward(width)),
        **({} if ends else prefixed("ff_context", feed_forward(width))),
    }


def sites(
    path: str, index: int, sizes: Sizes, tensors: Mapping[str, Shape], *, between: tuple[Site, ...] = (), ends: bool
) -> Iterator[Site]:
    """Yield the block and its parts in the order in which they run; `between`: those behind the joint attention."""
    image, context = sizes.image, sizes.context
    yield Site(path, "block", image, ENDS if ends else CARRIES, index=index)
    yield norm_site(f"{path}.norm1.norm", image, index, tensors)
    yield norm_site(f"{path}.norm1_context.norm", context, index, tensors)
    yield _joint(f"{path}.attn", index, sizes, tensors, ends)
    yield from between
    yield norm_site(f"{path}.norm2", image, index, tensors)
    yield _mlp(f"{path}.ff", "mlp", image, index, tensors)
    if not ends:
        yield norm_site(f"{path}.norm2_context", context, index, tensors)
        yield _mlp(f"{path}.ff_context", "context_mlp", context, index, tensors)


def _joint(path: str, index: int, sizes: Sizes, tensors: Mapping[str, Shape], ends: bool) -> Site:
    """Return the attention over both streams."""
    shape = replace(sizes.attention(sizes.image), beside="read" if ends else "whole")
    port = replace(sizes.port, returns=2, streams=((IMAGE, 0), (CONTEXT, None if ends else 1)))
    roles = OWN | {f"{BESIDE}.{role}": module for role, module in OTHER.items()}
    return Site(path, JOINT, shape, port, index=index, teacher=teachers(path, roles, tensors))


def _mlp(path: str, slot: str, plain: SiteShape, index: int, tensors: Mapping[str, Shape]) -> Site:
    shape = replace(plain, hidden=4 * plain.width, activation=ACTIVATION)
    return Site(path, slot, shape, index=index, teacher=teachers(path, MLP, tensors))


def conditioning(width: int, joint: int, pooled: int, *, guided: bool = False) -> dict[str, Shape]:
    """Return the tensors of the embedders of time, guidance and text, `joint` and `pooled` wide."""
    name = "time_text_embed"
    return {
        **timestep_embedding(f"{name}.timestep_embedder", width),
        **(timestep_embedding(f"{name}.guidance_embedder", width) if guided else {}),
        **timestep_embedding(f"{name}.text_embedder", width, pooled),
        **linear("context_embedder", width, joint),
    }
