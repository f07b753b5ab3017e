"""diffusers' SanaTransformer2DModel: text to image with linear attention (SANA, https://arxiv.org/abs/2410.10629).

A block runs attn1 (linear attention of relu features), attn2 (softmax attention to the caption), then ff. One embedder
of time serves all blocks, as in PixArt. `ff` is a convolutional MLP that the block calls with (batch, width, rows,
columns), which is no contract of tokens: it is no site.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from archspec.families.base import (
    Anatomy,
    Attribute,
    Family,
    Shape,
    count,
    flag,
    layer_norm,
    linear,
    norm_site,
    prefixed,
    teachers,
)
from archspec.families.diffusers_block import ATTENTION, BLOCKS, check_grid, timestep_embedding
from archspec.host.structure import Port, Site, SiteShape
from archspec.source import Span

TO_CAPTION = Port(mask="attention_mask", context="encoder_hidden_states")


def _anatomy(_: str, values: Mapping[str, Any], span: Span | None) -> Anatomy:
    check_grid(values, span)
    width = values["num_attention_heads"] * values["attention_head_dim"]
    patch, channels = values["patch_size"], values["in_channels"]
    tensors: dict[str, Shape] = {
        "scale_shift_table": (2, width),
        "patch_embed.proj.weight": (width, channels, patch, patch),
        "patch_embed.proj.bias": (width,),
        **timestep_embedding("time_embed.emb.timestep_embedder", width),
        **linear("time_embed.linear", 6 * width, width),
        **linear("caption_projection.linear_1", width, values["caption_channels"]),
        **linear("caption_projection.linear_2", width, width),
        "caption_norm.weight": (width,),
        **linear("proj_out", patch * patch * (values["out_channels"] or channels), width),
    }
    inside = _inside(width, values)
    for index in range(values["num_layers"]):
        tensors |= prefixed(f"{BLOCKS}.{index}", inside)
    sites = (site for index in range(values["num_layers"]) for site in _sites(index, width, values, tensors))
    return Anatomy({"blocks": BLOCKS}, tuple(sites), tensors, spare=frozenset({"patch_embed.pos_embed"}))


def _inside(width: int, values: Mapping[str, Any]) -> dict[str, Shape]:
    """Return name within a block -> shape."""
    inner = values["num_cross_attention_heads"] * values["cross_attention_head_dim"]
    hidden, bias = int(values["mlp_ratio"] * width), values["attention_bias"]
    return {
        "scale_shift_table": (6, width),
        **{k: s for role in "qkv" for k, s in linear(f"attn1.to_{role}", width, width, bias).items()},
        **linear("attn1.to_out.0", width, width),
        **(layer_norm("norm2", width) if values["norm_elementwise_affine"] else {}),
        **linear("attn2.to_q", inner, width),
        **linear("attn2.to_k", inner, values["cross_attention_dim"]),
        **linear("attn2.to_v", inner, values["cross_attention_dim"]),
        **linear("attn2.to_out.0", width, inner),
        "ff.conv_inverted.weight": (2 * hidden, width, 1, 1),
        "ff.conv_inverted.bias": (2 * hidden,),
        "ff.conv_depth.weight": (2 * hidden, 1, 3, 3),
        "ff.conv_depth.bias": (2 * hidden,),
        "ff.conv_point.weight": (width, hidden, 1, 1),
    }


def _sites(index: int, width: int, values: Mapping[str, Any], tensors: Mapping[str, Shape]) -> Iterator[Site]:
    """Yield the block and its parts in the order in which they run."""
    path, side = f"{BLOCKS}.{index}", values["sample_size"] // values["patch_size"]
    plain = SiteShape(width, side * side, (side, side))

    def attention(name: str, heads: int, size: int, bias: bool, context: int | None) -> Site:
        shape = SiteShape(
            width,
            side * side,
            (side, side),
            heads=heads,
            kv_heads=heads,
            head_dim=size,
            bias=bias,
            context=context,
        )
        slot, port = ("cross_attn", TO_CAPTION) if context else ("attn", Port())
        place = f"{path}.{name}"
        return Site(place, slot, shape, port, index=index, teacher=teachers(place, ATTENTION, tensors))

    own = values["num_attention_heads"], values["attention_head_dim"], values["attention_bias"], None
    other = values["num_cross_attention_heads"], values["cross_attention_head_dim"], True, values["cross_attention_dim"]
    yield Site(path, "block", plain, TO_CAPTION, index=index)
    yield norm_site(f"{path}.norm1", plain, index, tensors)
    yield attention("attn1", *own)
    yield attention("attn2", *other)
    yield norm_site(f"{path}.norm2", plain, index, tensors)


FAMILY = Family(
    name="sana",
    library="diffusers",
    architectures=frozenset({"SanaTransformer2DModel"}),
    handled={
        "in_channels": count(32),
        "out_channels": count(32, optional=True),
        "num_attention_heads": count(70),
        "attention_head_dim": count(32),
        "num_layers": count(20, most=10_000),
        "num_cross_attention_heads": count(20),
        "cross_attention_head_dim": count(112),
        "cross_attention_dim": count(2240),
        "caption_channels": count(2304),
        "mlp_ratio": Attribute(2.5, float),
        "attention_bias": flag(False),
        "sample_size": count(32),
        "patch_size": count(1),
        "norm_elementwise_affine": flag(False),
        "guidance_embeds": Attribute(False, bool, choices=(False,)),
        "qk_norm": Attribute(None, str, optional=True, choices=(None,)),
    },
    ignored=frozenset({"dropout", "norm_eps", "interpolation_scale", "guidance_embeds_scale", "timestep_scale"}),
    anatomy=_anatomy,
)
