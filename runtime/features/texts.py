"""Key/value grafts on decoders of transformers: what donors' texts are to attention, beside a text's own past.

    with inject_text(model, injection, {"facts": ids}) as run:
        model.generate(...)

A donor's text is read once, by the plain host, and its keys and values at the sites of the injection are kept. While
the context is entered, every query of those sites sees them too: donors are neither before nor after a text, so no mask
hides them, and they take no place in its cache. With rotary positions keys stand where the donor's text had them
(`same`) or moved (`offset: [0, tokens]`): a donor moved to just before the text is, exactly, a prefix of it.

transformers finds the function that attends by the name in a model's config: ours is registered under a name of its
own, and the name is put back at the end.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from archspec.diagnostics import fail
from archspec.injection import Graft, Injection
from archspec.runtime.features.attention import attend

NAME = "archspec_donors"
Kept = tuple[Tensor, Tensor]
"""Keys and values (key heads, tokens, head width), rotated for the donor's own places."""


@dataclass
class Reading:
    """A site while a donor's text is read: what it showed."""

    kept: Kept | None = None


@dataclass(frozen=True)
class Seen:
    """A site under an injection: keys and values (key heads, tokens, head width), and what is added to their logits."""

    k: Tensor
    v: Tensor
    strength: Tensor


_sites: WeakKeyDictionary[nn.Module, Reading | Seen] = WeakKeyDictionary()
"""Attentions that are being read, or grafted onto."""


def _attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Attend as transformers asks of such a function: queries (batch, heads, tokens, head width) in, (batch, tokens,
    heads, head width) out. The mask is added to logits."""
    site = _sites.get(module)
    if isinstance(site, Reading):
        site.kept = key[0].clone(), value[0].clone()
    if isinstance(site, Seen):
        count, batch = site.k.shape[1], len(query)
        mask = query.new_zeros(1, 1, query.shape[2], key.shape[2]) if attention_mask is None else attention_mask
        added = site.strength.to(mask).expand(*mask.shape[:-1], count)
        attention_mask = torch.cat([mask[..., : key.shape[2]], added], dim=-1)
        key = torch.cat([key, site.k.to(key).expand(batch, -1, -1, -1)], dim=2)
        value = torch.cat([value, site.v.to(value).expand(batch, -1, -1, -1)], dim=2)
    return attend(query, key, value, attention_mask, scaling).transpose(1, 2).contiguous(), None


def register() -> None:
    """Make the function known to transformers, with masks that are always there."""
    from transformers import AttentionInterface
    from transformers.masking_utils import AttentionMaskInterface, eager_mask

    AttentionInterface.register(NAME, _attention)
    AttentionMaskInterface.register(NAME, eager_mask)


def inject_text(model: Any, injection: Injection, donors: Mapping[str, Tensor]) -> TextInjecting:
    """Return the context. `donors`: name -> ids (tokens,). AS758 for a site without attention."""
    return TextInjecting(model, injection, donors)


class TextInjecting(AbstractContextManager["TextInjecting"]):
    """See `inject_text`."""

    def __init__(self, model: Any, injection: Injection, donors: Mapping[str, Tensor]) -> None:
        register()
        self.model, self.injection = model, injection
        sites = sorted({site for graft in injection.grafts for site in graft.sites})
        self.modules = {site: model.get_submodule(site) for site in sites}
        for site, module in self.modules.items():
            if not hasattr(module, "layer_idx") or not hasattr(module, "scaling"):
                hint = "an operator graft took its attention away; leave this site out of `into`"
                raise fail("AS758", f"there is no attention of the host's at '{site}'", None, hint)
        self.kept = {name: self._read(ids) for name, ids in donors.items()}

    @torch.no_grad()
    def _read(self, ids: Tensor) -> dict[str, Kept]:
        """Return what a donor's text shows at each site."""
        sites = {site: Reading() for site in self.modules}
        with self._on(sites):
            self.model(input_ids=ids.reshape(1, -1).to(self.model.device), use_cache=False)
        found = {site: reading.kept for site, reading in sites.items() if reading.kept is not None}
        assert len(found) == len(sites)
        return found

    def __enter__(self) -> Self:
        self._context = self._on({site: self._seen(site) for site in self.modules})
        self._context.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._context.__exit__(kind, error, trace)

    def _on(self, sites: Mapping[str, Reading | Seen | None]) -> _On:
        return _On(self.model, {self.modules[site]: what for site, what in sites.items() if what is not None})

    def _seen(self, site: str) -> Seen | None:
        """Return what queries of a site see, None where that is nothing."""
        parts = [
            self._part(site, graft, name)
            for graft in self.injection.grafts
            if site in graft.sites and graft.strength > -torch.inf
            for name in graft.donors
        ]
        if not parts:
            return None
        keys, values, strengths = zip(*parts, strict=True)
        return Seen(torch.cat(keys, dim=1), torch.cat(values, dim=1), torch.cat(strengths))

    def _part(self, site: str, graft: Graft, name: str) -> tuple[Tensor, Tensor, Tensor]:
        k, v = self.kept[name][site]
        if graft.position == "offset" and graft.offset[1]:
            k = moved(self.model, k, graft.offset[1])
        return k, v, k.new_full((k.shape[1],), graft.strength)


class _On(AbstractContextManager[None]):
    """Attentions that are read or grafted onto, by the function of ours, for a time."""

    def __init__(self, model: Any, sites: Mapping[nn.Module, Reading | Seen]) -> None:
        self.config, self.sites = model.config, sites

    def __enter__(self) -> None:
        self.before = self.config._attn_implementation
        if self.sites:
            self.config._attn_implementation = NAME
        for module, what in self.sites.items():
            _sites[module] = what

    def __exit__(self, *_: object) -> None:
        self.config._attn_implementation = self.before
        for module in self.sites:
            _sites.pop(module, None)


def moved(model: Any, k: Tensor, tokens: int) -> Tensor:
    """Return keys (key heads, n, head width) that were rotated for their places, turned on by so many tokens. Turns add
    up, so by the host's own table of one place; where it scales its tables, that is taken out."""
    rotary = model.base_model.rotary_emb
    scale = float(getattr(rotary, "attention_scaling", 1.0))
    cos, sin = (x[0] / scale for x in rotary(k.float(), torch.tensor([[tokens]], device=k.device)))
    half = k.shape[-1] // 2
    turned = torch.cat([-k[..., half:], k[..., :half]], dim=-1)
    found: Tensor = (k.float() * cos + turned.float() * sin).to(k)
    return found
