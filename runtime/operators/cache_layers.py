"""Layers that archspec's operators put into a transformers `Cache`; `memory` says why. Apart, because it imports
transformers, which a model without a cache does not need.

Both count all tokens that passed and ask the host for masks of that full length: one mask may serve all layers.
"""

from __future__ import annotations

import torch
from torch import Tensor
from transformers.cache_utils import DynamicLayer


class Counted(DynamicLayer):  # type: ignore[misc]
    """A layer that knows its length without keeping all tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.cumulative_length = 0

    def get_seq_length(self) -> int:
        return int(self.cumulative_length)

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.cumulative_length + query_length, 0


class WindowLayer(Counted):
    """Keeps the last `reach` tokens before the latest update, and that update: so the latest one can be rolled back,
    which is all that assisted decoding asks for. More can be once `activate_past_recording` was called."""

    def __init__(self, reach: int) -> None:
        super().__init__()
        self.reach = max(reach, 1)
        self.record_past = False

    def activate_past_recording(self) -> None:
        self.record_past = True

    def update(self, key_states: Tensor, value_states: Tensor) -> tuple[Tensor, Tensor]:
        """Return keys and values of the `reach` tokens before, as far as there are any, and of the new ones."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            self.keys, self.values = key_states[..., :0, :], value_states[..., :0, :]
        kept = 0 if self.record_past else -self.reach
        self.keys = torch.cat((self.keys[..., kept:, :], key_states), dim=-2)
        self.values = torch.cat((self.values[..., kept:, :], value_states), dim=-2)
        self.cumulative_length += key_states.shape[-2]
        seen = self.reach + key_states.shape[-2]
        return self.keys[..., -seen:, :], self.values[..., -seen:, :]

    def crop(self, tokens_to_remove: int) -> None:
        """Forget the last tokens (a count, negative as transformers passes it)."""
        count = abs(tokens_to_remove)
        if not count or not self.is_initialized:
            return
        left = self.keys.shape[-2] - count
        if left < min(self.reach, self.cumulative_length - count):
            raise RuntimeError("a window cannot forget more tokens than the last step added")
        self.keys, self.values = self.keys[..., :left, :], self.values[..., :left, :]
        self.cumulative_length -= count


class SumLayer(Counted):
    """Keeps one state per batch entry, in `keys`, and in `values` the last inputs of a convolution, if there is one.
    It cannot roll back."""

    is_croppable = False

    def replace(self, state: Tensor, tokens: int, recent: Tensor | None = None) -> None:
        """Set the state after `tokens` more tokens, and the inputs (batch, ...) that the next one needs beside it."""
        if not self.is_initialized:
            self.lazy_initialization(state, state)
        self.keys, self.values = state, state[:, :0] if recent is None else recent
        self.cumulative_length += tokens

    def crop(self, tokens_to_remove: int) -> None:
        if tokens_to_remove != 0:
            raise RuntimeError("a running sum cannot forget tokens: generate without assisted decoding")
