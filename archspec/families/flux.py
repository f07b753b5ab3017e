"""diffusers' FluxTransformer2DModel: text to image by rectified flow (FLUX.1 dev and schnell).

First blocks of two streams (`blocks`), then single ones (`single_blocks`): these too are called with image and context
and give back both, but lay them one behind the other (the context first) and read them as one sequence. Their MLP
stands beside the attention, and one linear map (`proj_out`) reads both. Both are sites of the whole sequence: `attn`
without an output map, whose work `proj_out` does, and `mlp` with the columns of `proj_out` that read its neurons (the
bias is the attention's). Rotary tables are of interleaved pairs, for
the tokens of context and image. Nothing in the config says how many tokens there are: `GRID` stands for them, and each
call tells its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from archspec.diagnostics import fail
from archspec.families import joint_block
from archspec.families.base import Anatomy, Attribute, Family, Shape, count, flag, linear, norm_site, prefixed, teachers
from archspec.families.diffusers_block import BLOCKS
from archspec.families.joint_block import ACTIVATION, CARRIES, Sizes
from archspec.host.excerpt import Excerpt
from archspec.host.structure import Port, Site, SiteShape
from archspec.source import Span

SINGLE = "single_transformer_blocks"
GROUPS = {"blocks": BLOCKS, "single_blocks": SINGLE}
TO_ALL = Port(mask="attention_mask", rotary="image_rotary_emb", interleaved=True)
GRID = (32, 32)
"""Rows and columns of tokens where nothing tells others: 512 x 512 pixels."""
ATTENTION = {"q": "to_q", "k": "to_k", "v": "to_v", "q_norm": "norm_q", "k_norm": "norm_k"}


def _anatomy(_: str, values: Mapping[str, Any], span: Span | None) -> Anatomy:
    heads, size = values["num_attention_heads"], values["attention_head_dim"]
    _check(values["axes_dims_rope"], size, span)
    sizes, width = Sizes(heads, size, True, SiteShape(heads * size, grid=GRID), TO_ALL), heads * size
    patch, channels, guided = values["patch_size"], values["in_channels"], values["guidance_embeds"]
    double, single = values["num_layers"], values["num_single_layers"]
    joint, pooled = values["joint_attention_dim"], values["pooled_projection_dim"]
    tensors: dict[str, Shape] = {
        **joint_block.conditioning(width, joint, pooled, guided=guided),
        **linear("x_embedder", width, channels),
        **linear("norm_out.linear", 2 * width, width),
        **linear("proj_out", patch * patch * (values["out_channels"] or channels), width),
    }
    for index in range(double):
        tensors |= prefixed(f"{BLOCKS}.{index}", joint_block.inside(sizes))
    for index in range(single):
        tensors |= prefixed(f"{SINGLE}.{index}", _inside(sizes))
    sites = (
        *(s for i in range(double) for s in joint_block.sites(f"{BLOCKS}.{i}", i, sizes, tensors, ends=False)),
        *(s for i in range(single) for s in _sites(i, sizes, tensors)),
    )
    return Anatomy(GROUPS, sites, tensors)


def _check(axes: Any, size: int, span: Span | None) -> None:
    """The rotary tables of the axes must make up a head."""
    if not all(type(axis) is int and axis > 0 and axis % 2 == 0 for axis in axes) or sum(axes) != size:
        message = f"config attribute 'axes_dims_rope' is {str(axes)[:60]}: not even sizes that make up a head of {size}"
        raise fail("AS604", message, span)


def _inside(sizes: Sizes) -> dict[str, Shape]:
    """Return name within a single block -> shape."""
    width = sizes.width
    return {
        **linear("norm.linear", 3 * width, width),
        **linear("proj_mlp", 4 * width, width),
        **linear("proj_out", width, 5 * width),
        **prefixed("attn", joint_block.attention(sizes, out=False)),
    }


def _sites(index: int, sizes: Sizes, tensors: Mapping[str, Shape]) -> Iterator[Site]:
    """Yield a single block and its parts in the order in which they run."""
    path, group = f"{SINGLE}.{index}", "single_blocks"
    yield Site(path, "block", sizes.image, CARRIES, group, index)
    yield norm_site(f"{path}.norm.norm", sizes.image, index, tensors, group=group)
    teacher = teachers(f"{path}.attn", ATTENTION, tensors)
    shape = replace(sizes.attention(sizes.image), context_first=True, out_map=False, out_bias=False)
    yield _mlp(index, sizes, tensors)
    yield Site(f"{path}.attn", "attn", shape, TO_ALL, group, index, teacher)


def _mlp(index: int, sizes: Sizes, tensors: Mapping[str, Shape]) -> Site:
    """Return the MLP of a single block: its last map is the part of `proj_out` behind the columns of the attention."""
    path, width = f"{SINGLE}.{index}", sizes.width
    shape = replace(sizes.image, context_first=True, hidden=4 * width, activation=ACTIVATION, out_bias=False)
    port = Port("input", exit="proj_out", through="act_mlp", foreign=width)
    down = {"down.weight": Excerpt(f"{path}.proj_out.weight", axis=1, start=width)}
    teacher = teachers(path, {"up": "proj_mlp"}, tensors) | down
    return Site(f"{path}.proj_mlp", "mlp", shape, port, "single_blocks", index, teacher)


FAMILY = Family(
    name="flux",
    library="diffusers",
    architectures=frozenset({"FluxTransformer2DModel"}),
    handled={
        "patch_size": count(1),
        "in_channels": count(64),
        "out_channels": count(None),
        "num_layers": count(19, most=10_000),
        "num_single_layers": count(38, most=10_000),
        "attention_head_dim": count(128),
        "num_attention_heads": count(24),
        "joint_attention_dim": count(4096),
        "pooled_projection_dim": count(768),
        "guidance_embeds": flag(False),
        "axes_dims_rope": Attribute([16, 56, 56], list),
    },
    ignored=frozenset(),
    anatomy=_anatomy,
    places="rotary",
)
