"""Softmax attention over all tokens, with torch's fused kernels and the host's key/value cache."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from archspec.host.structure import SiteShape
from archspec.operators.attention import Attention as Signature
from archspec.runtime.operators.base import EMPTY, Context
from archspec.runtime.operators.heads import Heads, State, merge, reference_softmax
from archspec.runtime.operators.scores import attend, four_dims


class Attention(Heads):
    """Every token attends to every other; in a causal host to itself and those before it."""

    signature = Signature

    def features(self, x: Tensor, context: Context = EMPTY) -> Tensor:
        q, k, v = self.project(x, context)
        mask = None if context.mask is None else four_dims(context.mask)
        if context.cache is not None:
            k, v = context.cache.update(k, v, context.layer)
            if mask is None:  # a static cache also returns the room it has left
                seen = int(context.cache.get_seq_length(context.layer))
                k, v = k[..., :seen, :], v[..., :seen, :]
        return merge(attend(q, k, v, mask, bool(self.config.causal)))

    @staticmethod
    def reference(x: Tensor, state: State, config: Any, shape: SiteShape, context: Context) -> Tensor:
        tokens = x.shape[1]
        everyone = torch.ones(tokens, tokens, dtype=torch.bool, device=x.device)
        return reference_softmax(x, state, config, context, everyone.tril() if config.causal else everyone)
