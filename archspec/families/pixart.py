"""diffusers' PixArtTransformer2DModel: text to image with adaLN-single (PixArt-α https://arxiv.org/abs/2310.00426, Σ
https://arxiv.org/abs/2403.04692).

One embedder of time serves all blocks; each block adds its own `scale_shift_table` to it. `norm2` stands before the
MLP: the cross attention (`attn2`) reads the tokens without a norm. PixArt-XL-2 is published under the outdated class
`Transformer2DModel` with `norm_type: ada_norm_single`, which diffusers loads as this one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from archspec.families.base import Anatomy, Family, Shape, choice, count, flag, linear, prefixed
from archspec.families.diffusers_block import (
    BLOCKS,
    HANDLED,
    IGNORED,
    SPARE,
    Block,
    check_grid,
    patch_embedding,
    timestep_embedding,
)
from archspec.source import Span

ARCHITECTURE = "PixArtTransformer2DModel"


def _anatomy(_: str, values: Mapping[str, Any], span: Span | None) -> Anatomy:
    check_grid(values, span)
    block = Block.of(values, norms=("norm1", "norm2"), context=values["cross_attention_dim"])
    width, patch, channels = block.width, values["patch_size"], values["in_channels"]
    inside = {"scale_shift_table": (6, width), **block.tensors()}
    tensors = {"scale_shift_table": (2, width), **patch_embedding(width, channels, patch)}
    for index in range(values["num_layers"]):
        tensors |= prefixed(f"{BLOCKS}.{index}", inside)
    tensors |= linear("proj_out", patch * patch * (values["out_channels"] or channels), width)
    tensors |= _conditioning(width, values)
    sites = (site for index in range(values["num_layers"]) for site in block.sites(index, tensors))
    return Anatomy({"blocks": BLOCKS}, tuple(sites), tensors, spare=SPARE)


def _conditioning(width: int, values: Mapping[str, Any]) -> dict[str, Shape]:
    """Return the tensors of AdaLayerNormSingle and of the caption projection."""
    tensors = timestep_embedding("adaln_single.emb.timestep_embedder", width)
    sized = values["use_additional_conditions"]
    if sized or (sized is None and values["sample_size"] == 128):
        for name in ("resolution_embedder", "aspect_ratio_embedder"):
            tensors |= timestep_embedding(f"adaln_single.emb.{name}", width // 3)
    tensors |= linear("adaln_single.linear", 6 * width, width)
    if values["caption_channels"] is not None:
        tensors |= linear("caption_projection.linear_1", width, values["caption_channels"])
        tensors |= linear("caption_projection.linear_2", width, width)
    return tensors


def _legacy(config: Mapping[str, Any]) -> str | None:
    outdated = config.get("_class_name") == "Transformer2DModel" and config.get("norm_type") == "ada_norm_single"
    return ARCHITECTURE if outdated else None


FAMILY = Family(
    name="pixart",
    library="diffusers",
    architectures=frozenset({ARCHITECTURE}),
    handled={
        **HANDLED,
        "sample_size": count(128),
        "out_channels": count(8, optional=True),
        "cross_attention_dim": count(1152, optional=True),
        "norm_type": choice("ada_norm_single"),
        "attention_type": choice("default"),
        "use_additional_conditions": flag(None),
        "caption_channels": count(None),
    },
    ignored=IGNORED | {"interpolation_scale"},
    anatomy=_anatomy,
    places="fixed",
    legacy=_legacy,
)
