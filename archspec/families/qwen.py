"""transformers' Qwen2 and Qwen3 (dense): Llama with biases of q, k and v (Qwen2), or with RMS norms of each head's
queries and keys (Qwen3). Sliding windows, which configs name and do not use, are refused where they are used."""

from __future__ import annotations

from archspec.families.base import Attribute, count, flag
from archspec.families.decoder import decoder

SIZES: dict[str, Attribute] = {
    "vocab_size": count(151936),
    "intermediate_size": count(22016),
    "num_key_value_heads": count(32),
    "use_sliding_window": Attribute(False, bool, choices=(False,)),
    "layer_types": Attribute(None, list),
}
EPS = Attribute(1e-6, float, choices=(1e-6,))
"""What operators add to the mean square of a head's queries and keys."""
UNUSED = frozenset({"sliding_window", "max_window_layers"})
"""What only matters with sliding windows."""
QWEN2 = decoder("qwen2", SIZES, UNUSED, lambda values: (True, False, False))
QWEN3 = decoder(
    "qwen3",
    {**SIZES, "head_dim": count(128), "attention_bias": flag(False), "rms_norm_eps": EPS},
    UNUSED,
    lambda values: (values["attention_bias"], values["attention_bias"], False),
    qk_norm=True,
)
