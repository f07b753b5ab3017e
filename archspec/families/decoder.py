"""The decoders of transformers that are built as Llama is: causal, pre-norm RMSNorm, rotary positions, grouped queries,
SwiGLU. Their families differ in biases, in norms of queries and keys, and in where their configs say so.

The model runs `layers[:num_hidden_layers]`, and each attention knows its place in the key/value cache by `layer_idx`:
whoever changes the list of blocks must set both anew (`archspec.runtime.model.apply` does). With tied embeddings
`lm_head.weight` is the embedding's; a copy of it in a checkpoint is not a tensor of the model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from archspec.diagnostics import fail
from archspec.families.base import (
    Anatomy,
    Attribute,
    Family,
    Shape,
    check_heads,
    choice,
    count,
    flag,
    linear,
    norm_site,
    prefixed,
    teachers,
)
from archspec.host.structure import Port, Site, SiteShape
from archspec.source import Span

NORMS = ("q_norm", "k_norm")
FULL = "full_attention"
ATTENTION = {"q": "q_proj", "k": "k_proj", "v": "v_proj", "o": "o_proj", **{norm: norm for norm in NORMS}}
MLP = {"up": "up_proj", "down": "down_proj", "gate": "gate_proj"}
BLOCK = Port(rotary="position_embeddings", mask="attention_mask", cache="past_key_values")
SELF = Port(returns=2, rotary="position_embeddings", mask="attention_mask", cache="past_key_values")
ACTIVATIONS = ("gelu", "gelu_new", "gelu_pytorch_tanh", "quick_gelu", "relu", "relu2", "swish")

HANDLED: Mapping[str, Attribute] = {
    "vocab_size": count(32000),
    "hidden_size": count(4096),
    "intermediate_size": count(11008),
    "num_hidden_layers": count(32, most=10_000),
    "num_attention_heads": count(32),
    "num_key_value_heads": count(None),
    "hidden_act": choice("silu", *ACTIVATIONS),
    "tie_word_embeddings": flag(False),
}
"""What they have in common, with Llama's defaults."""
IGNORED = frozenset(
    {"max_position_embeddings", "rms_norm_eps", "attention_dropout", "rope_parameters", "rope_theta", "rope_scaling"}
)


def decoder(
    name: str,
    handled: Mapping[str, Attribute],
    ignored: frozenset[str] = frozenset(),
    biases: Callable[[Mapping[str, Any]], tuple[bool, bool, bool]] = lambda values: (False, False, False),
    qk_norm: bool = False,
) -> Family:
    """Return the family of `<Name>ForCausalLM` and `<Name>Model`. `handled` is beside, or over, what all have; `biases`
    tells from a config's values whether q, k and v, the read-out, and the MLP have them."""
    stem = name.capitalize()

    def anatomy(architecture: str, values: Mapping[str, Any], span: Span | None) -> Anatomy:
        return _anatomy(architecture == f"{stem}ForCausalLM", values, biases(values), qk_norm, span)

    return Family(
        name=name,
        library="transformers",
        architectures=frozenset({f"{stem}ForCausalLM", f"{stem}Model"}),
        handled={**HANDLED, **handled},
        ignored=IGNORED | ignored,
        anatomy=anatomy,
        task="text",
        places="rotary",
    )


def _anatomy(
    head: bool, values: Mapping[str, Any], biases: tuple[bool, bool, bool], qk_norm: bool, span: Span | None
) -> Anatomy:
    _attends_to_all(values, span)
    shapes = _shapes(values, biases, qk_norm, span)
    body = "model." if head else ""
    path, depth, width = f"{body}layers", values["num_hidden_layers"], values["hidden_size"]
    inside = _inside(shapes["attn"], shapes["mlp"])
    tensors: dict[str, Shape] = {f"{body}embed_tokens.weight": (values["vocab_size"], width)}
    for index in range(depth):
        tensors |= prefixed(f"{path}.{index}", inside)
    tensors[f"{body}norm.weight"] = (width,)
    spare = {f"{path}.{index}.self_attn.rotary_emb.inv_freq" for index in range(depth)}
    tied: dict[str, str] = {}
    if body and values["tie_word_embeddings"]:
        tied["lm_head.weight"] = f"{body}embed_tokens.weight"
    elif body:
        tensors["lm_head.weight"] = (values["vocab_size"], width)
    sites = (site for index in range(depth) for site in _sites(f"{path}.{index}", index, shapes, tensors))
    return Anatomy({"blocks": path}, tuple(sites), tensors, tied, frozenset(spare))


