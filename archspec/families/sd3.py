"""diffusers' SD3Transformer2DModel: text to image by rectified flow, blocks of two streams (Stable Diffusion 3,
https://arxiv.org/abs/2403.03206, and 3.5).

The last block ends the context: it reads it and gives none back. SD3.5 norms queries and keys (`qk_norm`), and in its
medium size some blocks attend over the image alone as well (`dual_attention_layers`): `attn2`, which is the slot
`attn`. The table of positions is stored though it is computed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from archspec.diagnostics import fail
from archspec.families import joint_block
from archspec.families.base import Anatomy, Attribute, Family, Shape, count, linear, prefixed, teachers
from archspec.families.diffusers_block import ATTENTION, BLOCKS, TO_SELF, check_grid, patch_embedding
from archspec.families.joint_block import Sizes
from archspec.host.structure import Site, SiteShape
from archspec.source import Span

POSITIONS = "pos_embed.pos_embed"


def _anatomy(_: str, values: Mapping[str, Any], span: Span | None) -> Anatomy:
    _check(values, span)
    sizes, patch, channels = _sizes(values), values["patch_size"], values["in_channels"]
    width, last = sizes.width, values["num_layers"] - 1
    dual = frozenset(values["dual_attention_layers"])
    tensors: dict[str, Shape] = {
        POSITIONS: (1, values["pos_embed_max_size"] ** 2, width),
        **patch_embedding(width, channels, patch),
        **joint_block.conditioning(width, values["joint_attention_dim"], values["pooled_projection_dim"]),
        **linear("norm_out.linear", 2 * width, width),
        **linear("proj_out", patch * patch * (values["out_channels"] or channels), width),
    }
    for index in range(last + 1):
        tensors |= prefixed(f"{BLOCKS}.{index}", _inside(sizes, index in dual, index == last))
    sites = (s for index in range(last + 1) for s in _sites(index, sizes, tensors, index in dual, index == last))
    return Anatomy({"blocks": BLOCKS}, tuple(sites), tensors)


def _sizes(values: Mapping[str, Any]) -> Sizes:
    heads, size = values["num_attention_heads"], values["attention_head_dim"]
    side = values["sample_size"] // values["patch_size"]
    return Sizes(heads, size, values["qk_norm"] is not None, SiteShape(heads * size, side * side, (side, side)))


def _inside(sizes: Sizes, dual: bool, ends: bool) -> dict[str, Shape]:
    own = joint_block.inside(sizes, modulations=9 if dual else 6, ends=ends)
    return own | (prefixed("attn2", joint_block.attention(sizes)) if dual else {})


def _sites(index: int, sizes: Sizes, tensors: Mapping[str, Shape], dual: bool, ends: bool) -> Iterator[Site]:
    path = f"{BLOCKS}.{index}"
    second = (_second(path, index, sizes, tensors),) if dual else ()
    return joint_block.sites(path, index, sizes, tensors, between=second, ends=ends)


def _second(block: str, index: int, sizes: Sizes, tensors: Mapping[str, Shape]) -> Site:
    """Return the attention over the image alone."""
    path, roles = f"{block}.attn2", ATTENTION | ({"q_norm": "norm_q", "k_norm": "norm_k"} if sizes.qk_norm else {})
    shape = sizes.attention(sizes.image)
    return Site(path, "attn", shape, TO_SELF, index=index, teacher=teachers(path, roles, tensors))


def _check(values: Mapping[str, Any], span: Span | None) -> None:
    """Refuse sizes that the library would take and then fail on."""
    check_grid(values, span)
    width = values["num_attention_heads"] * values["attention_head_dim"]
    side, table = values["sample_size"] // values["patch_size"], values["pos_embed_max_size"]
    if values["caption_projection_dim"] != width:
        what = f"config attribute 'caption_projection_dim' is {values['caption_projection_dim']}"
        raise fail("AS604", f"{what}: blocks of two streams need that of the image's, {width}", span)
    if side > table:
        what = f"config attribute 'pos_embed_max_size' is {table}"
        raise fail("AS604", f"{what}: less than the {side} patches along a side", span)
    layers = values["dual_attention_layers"]
    if not all(type(layer) is int and 0 <= layer < values["num_layers"] for layer in layers):
        message = f"config attribute 'dual_attention_layers' is {str(layers)[:60]}: not all are blocks of the host"
        raise fail("AS604", message, span)


FAMILY = Family(
    name="sd3",
    library="diffusers",
    architectures=frozenset({"SD3Transformer2DModel"}),
    handled={
        "sample_size": count(128),
        "patch_size": count(2),
        "in_channels": count(16),
        "num_layers": count(18, most=10_000),
        "attention_head_dim": count(64),
        "num_attention_heads": count(18),
        "joint_attention_dim": count(4096),
        "caption_projection_dim": count(1152),
        "pooled_projection_dim": count(2048),
        "out_channels": count(16, optional=True),
        "pos_embed_max_size": count(96, most=10_000),
        "dual_attention_layers": Attribute([], list),
        "qk_norm": Attribute(None, str, optional=True, choices=(None, "rms_norm")),
    },
    ignored=frozenset(),
    anatomy=_anatomy,
    places="fixed",
    computed=frozenset({POSITIONS}),
)
