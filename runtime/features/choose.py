"""Which tokens of each donor a sample takes at a site: matches, filters, masks, dropout, competition."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from archspec.injection import Graft
from archspec.runtime.features.gates import kept
from archspec.runtime.features.match import Pairs, accepted, owners, pair
from archspec.runtime.features.session import Session
from archspec.runtime.features.store import Tokens


@dataclass(frozen=True)
class Taken:
    """`keep` (image tokens,) bool: the donor's tokens that are taken; `pairs`: matches, None where none are made."""

    graft: Graft
    tokens: Tokens
    keep: Tensor
    pairs: Pairs | None
    row: int | None
    """The donor's row, None of one in the store."""

    @property
    def source(self) -> Tensor:
        """(n,) the donor's tokens."""
        return self.keep.nonzero()[:, 0]

    @property
    def place(self) -> Tensor:
        """(n,) the image tokens of the target that they stand for."""
        source = self.source
        return self.pairs.target[source] if self.pairs is not None and self.graft.position == "matched" else source

    @property
    def match(self) -> Tensor:
        """(n,) the image tokens of the target that they are most like, or stand for where nothing is matched."""
        return self.source if self.pairs is None else self.pairs.target[self.source]

    def landing(self, inside: Tensor, grid: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Return (n,) tokens of the donor and (n,) tokens of the target, each of these once and within `inside`: what
        is to be changed by what. With matches each target takes the donor token that is most like it."""
        if self.pairs is None:
            return self._moved(inside, grid)
        best, match = self.pairs, self.graft.match
        threshold = -torch.inf if match is None or match.threshold is None else match.threshold
        fits = self.keep[best.donor] & (best.reverse > threshold) & inside
        place = fits.nonzero()[:, 0]
        return best.donor[place], place

    def _moved(self, inside: Tensor, grid: tuple[int, int]) -> tuple[Tensor, Tensor]:
        source, (rows, columns) = self.source, grid
        down, across = self.graft.offset if self.graft.position == "offset" else (0, 0)
        row, column = source // columns + down, source % columns + across
        fits = (row >= 0) & (row < rows) & (column >= 0) & (column < columns)
        source, place = source[fits], (row * columns + column)[fits]
        return source[inside[place]], place[inside[place]]


def choose(
    session: Session, graft: Graft, site: str, target: int, of: Callable[[int], Tokens], own: Tokens
) -> list[Taken]:
    """Return what a sample takes of each donor. `of(row)`: the tokens of a row of the batch; `own`: the target's."""
    rows = {name: session.row_of(name, target) for name in graft.donors}
    tokens = {
        name: of(row) if row is not None else session.store.find(session.shared[name], session.time, site)
        for name, row in rows.items()
    }
    pairs = {name: _pairs(session, graft, site, target, name, one, own) for name, one in tokens.items()}
    owned = _owned(session, pairs)
    found = []
    for name, one in tokens.items():
        keep = _keep(session, graft, site, name, pairs[name], owned.get(name))
        if keep.any():
            found.append(Taken(graft, one, keep, pairs[name], rows[name]))
            if session.watch:
                session.watch(name, found[-1].source, found[-1].match)
    return found


def _owned(session: Session, pairs: Mapping[str, Pairs | None]) -> dict[str, Tensor]:
    """Return, where donors compete, the tokens of each whose match is like no other donor more."""
    whole = {name: one for name, one in pairs.items() if one is not None}
    if session.injection.competition == "none" or len(whole) < 2:
        return {}
    return dict(zip(whole, owners(list(whole.values())), strict=True))


def _keep(session: Session, graft: Graft, site: str, name: str, pairs: Pairs | None, owned: Tensor | None) -> Tensor:
    rows, columns = session.grid
    words = (name, *_scope(session, site, graft.gate.scope))
    keep = kept(graft.gate, rows * columns, session.time, session.injection.seed, words, session.masks.get(name))
    if pairs is not None and graft.match is not None:
        keep = keep.to(pairs.target.device) & accepted(pairs, graft.match, session.grid)
    if owned is not None:
        keep = keep & owned
    if graft.gate.memory == "cumulative":
        keep = session.cumulative[name] = keep & session.cumulative.get(name, torch.ones_like(keep))
    return keep


def _pairs(
    session: Session, graft: Graft, site: str, target: int, name: str, donor: Tokens, own: Tokens
) -> Pairs | None:
    """Return a donor's matches with a sample, made as often as the graft says."""
    match = graft.match
    if match is None:
        return None
    scope = _scope(session, site, match.every)
    key = (match, target, name, *scope)
    if key not in session.pairs:
        for old in [k for k in session.pairs if k[:3] == key[:3] and k != key]:
            del session.pairs[old]
        features = donor.tap(match.tap), own.tap(match.tap)
        device = features[0].device
        inside = (session.masks.get(name), session.target_mask) if match.within == "masks" else (None, None)
        donors, targets = (None if mask is None else mask.to(device) for mask in inside)
        session.pairs[key] = pair(*features, match.chunk, donors, targets)
    return session.pairs[key]


def _scope(session: Session, site: str, every: str) -> tuple[int | str, ...]:
    here = (site, session.evaluation, session.branch)
    return {"site": here, "step": (session.step, session.branch), "run": (session.branch,)}[every]
