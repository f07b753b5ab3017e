"""Attention processors of diffusers that ask a session what each sample sees.

One for each order of the streams: context first and rotated (FLUX), image first (SD3; DiT and PixArt, which have no
context there). Where nothing is grafted the host's own processor answers, so its result is the host's bit by bit.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from archspec.runtime.features.apply import Call, attention
from archspec.runtime.features.positions import Fixed, Tables
from archspec.runtime.features.session import Session


@dataclass
class Processor(ABC):
    """In place of `original` at `site`. `host`: the model, which knows the places of its tokens."""

    session: Session
    site: str
    original: Any
    host: Any

    def attended(self, call: Call) -> Tensor:
        """Return what comes out of the kernel, (batch, tokens, width)."""
        return attention(call, self.session).transpose(1, 2).flatten(2)

    @abstractmethod
    def __call__(self, attn: Any, hidden_states: Tensor, *args: Any, **keywords: Any) -> Any:
        """Answer as diffusers' processor does."""


OWN = ("to_q", "norm_q"), ("to_k", "norm_k"), ("to_v", None)
ADDED = ("add_q_proj", "norm_added_q"), ("add_k_proj", "norm_added_k"), ("add_v_proj", None)
"""Maps and norms of a stream's queries, keys and values, by their names in diffusers' attentions."""


def projected(attn: Any, x: Tensor, names: tuple[tuple[str, str | None], ...] = OWN) -> list[Tensor]:
    """Return queries, keys and values (batch, heads, tokens, head width) of a stream (batch, tokens, width)."""
    size = attn.to_k.out_features // attn.heads
    found = []
    for name, norm in names:
        y = getattr(attn, name)(x).reshape(*x.shape[:2], -1, size).transpose(1, 2)
        normed = getattr(attn, norm) if norm else None
        found.append(y if normed is None else normed(y))
    return found


def one_behind_the_other(*streams: list[Tensor]) -> list[Tensor]:
    """Return queries, keys and values of several streams as of one sequence."""
    return [torch.cat(parts, dim=2) for parts in zip(*streams, strict=True)]


class ContextFirst(Processor):
    """FLUX's, rotated. Double blocks have two streams, single ones one sequence that begins with the context."""

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        image_rotary_emb: tuple[Tensor, Tensor] | None = None,
    ) -> Any:
        if self.session.idle(self.site):
            return self.original(attn, hidden_states, encoder_hidden_states, attention_mask, image_rotary_emb)
        count = self.session.grid[0] * self.session.grid[1]
        q, k, v = projected(attn, hidden_states)
        if encoder_hidden_states is not None:
            q, k, v = one_behind_the_other(projected(attn, encoder_hidden_states, ADDED), [q, k, v])
        image = slice(q.shape[2] - count, q.shape[2])
        rotary = self.rotary(image_rotary_emb, image)
        out = self.attended(Call(self.site, q, k, v, image, hidden_states[:, -count:], rotary, attention_mask))
        if encoder_hidden_states is None:
            return out
        context, own = out[:, : image.start], out[:, image]
        return attn.to_out[1](attn.to_out[0](own.contiguous())), attn.to_add_out(context.contiguous())

    def rotary(self, table: tuple[Tensor, Tensor] | None, image: slice) -> Tables | Fixed:
        from diffusers.models.embeddings import apply_rotary_emb

        if table is None:
            return Fixed()
        places = self.session.places
        assert places is not None
        return Tables(
            table, image, lambda x, own: apply_rotary_emb(x, own, sequence_dim=2), places, self.host.pos_embed
        )


class ImageFirst(Processor):
    """SD3's, the context behind the image; without a context that of DiT and PixArt, and SD3.5's second attention."""

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        *args: Any,
        **keywords: Any,
    ) -> Any:
        if self.session.idle(self.site):
            return self.original(attn, hidden_states, encoder_hidden_states, attention_mask, *args, **keywords)
        q, k, v = projected(attn, hidden_states)
        image = slice(0, q.shape[2])
        if encoder_hidden_states is not None:
            q, k, v = one_behind_the_other([q, k, v], projected(attn, encoder_hidden_states, ADDED))
        out = self.attended(Call(self.site, q, k, v, image, hidden_states, Fixed()))
        own = attn.to_out[1](attn.to_out[0](out[:, image]))
        if encoder_hidden_states is None:
            return own
        context = out[:, image.stop :]
        return own, context if attn.context_pre_only else attn.to_add_out(context)
