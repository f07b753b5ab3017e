"""One attention under an injection, and one block's input: what comes out in place of what the host would compute.

Donors' rows are computed as the host would; so are samples that take nothing, and a call in which nothing is taken."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from archspec.runtime.features.attention import Keys, adapted, attend, attend_grafted
from archspec.runtime.features.choose import Taken, choose
from archspec.runtime.features.positions import Rotary
from archspec.runtime.features.session import Session
from archspec.runtime.features.store import Tokens


@dataclass(frozen=True)
class Call:
    """One attention. `q`, `k`, `v`: (batch, heads, tokens, head width) before rotation; `image`: where the image's
    tokens stand; `feature`: (batch, image tokens, width), what the attention reads of them; `mask`: as the host adds it
    to logits or as bool, None for none."""

    site: str
    q: Tensor
    k: Tensor
    v: Tensor
    image: slice
    feature: Tensor
    rotary: Rotary
    mask: Tensor | None = None
    scale: float | None = None

    def tokens(self, row: int, session: Session) -> Tokens:
        """Return what a sample has at this site."""
        q, k, v = (x[row, :, self.image] for x in (self.q, self.k, self.v))
        block = session.blocks.get(self.site)
        return Tokens(self.feature[row], q, k, v, None if block is None else block[row])

    def mask_of(self, row: int) -> Tensor | None:
        return None if self.mask is None else self.mask[min(row, len(self.mask) - 1)]


def attention(call: Call, session: Session) -> Tensor:
    """Return the attention's output (batch, heads, tokens, head width)."""
    work = _work(call, session)
    plain = [row for row in range(len(call.q)) if row not in work]
    out = torch.empty(*call.q.shape[:-1], call.v.shape[-1], dtype=call.q.dtype, device=call.q.device)
    if plain:
        out[plain] = _plain(call, plain)
    for row, taken in work.items():
        out[row] = _grafted(call, session, row, taken)
    for row, taken in work.items():
        _blend(call, session, out, row, taken)
    _remember(call, session, out)
    return out


def _work(call: Call, session: Session) -> dict[int, list[Taken]]:
    """Return row -> what it takes, for the rows that take anything."""
    work: dict[int, list[Taken]] = {}
    for graft in (graft for graft in session.active(call.site) if graft.op != "copy"):
        for row in session.targets(graft):
            own = call.tokens(row, session)
            found = choose(session, graft, call.site, row, lambda other: call.tokens(other, session), own)
            if found:
                work.setdefault(row, []).extend(found)
                session.taken[call.site, row] = sum(int(one.keep.sum()) for one in work[row])
    return work


def _plain(call: Call, rows: list[int]) -> Tensor:
    chosen = slice(None) if len(rows) == len(call.q) else rows
    mask = call.mask if call.mask is None or len(call.mask) == 1 else call.mask[chosen]
    own = call.rotary.own
    return attend(own(call.q[chosen]), own(call.k[chosen]), call.v[chosen], mask, call.scale)


def _grafted(call: Call, session: Session, row: int, taken: list[Taken]) -> Tensor:
    q, k = _adapted(call, session, row, taken)
    keys = [_keys(call, session, one) for one in taken if one.graft.op in ("append", "replace")]
    q, k = (call.rotary.own(x[None])[0] for x in (q, k))
    return attend_grafted(q, k, call.v[row], keys, call.image, call.mask_of(row), call.scale)


def _keys(call: Call, session: Session, taken: Taken) -> Keys:
    graft, tokens, source = taken.graft, taken.tokens, taken.source
    assert tokens.k is not None
    assert tokens.v is not None
    k, v = tokens.k[:, source], tokens.v[:, source]
    if graft.position == "offset":
        k = call.rotary.moved(k, source, graft.offset, 0)
    elif graft.position == "frame":
        k = call.rotary.moved(k, source, (0, 0), graft.frame)
    else:
        k = call.rotary.at(k, taken.place)
    seen = torch.full((call.q.shape[2],), "context" in graft.gate.queries, device=call.q.device)
    seen[call.image] = session.inside(graft, call.q.device) if "image" in graft.gate.queries else False
    return Keys(k.to(call.k), v.to(call.v), seen, graft.strength, graft.weight, graft.op == "replace")


def _adapted(call: Call, session: Session, row: int, taken: list[Taken]) -> tuple[Tensor, Tensor]:
    """Return queries and keys of a sample, with the statistics of donors where a graft says `adain`."""
    q, k = call.q[row], call.k[row]
    for one in (one for one in taken if one.graft.op == "adain"):
        tokens, source = one.tokens, one.source
        assert tokens.q is not None
        assert tokens.k is not None
        inside = torch.zeros(q.shape[1], dtype=torch.bool, device=q.device)
        inside[call.image] = session.inside(one.graft, q.device)
        q, k = q.clone(), k.clone()
        q[:, inside] = adapted(q[:, inside], tokens.q[:, source].to(q), one.graft.weight)
        k[:, inside] = adapted(k[:, inside], tokens.k[:, source].to(k), one.graft.weight)
    return q, k


def _blend(call: Call, session: Session, out: Tensor, row: int, taken: list[Taken]) -> None:
    """Mix a sample's outputs with those of donor tokens."""
    for one in (one for one in taken if one.graft.op == "blend"):
        source, place = one.landing(session.inside(one.graft, out.device), session.grid)
        whole = one.tokens.out if one.row is None else out[one.row, :, call.image]
        assert whole is not None
        at = place + call.image.start
        out[row, :, at] = torch.lerp(out[row, :, at], whole[:, source].to(out), one.graft.weight)


def _remember(call: Call, session: Session, out: Tensor) -> None:
    """Offer the tokens of donors that run beside to the store."""
    for number, name in enumerate(session.beside):
        row = session.batch + number
        tokens = replace(call.tokens(row, session), out=out[row, :, call.image])
        session.store.keep(name, session.time, call.site, tokens)


def copy(site: str, hidden: Tensor, session: Session) -> Tensor:
    """Return a block's image tokens (batch, tokens, width), with donor tokens in the place of a sample's own where a
    graft says `copy`. What it was given is noted for the matches of the block."""
    grafts = [graft for graft in session.active(site) if graft.op == "copy"]
    for number, name in enumerate(session.beside):
        session.store.keep(name, session.time, site, Tokens(block=hidden[session.batch + number]))
    changed = hidden.clone() if grafts else hidden
    for graft in grafts:
        for row in session.targets(graft):
            own = Tokens(block=hidden[row])
            for one in choose(session, graft, site, row, lambda other: Tokens(block=hidden[other]), own):
                source, place = one.landing(session.inside(graft, hidden.device), session.grid)
                assert one.tokens.block is not None
                tokens = one.tokens.block[source].to(hidden)
                changed[row, place] = torch.lerp(changed[row, place], tokens, graft.weight)
                session.taken[site, row] = session.taken.get((site, row), 0) + len(place)
    session.blocks[site] = changed
    return changed
