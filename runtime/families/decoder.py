"""Causal language models of transformers: Llama, Mistral, Qwen2, Qwen3."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from archspec.runtime.families.base import TEXT_TOKENS, Draw, Example, Objective


@dataclass
class Decoder:
    """The running side of one of these families."""

    name: str
    objective: Objective = "lm"

    def example(
        self,
        module: nn.Module,
        config: Mapping[str, Any],
        batch: int = 1,
        tokens: int | None = None,
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.float32,
        seed: int = 0,
    ) -> Example:
        """Token ids (batch, tokens), at most the host's longest text; no cache."""
        own: Any = module.config
        length = tokens or min(TEXT_TOKENS, own.max_position_embeddings)
        draw = Draw(device, dtype, seed)
        return {"input_ids": draw.integers(own.vocab_size, batch, length), "use_cache": False}
