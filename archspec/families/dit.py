"""diffusers' DiTTransformer2DModel: class-conditional diffusion with adaLN-Zero (https://arxiv.org/abs/2212.09748).

Every block has its own embedders of time and class in `norm1.emb`, and the model's output layer reads those of block
0, whatever block stands there. `facebook/DiT-XL-2-256` is published under the outdated class `Transformer2DModel` with
`norm_type: ada_norm_zero`, which diffusers loads as this one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from archspec.families.base import Anatomy, Family, Shape, choice, count, linear, prefixed
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

ARCHITECTURE = "DiTTransformer2DModel"


def _anatomy(_: str, values: Mapping[str, Any], span: Span | None) -> Anatomy:
    check_grid(values, span)
    block = Block.of(values, norms=("norm1.norm", "norm3"))
    inside = {**_modulation(block.width, values["num_embeds_ada_norm"]), **block.tensors()}
    width, patch, channels = block.width, values["patch_size"], values["in_channels"]
    tensors = patch_embedding(width, channels, patch)
    for index in range(values["num_layers"]):
        tensors |= prefixed(f"{BLOCKS}.{index}", inside)
    tensors |= linear("proj_out_1", 2 * width, width)
    tensors |= linear("proj_out_2", patch * patch * (values["out_channels"] or channels), width)
    sites = (site for index in range(values["num_layers"]) for site in block.sites(index, tensors))
    return Anatomy({"blocks": BLOCKS}, tuple(sites), tensors, spare=SPARE)


def _modulation(width: int, classes: int) -> dict[str, Shape]:
    """Return the tensors of AdaLayerNormZero; the last row of the table is the null class."""
    return {
        **timestep_embedding("norm1.emb.timestep_embedder", width),
        "norm1.emb.class_embedder.embedding_table.weight": (classes + 1, width),
        **linear("norm1.linear", 6 * width, width),
    }


def _legacy(config: Mapping[str, Any]) -> str | None:
    outdated = config.get("_class_name") == "Transformer2DModel" and config.get("norm_type") == "ada_norm_zero"
    return ARCHITECTURE if outdated else None


FAMILY = Family(
    name="dit",
    library="diffusers",
    architectures=frozenset({ARCHITECTURE}),
    handled={
        **HANDLED,
        "sample_size": count(32),
        "out_channels": count(None),
        "norm_type": choice("ada_norm_zero"),
    },
    ignored=IGNORED,
    anatomy=_anatomy,
    places="fixed",
    legacy=_legacy,
    outside=(f"{BLOCKS}.0.norm1.emb",),
)
