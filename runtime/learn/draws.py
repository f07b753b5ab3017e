"""Randomness that does not depend on order: every draw has a generator of its own, seeded by what it is for.

A seed is the hash of words and numbers (`seed_of(7, "noise", "blocks.3.attn", 12)`), so a task draws the same whether
it runs first, last, after a resume or on another machine. Examples are drawn on the CPU: the same on every device.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Generator, Tensor

from archspec.plan import digest


def seed_of(*parts: int | str) -> int:
    """Return a seed in [0, 2**63) that hashes `parts`."""
    return int(digest(list(parts))[:16], 16) >> 1


def generator(*parts: int | str) -> Generator:
    """Return a CPU generator seeded by `parts`."""
    return Generator().manual_seed(seed_of(*parts))


class Stream:
    """Batches of indices without end: each epoch a new permutation of `size`, none of them depending on the past.

    >>> stream = Stream(size=10, batch=4, seed=0)
    >>> sorted(i for step in range(5) for i in stream[step]) == sorted(2 * list(range(10)))
    True
    """

    def __init__(self, size: int, batch: int, seed: int) -> None:
        self.size, self.batch, self.seed = size, batch, seed
        self._epoch, self._order = -1, torch.empty(0, dtype=torch.int64)

    def _permutation(self, epoch: int) -> Tensor:
        if epoch != self._epoch:
            self._order = torch.randperm(self.size, generator=generator(self.seed, "epoch", epoch))
            self._epoch = epoch
        return self._order

    def __getitem__(self, step: int) -> list[int]:
        """Return the indices of step `step`, counted from 0."""
        first, found = step * self.batch, list[int]()
        while len(found) < self.batch:
            epoch, offset = divmod(first + len(found), self.size)
            found += self._permutation(epoch)[offset : offset + self.batch - len(found)].tolist()
        return found


def batch_of(dataset: Any, indices: Sequence[int], device: torch.device | str = "cpu") -> dict[str, Any]:
    """Return the examples of a data set (see `archspec.runtime.data`) as one batch on `device`."""
    batch: dict[str, Any] = dataset.batch(indices)
    return {name: value.to(device) if isinstance(value, Tensor) else value for name, value in batch.items()}
