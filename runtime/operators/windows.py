"""Softmax attention within a window, without a score for any pair far outside of it.

Tokens form a grid of rows x columns; a 1-D band is a grid of one column. Along each axis queries are cut into blocks,
and a block's keys are the slice that its window can reach, cut off at the ends. All blocks of one form (the interior
ones; at each end one or two more) go through the fused kernel in one call, as a batch, and share one small mask. So
the cost is tokens x (block + window), and nothing of tokens x tokens is made.

On CUDA, where it compiles to block-sparse kernels, `flex_attention` takes large unmasked problems instead.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any

import torch
from torch import Tensor, unflatten
from torch.nn.attention.flex_attention import create_block_mask, flex_attention
from torch.nn.functional import pad

from archspec.runtime.operators.scores import band, fused, narrow

FLEX_TOKENS = 4096
"""Tokens from which `flex_attention` is used on CUDA: below, its compilation is not worth the time."""


@dataclass(frozen=True)
class Axis:
    """One axis of the grid: query i stands at key i + keys - queries and sees from `left` before to `right` after."""

    queries: int
    keys: int
    left: int
    right: int

    @property
    def open(self) -> bool:
        """Every query sees every key."""
        return self.left >= self.keys - 1 and self.right >= self.keys - 1


@dataclass(frozen=True)
class Piece:
    """`count` blocks of `size` queries from `start`; the first one's keys are the `width` from `first`, each next
    one's begin `size` later."""

    start: int
    size: int
    count: int
    first: int
    width: int

    @property
    def queries(self) -> slice:
        return slice(self.start, self.start + self.size * self.count)

    @property
    def keys(self) -> slice:
        return slice(self.first, self.first + self.size * (self.count - 1) + self.width)

    def allowed(self, axis: Axis, device: torch.device) -> Tensor | None:
        """Return (size, width) booleans of one block, None where it sees all its keys."""
        shift = self.first - self.start - (axis.keys - axis.queries)
        if shift - self.size + 1 >= -axis.left and shift + self.width - 1 <= axis.right:
            return None
        offset = torch.arange(self.width, device=device) - torch.arange(self.size, device=device)[:, None] + shift
        return (offset >= -axis.left) & (offset <= axis.right)


def pieces(axis: Axis, block: int) -> list[Piece]:
    """Cut an axis into blocks and gather neighbours of the same form.

    >>> [(p.start, p.count, p.width) for p in pieces(Axis(16, 16, 1, 1), 4)]
    [(0, 1, 5), (4, 2, 6), (12, 1, 5)]
    """
    found: list[Piece] = []
    for start in range(0, axis.queries, block):
        size, position = min(block, axis.queries - start), start + axis.keys - axis.queries
        first = max(position - axis.left, 0)
        piece = Piece(start, size, 1, first, min(position + size + axis.right, axis.keys) - first)
        last = found[-1] if found else None
        if last and (last.size, last.width) == (size, piece.width) and first == last.first + size * last.count:
            found[-1] = Piece(last.start, size, last.count + 1, last.first, last.width)
        else:
            found.append(piece)
    return found


Pair = tuple[Tensor, Tensor]


def window_attention(
    q: Tensor, k: Tensor, v: Tensor, rows: Axis, columns: Axis, mask: Tensor | None, seen: Pair | None = None
) -> Tensor:
    """Return attention of q (batch, heads, rows * columns queries, head_dim) within the window, in q's shape. `seen`:
    keys and values that all queries see beside (without a mask)."""
    if mask is None and seen is None and _flex_pays(q):
        return flex_window(q, k, v, rows, columns, compiled=True)
    grid = (rows.queries, columns.queries)
    q4, k4, v4 = (unflatten(t, 2, size) for t, size in ((q, grid), (k, (rows.keys, -1)), (v, (rows.keys, -1))))
    if mask is not None:
        mask = mask.expand(*mask.shape[:2], q.shape[2], k.shape[2])
        mask = unflatten(unflatten(mask, 3, (rows.keys, -1)), 2, grid)
    more = 0 if seen is None else seen[0].shape[2]
    across = pieces(columns, _block(columns, flat=False, more=more))
    lines = []
    for r in pieces(rows, _block(rows, flat=columns.keys == 1, more=more)):
        line = [_attend(q4, k4, v4, r, c, _allowed(r, c, rows, columns, q.device), mask, seen) for c in across]
        lines.append(line[0] if len(line) == 1 else torch.cat(line, dim=3))
    return (lines[0] if len(lines) == 1 else torch.cat(lines, dim=2)).flatten(2, 3)


def _flex_pays(q: Tensor) -> bool:
    """Whether to use flex_attention. Fake tensors are not to: a mask made of them would be kept for real ones."""
    return (
        q.is_cuda and q.shape[2] >= FLEX_TOKENS and q.shape[3] >= 16 and q.dtype != torch.float64 and type(q) is Tensor
    )


def _block(axis: Axis, flat: bool, more: int = 0) -> int:
    """Return the block length: near the window's, so that neither masked scores nor small calls dominate. Every block
    has a copy of the `more` keys that all see: it should not be much shorter than these."""
    reach = axis.left + axis.right
    return min(max(reach, more, 64), 512) if flat else min(max(reach, 16 if more else 8), 32)


