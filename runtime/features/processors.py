"""Attention processors of diffusers that ask a session what each sample sees.

One for each form of attention: FLUX's (context first, rotated), SD3's (image first), and the plain one of DiT and
PixArt. Where nothing is grafted the host's own processor answers, so its result is the host's bit by bit.
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

    def idle(self) -> bool:
        """Whether the host's own processor does: no graft works here, and nothing is to be remembered."""
        return not self.session.active(self.site) and not (self.session.beside and self.session.store.budget)

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


def joined(x: Tensor) -> Tensor:
    """(batch, heads, tokens, head_dim) -> (batch, tokens, width)"""
    return x.transpose(1, 2).flatten(2)


class FluxProcessor(Processor):
    """Double blocks have two streams, single ones one sequence; the context stands first in both."""

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        image_rotary_emb: tuple[Tensor, Tensor] | None = None,
    ) -> Any:
        if self.idle():
            return self.original(attn, hidden_states, encoder_hidden_states, attention_mask, image_rotary_emb)
        rows, columns = self.session.grid
        feature = hidden_states[:, -rows * columns :]
        q, k, v = projected(attn, hidden_states)
        if encoder_hidden_states is not None:
            q, k, v = one_behind_the_other(projected(attn, encoder_hidden_states, ADDED), [q, k, v])
        image = slice(q.shape[2] - rows * columns, q.shape[2])
        call = Call(self.site, q, k, v, image, feature, self.rotary(image_rotary_emb, image), attention_mask)
        out = joined(attention(call, self.session)).to(q.dtype)
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


class JointProcessor(Processor):
    """SD3's: the image stands first; of its second attention (SD3.5) there is no context."""

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        *args: Any,
        **keywords: Any,
    ) -> Any:
        if self.idle():
            return self.original(attn, hidden_states, encoder_hidden_states, attention_mask, *args, **keywords)
        q, k, v = projected(attn, hidden_states)
        image = slice(0, q.shape[2])
        if encoder_hidden_states is not None:
            q, k, v = one_behind_the_other([q, k, v], projected(attn, encoder_hidden_states, ADDED))
        call = Call(self.site, q, k, v, image, hidden_states, Fixed())
        out = joined(attention(call, self.session)).to(q.dtype)
        own = attn.to_out[1](attn.to_out[0](out[:, image]))
        if encoder_hidden_states is None:
            return own
        context = out[:, image.stop :]
        return own, context if attn.context_pre_only else attn.to_add_out(context)


class PlainProcessor(Processor):
    """Self-attention over the image alone (DiT, PixArt)."""

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
        *args: Any,
        **keywords: Any,
    ) -> Any:
        if self.idle():
            return self.original(attn, hidden_states, encoder_hidden_states, attention_mask, temb, *args, **keywords)
        q, k, v = projected(attn, hidden_states)
        call = Call(self.site, q, k, v, slice(0, q.shape[2]), hidden_states, Fixed())
        out = joined(attention(call, self.session)).to(q.dtype)
        out = attn.to_out[1](attn.to_out[0](out))
        return (out + hidden_states if attn.residual_connection else out) / attn.rescale_output_factor
