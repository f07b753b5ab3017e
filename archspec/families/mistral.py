"""transformers' MistralForCausalLM and MistralModel: Llama without biases. The first release attends within a sliding
window, which is not understood: its operators and caches would have to know of it."""

from __future__ import annotations

from archspec.families.base import Attribute, count
from archspec.families.decoder import decoder

FAMILY = decoder(
    "mistral",
    {
        "intermediate_size": count(14336),
        "num_key_value_heads": count(8),
        "head_dim": count(None),
        "sliding_window": Attribute(4096, int, optional=True, choices=(None,)),
    },
)
