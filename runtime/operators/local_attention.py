"""Softmax attention within a 1-D or 2-D window: exact, without a tokens x tokens mask.

While decoding, the host's cache keeps no more than `window` past keys and values of this layer.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from archspec.host.structure import SiteShape
from archspec.operators.local_attention import LocalAttention as Signature
from archspec.runtime.operators import memory
from archspec.runtime.operators.base import EMPTY, Context, grid_of
from archspec.runtime.operators.heads import Heads, State, merge, reference_softmax
from archspec.runtime.operators.scores import attend, four_dims, narrow
from archspec.runtime.operators.windows import Axis, dense, window_attention

ONE = Axis(1, 1, 0, 0)
"""The other axis of a 1-D window."""


class LocalAttention(Heads):
    """Every token attends to the tokens within its window; a token always sees itself unless the host masks it."""

    signature = Signature
    config: Signature

    def features(self, x: Tensor, context: Context = EMPTY) -> Tensor:
        q, k, v = self.project(x, context)
        mask = None if context.mask is None else four_dims(context.mask)
        if context.cache is not None:
            memory.window(context.cache, context.layer, self.config.window)
            k, v = context.cache.update(k, v, context.layer)
            seen = int(context.cache.get_seq_length(context.layer))
            mask = None if mask is None else mask[..., seen - k.shape[-2] : seen]
        before = context.before
        rows, columns = self._axes(x.shape[1] - before, k.shape[-2] - before)
        causal = bool(self.config.causal)
        whole = rows.left >= rows.keys - 1 if causal else rows.open and columns.open
        if whole:
            return merge(attend(q, k, v, mask, causal))
        if before:
            return merge(_with_text(q, k, v, rows, columns, mask, before))
        return merge(window_attention(q, k, v, rows, columns, mask))

    def _axes(self, queries: int, keys: int) -> tuple[Axis, Axis]:
        """Return the axes of the tokens that windows are of."""
        window = self.config.window
        if self.config.layout == "raster":
            return Axis(queries, keys, window, 0 if self.config.causal else window), ONE
        rows, columns = grid_of(queries, self.shape)
        return Axis(rows, rows, window, window), Axis(columns, columns, window, window)

    @staticmethod
    def reference(x: Tensor, state: State, config: Any, shape: SiteShape, context: Context) -> Tensor:
        before, tokens = context.before, x.shape[1] - context.before
        columns = grid_of(tokens, shape)[1] if config.layout == "grid" else 1
        allowed = torch.ones(before + tokens, before + tokens, dtype=torch.bool, device=x.device)
        for i in range(tokens):
            for j in range(tokens):
                near = max(abs(i // columns - j // columns), abs(i % columns - j % columns)) <= config.window
                allowed[before + i, before + j] = near and (j <= i or not config.causal)
        return reference_softmax(x, state, config, context, allowed)


def _with_text(q: Tensor, k: Tensor, v: Tensor, rows: Axis, columns: Axis, mask: Tensor | None, before: int) -> Tensor:
    """Return attention of `before` tokens that see all and are seen by all, and of windows of the others."""
    text = None if mask is None else mask.expand(-1, -1, q.shape[2], -1)
    first = attend(q[:, :, :before], k, v, text if text is None else text[..., :before, :], False)
    rest = q[:, :, before:]
    if text is not None:
        allowed = pad(dense(rows, columns, q.device), (before, 0), value=True)
        y = attend(rest, k, v, narrow(text[..., before:, :], allowed), False)
    else:
        seen = k[:, :, :before], v[:, :, :before]
        y = window_attention(rest, k[:, :, before:], v[:, :, before:], rows, columns, None, seen)
    return torch.cat((first, y), 2)
