"""transformers' GPT2LMHeadModel and GPT2Model: causal decoders of text, pre-norm LayerNorm, learned positions.

Linear maps are `Conv1D`, whose weight is (in, out), and q, k and v are one map `c_attn`: the teachers are excerpts.
Where a config scales scores otherwise than by 1 / sqrt(head) (`scale_attn_weights`, the number of the layer), the
excerpt of q carries the factor. `reorder_and_upcast_attn` is another order of the same arithmetic.
Blocks are given the cache and the mask by place. Cross attention is refused by name.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
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
    norm_site,
    prefixed,
    teachers,
)
from archspec.host.excerpt import Excerpt
from archspec.host.structure import Port, Site, SiteShape
from archspec.operators.mlp import ACTIVATIONS
from archspec.source import Span

MLP = {"up": Excerpt("c_fc", transposed=True), "down": Excerpt("c_proj", transposed=True)}
MASK, CACHE = "attention_mask", "past_key_values"
BLOCK = Port(mask=MASK, cache=CACHE, places=(CACHE, MASK))
SELF = Port(returns=2, mask=MASK, cache=CACHE, places=(CACHE, MASK))


def _anatomy(architecture: str, values: Mapping[str, Any], span: Span | None) -> Anatomy:
    shapes = _shapes(values, span)
    head, width = architecture == "GPT2LMHeadModel", values["n_embd"]
    body = "transformer." if head else ""
    path, depth = f"{body}h", values["n_layer"]
    tensors: dict[str, Shape] = {
        f"{body}wte.weight": (values["vocab_size"], width),
        f"{body}wpe.weight": (values["n_positions"], width),
    }
    for index in range(depth):
        tensors |= prefixed(f"{path}.{index}", _inside(width, shapes["mlp"].hidden or 0))
    tensors |= layer_norm(f"{body}ln_f", width)
    tied = {"lm_head.weight": f"{body}wte.weight"} if head and values["tie_word_embeddings"] else {}
    if head and not tied:
        tensors["lm_head.weight"] = (values["vocab_size"], width)
    spare = {f"{path}.{index}.attn.{name}" for index in range(depth) for name in ("bias", "masked_bias")}
    sites = (s for index in range(depth) for s in _sites(f"{path}.{index}", index, shapes, values, tensors))
    return Anatomy({"blocks": path}, tuple(sites), tensors, tied, frozenset(spare))


def _shapes(values: Mapping[str, Any], span: Span | None) -> dict[str, SiteShape]:
    """Return slot -> contract; refuse sizes that do not divide."""
    width, heads = values["n_embd"], values["n_head"]
    check_heads("n_embd", width, heads, span)
    plain = SiteShape(width, causal=True)
    attn = SiteShape(width, causal=True, heads=heads, kv_heads=heads, head_dim=width // heads)
    hidden = values["n_inner"] or 4 * width
    mlp = SiteShape(width, causal=True, hidden=hidden, activation=values["activation_function"])
    return {"attn": attn, "mlp": mlp, "norm": plain, "block": plain}


def _inside(width: int, hidden: int) -> dict[str, Shape]:
    """Return name within a block -> shape."""
    return {
        **layer_norm("ln_1", width),
        **_conv1d("attn.c_attn", 3 * width, width),
        **_conv1d("attn.c_proj", width, width),
        **layer_norm("ln_2", width),
        **_conv1d("mlp.c_fc", hidden, width),
        **_conv1d("mlp.c_proj", width, hidden),
    }


def _conv1d(name: str, rows: int, columns: int) -> dict[str, Shape]:
    """Return the tensors of transformers' `Conv1D` from `columns` to `rows` features."""
    return {f"{name}.weight": (columns, rows), f"{name}.bias": (rows,)}


def _attention(index: int, shape: SiteShape, values: Mapping[str, Any]) -> dict[str, str | Excerpt]:
    """Return where the projections of the attention of block `index` are."""
    scale = 1.0 if values["scale_attn_weights"] else (shape.head_dim or 1) ** 0.5
    scale /= index + 1 if values["scale_attn_by_inverse_layer_idx"] else 1
    fused: dict[str, str | Excerpt] = {
        name: Excerpt(
            "c_attn",
            start=place * shape.width,
            stop=(place + 1) * shape.width,
            transposed=True,
            scale=scale if name == "q" else 1.0,
        )
        for place, name in enumerate("qkv")
    }
    return fused | {"o": Excerpt("c_proj", transposed=True)}


def _sites(
    path: str, index: int, shapes: Mapping[str, SiteShape], values: Mapping[str, Any], tensors: Mapping[str, Shape]
) -> Iterator[Site]:
    attn, mlp = f"{path}.attn", f"{path}.mlp"
    names = _attention(index, shapes["attn"], values)
    yield Site(path, "block", shapes["block"], BLOCK, index=index)
    yield norm_site(f"{path}.ln_1", shapes["norm"], index, tensors)
    yield Site(attn, "attn", shapes["attn"], SELF, index=index, teacher=teachers(attn, names, tensors))
    yield norm_site(f"{path}.ln_2", shapes["norm"], index, tensors)
    yield Site(mlp, "mlp", shapes["mlp"], index=index, teacher=teachers(mlp, MLP, tensors))


FAMILY = Family(
    name="gpt2",
    library="transformers",
    architectures=frozenset({"GPT2LMHeadModel", "GPT2Model"}),
    turned=frozenset({"c_attn", "c_proj", "c_fc"}),
    handled={
        "vocab_size": count(50257),
        "n_positions": count(1024),
        "n_embd": count(768),
        "n_layer": count(12, most=10_000),
        "n_head": count(12),
        "n_inner": count(None),
        "activation_function": choice("gelu_new", *(name for name in ACTIVATIONS if name != "gelu_new")),
        "scale_attn_weights": flag(True),
        "scale_attn_by_inverse_layer_idx": flag(False),
        "add_cross_attention": Attribute(False, bool, choices=(False,)),
        "tie_word_embeddings": flag(True),
    },
    ignored=frozenset(
        {
            *("resid_pdrop", "embd_pdrop", "attn_pdrop", "layer_norm_epsilon", "reorder_and_upcast_attn", "n_ctx"),
            *("summary_type", "summary_use_proj", "summary_activation", "summary_proj_to_labels"),
            "summary_first_dropout",
        }
    ),
    anatomy=_anatomy,
    task="text",
    places="fixed",
    headless=frozenset({"GPT2Model"}),
    advice="are config.json and the weights of the same model? where only `transformer.` is missing, as in the "
    "published gpt2, save it again: `GPT2LMHeadModel.from_pretrained(old).save_pretrained(new)`",
)
