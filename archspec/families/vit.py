"""transformers' ViTModel and ViTForImageClassification: encoders of images, pre-norm, a class token before the patches.

Filters over the grid of patches show the class token nothing but itself; windows on the grid are refused. Tensors are
named as the modules of transformers; checkpoints of older versions must be saved again.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from archspec.families.base import (
    Anatomy,
    Attribute,
    Family,
    Shape,
    check_heads,
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
from archspec.operators.mlp import ACTIVATIONS
from archspec.source import Span

ATTENTION = {"q": "q_proj", "k": "k_proj", "v": "v_proj", "o": "o_proj"}
MLP = {"up": "fc1", "down": "fc2"}
BLOCK = Port(mask="attention_mask")
SELF = Port(returns=2, mask="attention_mask")
LABELS = 2
"""Classes of a config that names none, as transformers has it."""


def _anatomy(architecture: str, values: Mapping[str, Any], span: Span | None) -> Anatomy:
    shapes = _shapes(values, span)
    head = architecture == "ViTForImageClassification"
    body, width = "vit." if head else "", values["hidden_size"]
    path, patch = f"{body}layers", values["patch_size"]
    tensors: dict[str, Shape] = {
        f"{body}embeddings.cls_token": (1, 1, width),
        f"{body}embeddings.position_embeddings": (1, shapes["block"].tokens or 0, width),
        f"{body}embeddings.patch_embeddings.projection.weight": (width, values["num_channels"], patch, patch),
        f"{body}embeddings.patch_embeddings.projection.bias": (width,),
    }
    for index in range(values["num_hidden_layers"]):
        tensors |= prefixed(f"{path}.{index}", _inside(values))
    tensors |= layer_norm(f"{body}layernorm", width)
    if head:
        tensors |= linear("classifier", len(values["id2label"] or ()) or values["num_labels"] or LABELS, width)
    else:
        tensors |= linear("pooler.dense", values["pooler_output_size"] or width, width)
    sites = (
        s for index in range(values["num_hidden_layers"]) for s in _sites(f"{path}.{index}", index, shapes, tensors)
    )
    return Anatomy({"blocks": path}, tuple(sites), tensors)


def _shapes(values: Mapping[str, Any], span: Span | None) -> dict[str, SiteShape]:
    """Return slot -> contract; refuse sizes that do not divide."""
    width, heads = values["hidden_size"], values["num_attention_heads"]
    check_heads("hidden_size", width, heads, span)
    side, patch = values["image_size"], values["patch_size"]
    grid = (side // patch, side // patch)
    plain = SiteShape(width, 1 + grid[0] * grid[1], grid, prefix=1)
    size, bias = width // heads, values["qkv_bias"]
    attn = replace(plain, heads=heads, kv_heads=heads, head_dim=size, bias=bias)
    mlp = replace(plain, hidden=values["intermediate_size"], activation=values["hidden_act"])
    return {"attn": attn, "mlp": mlp, "norm": plain, "block": plain}


def _inside(values: Mapping[str, Any]) -> dict[str, Shape]:
    """Return name within a layer -> shape."""
    width, hidden, bias = values["hidden_size"], values["intermediate_size"], values["qkv_bias"]
    return {
        **linear("attention.q_proj", width, width, bias),
        **linear("attention.k_proj", width, width, bias),
        **linear("attention.v_proj", width, width, bias),
        **linear("attention.o_proj", width, width),
        **layer_norm("layernorm_before", width),
        **layer_norm("layernorm_after", width),
        **linear("mlp.fc1", hidden, width),
        **linear("mlp.fc2", width, hidden),
    }


def _sites(path: str, index: int, shapes: Mapping[str, SiteShape], tensors: Mapping[str, Shape]) -> Iterator[Site]:
    attn, mlp = f"{path}.attention", f"{path}.mlp"
    yield Site(path, "block", shapes["block"], BLOCK, index=index)
    yield norm_site(f"{path}.layernorm_before", shapes["norm"], index, tensors)
    yield Site(attn, "attn", shapes["attn"], SELF, index=index, teacher=teachers(attn, ATTENTION, tensors))
    yield norm_site(f"{path}.layernorm_after", shapes["norm"], index, tensors)
    yield Site(mlp, "mlp", shapes["mlp"], index=index, teacher=teachers(mlp, MLP, tensors))


FAMILY = Family(
    name="vit",
    library="transformers",
    architectures=frozenset({"ViTModel", "ViTForImageClassification"}),
    handled={
        "hidden_size": count(768),
        "intermediate_size": count(3072),
        "num_hidden_layers": count(12, most=10_000),
        "num_attention_heads": count(12),
        "hidden_act": choice("gelu", *(name for name in ACTIVATIONS if name != "gelu")),
        "image_size": count(224),
        "patch_size": count(16),
        "num_channels": count(3),
        "qkv_bias": flag(True),
        "pooler_output_size": count(None),
        "num_labels": count(None),
        "id2label": Attribute(None, dict),
    },
    ignored=frozenset(
        {
            *("hidden_dropout_prob", "attention_probs_dropout_prob", "layer_norm_eps"),
            *("encoder_stride", "pooler_act"),
        }
    ),
    anatomy=_anatomy,
    task="vision",
    headless=frozenset({"ViTModel"}),
    advice="load it and save it again with save_pretrained(folder, save_original_format=False)",
)