def _allowed(r: Piece, c: Piece, rows: Axis, columns: Axis, device: torch.device) -> Tensor | None:
    """Return (block queries, block keys) booleans of a block of the grid, None where all is seen."""
    down, along = r.allowed(rows, device), c.allowed(columns, device)
    if down is None and along is None:
        return None
    down = torch.ones(r.size, r.width, dtype=torch.bool, device=device) if down is None else down
    along = torch.ones(c.size, c.width, dtype=torch.bool, device=device) if along is None else along
    return (down[:, None, :, None] & along[None, :, None, :]).flatten(2).flatten(0, 1)


def _attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    r: Piece,
    c: Piece,
    allowed: Tensor | None,
    mask: Tensor | None,
    seen: Pair | None = None,
) -> Tensor:
    """Return the (batch, heads, rows, columns, head_dim) of one piece of each axis."""
    blocks = unflatten(unflatten(q[:, :, r.queries, c.queries], 3, (c.count, c.size)), 2, (r.count, r.size))
    flat = blocks.permute(0, 2, 4, 1, 3, 5, 6).flatten(4, 5).flatten(0, 2)
    if mask is not None:
        own = _mask_blocks(mask, r, c)
        allowed = own if allowed is None else narrow(own, allowed)
    keys, values = _key_blocks(k, r, c), _key_blocks(v, r, c)
    if seen is not None:
        keys, values = (torch.cat((_copies(s, len(b)), b), 2) for s, b in zip(seen, (keys, values), strict=True))
        allowed = None if allowed is None else pad(allowed, (seen[0].shape[2], 0), value=True)
    y = fused(flat, keys, values, allowed)
    y = unflatten(unflatten(y, 2, (r.size, c.size)), 0, (q.shape[0], r.count, c.count))
    return y.permute(0, 3, 1, 4, 2, 5, 6).flatten(4, 5).flatten(2, 3)


def _key_blocks(k: Tensor, r: Piece, c: Piece) -> Tensor:
    """(batch, kv_heads, rows, columns, head_dim) -> (batch * blocks, kv_heads, block keys, head_dim)."""
    blocks = k[:, :, r.keys, c.keys].unfold(2, r.width, r.size).unfold(3, c.width, c.size)
    return blocks.permute(0, 2, 3, 1, 5, 6, 4).flatten(4, 5).flatten(0, 2)


def _copies(x: Tensor, count: int) -> Tensor:
    """(batch, kv_heads, keys, head_dim) -> (count, kv_heads, keys, head_dim): each example's for its blocks."""
    return x.repeat_interleave(count // len(x), 0)


def _mask_blocks(mask: Tensor, r: Piece, c: Piece) -> Tensor:
    """(batch, heads or 1, query rows, query columns, key rows, key columns) -> (batch * blocks, heads or 1, block
    queries, block keys): all blocks as views, of which the diagonal ones are taken."""
    part = mask[:, :, r.queries, c.queries, r.keys, c.keys]
    part = part.unfold(2, r.size, r.size).unfold(3, c.size, c.size).unfold(4, r.width, r.size)
    part = part.unfold(5, c.width, c.size).diagonal(dim1=2, dim2=4).diagonal(dim1=2, dim2=3)
    return part.permute(0, 6, 7, 1, 2, 3, 4, 5).flatten(6, 7).flatten(4, 5).flatten(0, 2)


def flex_window(q: Tensor, k: Tensor, v: Tensor, rows: Axis, columns: Axis, compiled: bool) -> Tensor:
    """The same by `flex_attention`, whose kernels skip every block of scores outside the window."""
    blocks = _block_mask(rows, columns, q.device)
    call = _flex(compiled)
    y: Tensor = call(q, k, v, block_mask=blocks, enable_gqa=q.shape[1] != k.shape[1])
    return y


@cache
def _flex(compiled: bool) -> Any:
    return torch.compile(flex_attention) if compiled else flex_attention


@lru_cache(maxsize=16)
def _block_mask(rows: Axis, columns: Axis, device: torch.device) -> Any:
    down, along = rows.keys - rows.queries, columns.keys - columns.queries

    def seen(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        row = key // columns.keys - query // columns.queries - down
        column = key % columns.keys - query % columns.queries - along
        near = (row >= -rows.left) & (row <= rows.right)
        return near & (column >= -columns.left) & (column <= columns.right)

    tokens = (rows.queries * columns.queries, rows.keys * columns.keys)
    return create_block_mask(seen, None, None, *tokens, device=str(device))


def dense(rows: Axis, columns: Axis, device: torch.device) -> Tensor:
    """Return the whole (queries, keys) mask of a window: for small problems and for the definition."""
    down = band(rows.queries, rows.keys, rows.left, rows.right, device)
    along = band(columns.queries, columns.keys, columns.left, columns.right, device)
    return (down[:, None, :, None] & along[None, :, None, :]).flatten(2).flatten(0, 1)