def _attends_to_all(values: Mapping[str, Any], span: Span | None) -> None:
    """Refuse layers that attend within a window: operators and caches would have to know of it."""
    kinds = values.get("layer_types") or ()
    strange = next((kind for kind in kinds if kind != FULL), None)
    if strange is not None:
        message = f"config attribute 'layer_types' with {strange!r} is not supported in decoders"
        raise fail("AS603", message, span, f"supported: {FULL!r} in every layer")
    if kinds and len(kinds) != values["num_hidden_layers"]:
        message = f"config attribute 'layer_types' has {len(kinds)} entries for {values['num_hidden_layers']} layers"
        raise fail("AS604", message, span)


def _shapes(
    values: Mapping[str, Any], biases: tuple[bool, bool, bool], qk_norm: bool, span: Span | None
) -> dict[str, SiteShape]:
    """Return slot -> contract; refuse sizes that do not divide."""
    width, heads = values["hidden_size"], values["num_attention_heads"]
    kv_heads = values["num_key_value_heads"] or heads
    for name, whole, part in (("hidden_size", width, heads), ("num_attention_heads", heads, kv_heads)):
        check_heads(name, whole, part, span)
    attn = SiteShape(
        width,
        causal=True,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=values.get("head_dim") or width // heads,
        bias=biases[0],
        out_bias=biases[1],
        rotary=True,
        qk_norm=qk_norm,
    )
    mlp = SiteShape(
        width,
        causal=True,
        hidden=values["intermediate_size"],
        activation=values["hidden_act"],
        gated=True,
        bias=biases[2],
        out_bias=biases[2],
    )
    return {"attn": attn, "mlp": mlp, "norm": SiteShape(width, causal=True), "block": SiteShape(width, causal=True)}


def _inside(attn: SiteShape, mlp: SiteShape) -> dict[str, Shape]:
    """Return name within a layer -> shape."""
    width, hidden, size = attn.width, mlp.hidden or 0, attn.head_dim or 0
    inner, shared = (attn.heads or 0) * size, (attn.kv_heads or 0) * size
    return {
        **linear("self_attn.q_proj", inner, width, attn.bias),
        **linear("self_attn.k_proj", shared, width, attn.bias),
        **linear("self_attn.v_proj", shared, width, attn.bias),
        **linear("self_attn.o_proj", width, inner, attn.out_bias),
        **{f"self_attn.{norm}.weight": (size,) for norm in NORMS if attn.qk_norm},
        **linear("mlp.gate_proj", hidden, width, mlp.bias),
        **linear("mlp.up_proj", hidden, width, mlp.bias),
        **linear("mlp.down_proj", width, hidden, mlp.bias),
        "input_layernorm.weight": (width,),
        "post_attention_layernorm.weight": (width,),
    }


def _sites(path: str, index: int, shapes: Mapping[str, SiteShape], tensors: Mapping[str, Shape]) -> Iterator[Site]:
    attn, mlp = f"{path}.self_attn", f"{path}.mlp"
    yield Site(path, "block", shapes["block"], BLOCK, index=index)
    yield norm_site(f"{path}.input_layernorm", shapes["norm"], index, tensors, Port())
    yield Site(attn, "attn", shapes["attn"], SELF, index=index, teacher=teachers(attn, ATTENTION, tensors))
    yield norm_site(f"{path}.post_attention_layernorm", shapes["norm"], index, tensors, Port())
    yield Site(mlp, "mlp", shapes["mlp"], Port("x"), index=index, teacher=teachers(mlp, MLP, tensors))
