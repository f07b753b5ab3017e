"""The exact k-th largest magnitude of numbers that come in blocks, by counting instead of sorting.

The bits of a magnitude, read as an integer, are in the order of the magnitudes. So a histogram over the 2^15 patterns
of a 16-bit dtype settles the cut in one pass; float32 takes a second, over the low bits of those that share the cut's
high bits. Of equal magnitudes at the cut the first ones of the tensor are kept, so that exactly k are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

Blocks = Callable[[], Iterable[Tensor]]
"""Begins a pass over the blocks of a tensor, in order."""
_BINS = 1 << 15


@dataclass
class Cut:
    """Keeps what lies above `key`, and the first `ties` of what equals it. Blocks come in order, once."""

    key: int
    ties: int

    def mask(self, block: Tensor) -> np.ndarray:
        """Return which numbers of the next block are kept, bool."""
        keys = keys_of(block).numpy()
        kept: np.ndarray = keys > self.key
        if self.ties:
            equal = keys == self.key
            count = int(np.count_nonzero(equal))
            if count > self.ties:
                equal &= equal.cumsum() <= self.ties
            self.ties -= min(count, self.ties)
            kept |= equal
        return kept


def only(block: Tensor, mask: np.ndarray) -> Tensor:
    """Put 0 into a block where `mask` (bool) is not, in place, and return it.

    By bits of integers: torch turns bool to float, and selects by bool, ten times slower than all else here. The mask
    is negated while it is bytes and then widened with its sign."""
    bits = block.view(torch.int32 if block.dtype == torch.float32 else torch.int16)
    bits &= torch.from_numpy(mask.view(np.int8)).neg().to(bits.dtype)
    return block


def keys_of(block: Tensor) -> Tensor:
    """Return the bits of the magnitudes as integers: int16 of bf16 and f16, int32 of f32."""
    if block.dtype == torch.float32:
        return block.view(torch.int32) & 0x7FFFFFFF
    return block.view(torch.int16) & 0x7FFF


def cut_of(blocks: Blocks, k: int) -> Cut:
    """Return the cut that keeps the `k` largest magnitudes of all blocks."""
    dtype = keys_of(next(iter(blocks()))).dtype
    if k <= 0:
        return Cut(torch.iinfo(dtype).max, 0)
    high, above = _cut(_count(blocks, None), k)
    if dtype == torch.int16:
        return Cut(high, k - above)
    low, between = _cut(_count(blocks, high), k - above)
    return Cut(high << 16 | low, k - above - between)


def _cut(counts: np.ndarray, k: int) -> tuple[int, int]:
    """Return the bin that holds the k-th largest, and how many lie above that bin."""
    reached = counts[::-1].cumsum()
    place = min(int(np.searchsorted(reached, k)), len(counts) - 1)
    return len(counts) - 1 - place, int(reached[place] - counts[::-1][place])


def _count(blocks: Blocks, high: int | None) -> np.ndarray:
    """Count the high 15 bits of all keys, or the low 16 of those whose high bits are `high`."""
    size = _BINS if high is None else 1 << 16
    total = np.zeros(size, np.int64)
    for block in blocks():
        keys = keys_of(block)
        if high is not None:
            keys = keys[(keys >> 16) == high] & 0xFFFF
        elif keys.dtype == torch.int32:
            keys = keys >> 16
        total += np.bincount(keys.numpy(), minlength=size)
    return total
