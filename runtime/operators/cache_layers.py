"""Layers that archspec's operators put into a transformers `Cache`; `memory` says why. Apart, because it imports
transformers, which a model without a cache does not need."""

from __future__ import annotations

from torch import Tensor
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer


class WindowLayer(DynamicSlidingWindowLayer):  # type: ignore[misc]
    """Keeps the last `reach` tokens (one at least). Masks stay those of full length: the host may share them."""

    is_sliding = False

    def __init__(self, reach: int) -> None:
        super().__init__(sliding_window=max(reach, 1) + 1)

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.cumulative_length + query_length, 0


class SumLayer(DynamicLayer):  # type: ignore[misc]
    """Keeps one state per batch entry, in `keys`, and counts the tokens that went into it. It cannot roll back."""

    is_croppable = False

    def __init__(self) -> None:
        super().__init__()
        self.cumulative_length = 0

    def replace(self, state: Tensor, tokens: int) -> None:
        """Set the state after `tokens` more tokens."""
        if not self.is_initialized:
            self.lazy_initialization(state, state)
        self.keys, self.values = state, state[:, :0]
        self.cumulative_length += tokens

    def get_seq_length(self) -> int:
        return int(self.cumulative_length)

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.cumulative_length + query_length, 0

    def crop(self, tokens_to_remove: int) -> None:
        if tokens_to_remove != 0:
            raise RuntimeError("a running sum cannot forget tokens: generate without assisted decoding")
