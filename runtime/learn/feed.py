"""Feed: what the host is run on while its parts are learned from: noised examples, each draw tied to what it is for.

The examples are split once, by the seed: a tail is held out and no part ever learns from it. A batch is named by its
purpose and number, and its noise, times and dropped labels hang on that name alone, so a second pass sees the same
batch again, in another process too. More samples than examples means examples again with other noise.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import torch

from archspec.runtime.learn.draws import batch_of, generator

HELD_OUT = 256
"""Most examples that are held out; never more than a tenth of the data (but one)."""

Purpose = Literal["train", "held-out"]


@dataclass(frozen=True)
class Feed:
    """`dataset` gives examples by index; `objective.inputs(batch, generator)` makes keywords for the host of a
    batch."""

    dataset: Any
    objective: Any
    seed: int = 0
    batch: int = 64
    device: torch.device | str = "cpu"

    @cached_property
    def _order(self) -> list[int]:
        found: list[int] = torch.randperm(len(self.dataset), generator=generator(self.seed, "split")).tolist()
        return found

    @cached_property
    def held_out(self) -> int:
        """The number of examples held out; a data set of one example is both learned from and held out."""
        return max(1, min(HELD_OUT, len(self._order) // 10))

    def indices(self, purpose: Purpose) -> list[int]:
        """Return the examples of a purpose, in the order in which they are used."""
        cut = max(1, len(self._order) - self.held_out)
        return self._order[:cut] if purpose == "train" else self._order[-self.held_out :]

    def batches(
        self, count: int, purpose: Purpose = "train", epoch: int = 0
    ) -> Iterator[tuple[int, Mapping[str, Any]]]:
        """Yield (number of the first example, keywords for the host) until `count` examples were fed.

        Another `epoch` means the same examples with other noise.
        """
        yield from ((start, keywords) for start, keywords, _ in self.tasks(count, purpose, epoch))

    def tasks(
        self, count: int, purpose: Purpose = "train", epoch: int = 0
    ) -> Iterator[tuple[int, Mapping[str, Any], Any]]:
        """Yield what `batches` does, and what the host should answer."""
        known = self.indices(purpose)
        for number in range(math.ceil(count / self.batch)):
            start = number * self.batch
            chosen = [known[i % len(known)] for i in range(start, min(start + self.batch, count))]
            batch = batch_of(self.dataset, chosen, self.device)
            yield start, *self.objective.inputs(batch, generator(self.seed, purpose, epoch, number))
