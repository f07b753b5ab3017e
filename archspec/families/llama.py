"""transformers' LlamaForCausalLM and LlamaModel. SmolLM2, TinyLlama, Yi and many others are published under it."""

from __future__ import annotations

from archspec.families.base import count, flag
from archspec.families.decoder import decoder

FAMILY = decoder(
    "llama",
    {"attention_bias": flag(False), "mlp_bias": flag(False), "head_dim": count(None)},
    frozenset({"pretraining_tp", "is_llama_config", "max_sequence_length"}),
    lambda values: (values["attention_bias"], values["attention_bias"], values["mlp_bias"]),
)
