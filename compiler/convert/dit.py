"""The layout of facebookresearch/DiT (arXiv 2212.09748), read as diffusers' DiTTransformer2DModel.

A published file has one embedder of times and one of classes for all blocks; diffusers gives every block its own, so
each of them is filled with the same values: 675M numbers of DiT-XL/2 become 749.8M. The file fixes all sizes but the
number of heads, which is known for the published widths.

NOTE: diffusers' class is not DiT to the last digit: its frequencies of the time embedding are spaced over 127 steps
instead of 128 (`downscale_freq_shift=1`) and the norm before the MLP has epsilon 1e-5 instead of 1e-6. The published
`facebook/DiT-XL-2-256` of diffusers has the same two differences.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import isqrt
from typing import Any

from archspec.compiler.convert.recipe import Part, Recipe, Shapes, linear
from archspec.diagnostics import fail

HEADS = {384: 6, 768: 12, 1024: 16, 1152: 16}
"""Width -> heads of DiT-S, B, L and XL."""
ARCHITECTURE, BLOCKS = "DiTTransformer2DModel", "transformer_blocks"
SLOTS = {"attn": "attn1", "mlp": "ff"}
"""Published name of a part of a block -> diffusers' name."""
SIGNS = ("x_embedder.proj.weight", "y_embedder.embedding_table.weight", "final_layer.linear.weight", "pos_embed")
TABLE = "pos_embed"
"""The table of positions, which diffusers computes."""


def is_dit(shapes: Shapes) -> bool:
    """Say whether a state has this layout."""
    return all(name in shapes for name in SIGNS)


@dataclass(frozen=True)
class Sizes:
    """What the shapes of a state tell."""

    width: int
    depth: int
    patch: int
    channels: int
    out_channels: int
    classes: int
    side: int
    """Of the latent image."""
    heads: int

    def config(self) -> dict[str, Any]:
        """Return diffusers' config."""
        return {
            "_class_name": ARCHITECTURE,
            "activation_fn": "gelu-approximate",
            "attention_bias": True,
            "attention_head_dim": self.width // self.heads,
            "in_channels": self.channels,
            "norm_elementwise_affine": False,
            "norm_type": "ada_norm_zero",
            "num_attention_heads": self.heads,
            "num_embeds_ada_norm": self.classes,
            "num_layers": self.depth,
            "out_channels": self.out_channels,
            "patch_size": self.patch,
            "sample_size": self.side,
        }


def sizes(shapes: Shapes, heads: int | None) -> Sizes:
    """Read the sizes off a state. AS652 where the number of heads is not known; AS651 where sizes contradict."""
    try:
        width, channels, patch, _ = shapes["x_embedder.proj.weight"]
        (_, tokens, _), (rows, _) = shapes[TABLE], shapes["final_layer.linear.weight"]
        classes = shapes["y_embedder.embedding_table.weight"][0] - 1
    except ValueError:
        raise fail("AS651", "the embedders of the file have not the shapes of DiT's") from None
    heads = heads or HEADS.get(width)
    if heads is None or heads < 1 or width % heads:
        known = ", ".join(map(str, HEADS))
        message = f"{heads} heads do not divide the width {width}" if heads else f"no published DiT is {width} wide"
        raise fail("AS652", message, None, f"write `--heads N`; known widths are {known}")
    side = isqrt(tokens)
    if side * side != tokens or not patch or rows % (patch * patch):
        raise fail("AS651", f"{tokens} tokens and {rows} output rows are not of a square image")
    depth = 1 + max((int(name.split(".")[1]) for name in _blocks(shapes)), default=-1)
    return Sizes(width, depth, patch, channels, rows // patch**2, classes, side * patch, heads)


def _blocks(shapes: Shapes) -> Iterator[str]:
    return (n for n in shapes if n.startswith("blocks.") and n.split(".")[1].isdecimal() and n.count(".") > 1)


def stem(depth: int) -> Recipe:
    """Return the recipe of all that is no attention and no MLP."""
    found: dict[str, Part] = {
        **linear("pos_embed.proj", "x_embedder.proj"),
        **linear("proj_out_1", "final_layer.adaLN_modulation.1"),
        **linear("proj_out_2", "final_layer.linear"),
    }
    for i in range(depth):
        norm = f"{BLOCKS}.{i}.norm1"
        found |= {
            **linear(f"{norm}.emb.timestep_embedder.linear_1", "t_embedder.mlp.0"),
            **linear(f"{norm}.emb.timestep_embedder.linear_2", "t_embedder.mlp.2"),
            f"{norm}.emb.class_embedder.embedding_table.weight": Part("y_embedder.embedding_table.weight"),
            **linear(f"{norm}.linear", f"blocks.{i}.adaLN_modulation.1"),
        }
    return found


def attention(index: int) -> Recipe:
    """Return the recipe of a block's own attention; q, k and v are thirds of one map."""
    path, source = f"{BLOCKS}.{index}.attn1", f"blocks.{index}.attn"
    return {
        **{k: p for n, role in enumerate("qkv") for k, p in linear(f"{path}.to_{role}", f"{source}.qkv", n, 3).items()},
        **linear(f"{path}.to_out.0", f"{source}.proj"),
    }


def mlp(index: int) -> Recipe:
    """Return the recipe of a block's own MLP."""
    path, source = f"{BLOCKS}.{index}.ff.net", f"blocks.{index}.mlp"
    return {**linear(f"{path}.0.proj", f"{source}.fc1"), **linear(f"{path}.2", f"{source}.fc2")}


OWN = {"attn": attention, "mlp": mlp}
"""Slot -> the recipe of what an unedited block has there."""
