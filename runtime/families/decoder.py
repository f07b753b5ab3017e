"""Causal language models of transformers: Llama, Mistral, Qwen2, Qwen3."""

from __future__ import annotations

from dataclasses import dataclass

from archspec.runtime.families.base import Example, Family, Objective, Request


@dataclass
class Decoder(Family):
    """The running side of one of these families."""

    name: str
    objective: Objective = "lm"

    def inputs(self, request: Request) -> Example:
        """Token ids (batch, tokens), at most the host's longest text; no cache."""
        return {"input_ids": request.ids(), "use_cache": False}
