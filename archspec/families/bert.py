"""transformers' BertModel and BertForMaskedLM: encoders of text, post-norm, with learned positions. MiniLM and many
sentence encoders are published under the former.

A layer has no module of its own for what is one site here. Attention's last map stands in `attention.output`, that of
the MLP in `output`, each before the sum with the residual and its LayerNorm: see `Port.exit`. The MLP is told nothing
of padding, attention is. Decoders (`is_decoder`) and cross attention are refused by name.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from archspec.families.base import (
    Anatomy,
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

ATTENTION = {"q": "self.query", "k": "self.key", "v": "self.value", "o": "output.dense"}
MLP = {"up": "intermediate.dense", "down": "output.dense"}
BLOCK = Port(mask="attention_mask")
SELF = Port(returns=2, mask="attention_mask", exit="output.dense")
FEED_FORWARD = Port(exit="output.dense")


def _anatomy(architecture: str, values: Mapping[str, Any], span: Span | None) -> Anatomy:
    shapes = _shapes(values, span)
    head = architecture == "BertForMaskedLM"
    body, width = "bert." if head else "", values["hidden_size"]
    path = f"{body}encoder.layer"
    tensors: dict[str, Shape] = {
        f"{body}embeddings.word_embeddings.weight": (values["vocab_size"], width),
        f"{body}embeddings.position_embeddings.weight": (values["max_position_embeddings"], width),
        f"{body}embeddings.token_type_embeddings.weight": (values["type_vocab_size"], width),
        **layer_norm(f"{body}embeddings.LayerNorm", width),
    }
    for index in range(values["num_hidden_layers"]):
        tensors |= prefixed(f"{path}.{index}", _inside(width, values["intermediate_size"]))
    tensors |= _head(values) if head else linear("pooler.dense", width, width)
    sites = (
        s for index in range(values["num_hidden_layers"]) for s in _sites(f"{path}.{index}", index, shapes, tensors)
    )
    tied = _tied(values) if head else {}
    return Anatomy({"blocks": path}, tuple(sites), tensors, tied, _spare(body, width))


def _shapes(values: Mapping[str, Any], span: Span | None) -> dict[str, SiteShape]:
    """Return slot -> contract; refuse sizes that do not divide."""
    width, heads = values["hidden_size"], values["num_attention_heads"]
    check_heads("hidden_size", width, heads, span)
    attn = SiteShape(width, heads=heads, kv_heads=heads, head_dim=width // heads)
    mlp = SiteShape(width, hidden=values["intermediate_size"], activation=values["hidden_act"])
    return {"attn": attn, "mlp": mlp, "norm": SiteShape(width), "block": SiteShape(width)}


def _inside(width: int, hidden: int) -> dict[str, Shape]:
    """Return name within a layer -> shape."""
    return {
        **linear("attention.self.query", width, width),
        **linear("attention.self.key", width, width),
        **linear("attention.self.value", width, width),
        **linear("attention.output.dense", width, width),
        **layer_norm("attention.output.LayerNorm", width),
        **linear("intermediate.dense", hidden, width),
        **linear("output.dense", width, hidden),
        **layer_norm("output.LayerNorm", width),
    }


def _head(values: Mapping[str, Any]) -> dict[str, Shape]:
    """Return the tensors of the language model's head, without those that are tied."""
    width, words, home = values["hidden_size"], values["vocab_size"], "cls.predictions"
    own = {} if values["tie_word_embeddings"] else linear(f"{home}.decoder", words, width)
    transform = {**linear(f"{home}.transform.dense", width, width), **layer_norm(f"{home}.transform.LayerNorm", width)}
    return {f"{home}.bias": (words,), **transform, **own}


def _tied(values: Mapping[str, Any]) -> dict[str, str]:
    if not values["tie_word_embeddings"]:
        return {}
    home = "cls.predictions"
    return {
        f"{home}.decoder.weight": "bert.embeddings.word_embeddings.weight",
        f"{home}.decoder.bias": f"{home}.bias",
    }


def _spare(body: str, width: int) -> frozenset[str]:
    """Return what checkpoints hold beside: the numbers of positions, and heads of the pretraining."""
    unused = (*linear("bert.pooler.dense", width, width), *linear("cls.seq_relationship", 2, width))
    return frozenset({f"{body}embeddings.position_ids", *(unused if body else ())})


def _sites(path: str, index: int, shapes: Mapping[str, SiteShape], tensors: Mapping[str, Shape]) -> Iterator[Site]:
    home = f"{path}.attention"
    yield Site(path, "block", shapes["block"], BLOCK, index=index)
    yield Site(f"{home}.self", "attn", shapes["attn"], SELF, index=index, teacher=teachers(home, ATTENTION, tensors))
    yield norm_site(f"{path}.attention.output.LayerNorm", shapes["norm"], index, tensors)
    mlp = f"{path}.intermediate"
    yield Site(mlp, "mlp", shapes["mlp"], FEED_FORWARD, index=index, teacher=teachers(path, MLP, tensors))
    yield norm_site(f"{path}.output.LayerNorm", shapes["norm"], index, tensors)


FAMILY = Family(
    name="bert",
    library="transformers",
    architectures=frozenset({"BertModel", "BertForMaskedLM"}),
    handled={
        "vocab_size": count(30522),
        "hidden_size": count(768),
        "intermediate_size": count(3072),
        "num_hidden_layers": count(12, most=10_000),
        "num_attention_heads": count(12),
        "hidden_act": choice("gelu", *(name for name in ACTIVATIONS if name != "gelu")),
        "max_position_embeddings": count(512),
        "type_vocab_size": count(2),
        "position_embedding_type": choice("absolute"),
        "tie_word_embeddings": flag(True),
    },
    ignored=frozenset({"hidden_dropout_prob", "attention_probs_dropout_prob", "layer_norm_eps", "classifier_dropout"}),
    anatomy=_anatomy,
    task="encoder",
    headless=frozenset({"BertModel"}),
    advice="are config.json and the weights of the same model? old names (`gamma`, `beta`) go by saving it again",
)
