"""transformers' BertModel and BertForMaskedLM: encoders of text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from archspec.runtime.families.base import TEXT_TOKENS, Draw, Example, Objective


class Bert:
    name = "bert"
    objective: Objective = "mlm"

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
        """Token ids (batch, tokens), none of them padding, at most the host's longest text."""
        own: Any = module.config
        length = tokens or min(TEXT_TOKENS, own.max_position_embeddings)
        return {"input_ids": Draw(device, dtype, seed).integers(own.vocab_size, batch, length)}
