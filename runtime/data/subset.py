"""A fraction of the data: stratified by class, reproducible, nested.

Each class is put in a random order of its own; the example at place k of n gets the rank (k + 1/2) / n. The fraction f
is the first round(f N) examples by rank. So every class has its share (to within one), the number is exact, and of two
fractions with one seed the smaller is part of the larger.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def stratified(count: int, fraction: float, seed: int, labels: NDArray[np.int64] | None = None) -> NDArray[np.int64]:
    """Return the chosen indices in ascending order; at least one.

    >>> stratified(4, 0.5, 0, np.array([0, 0, 1, 1])).size
    2
    """
    if fraction >= 1:
        return np.arange(count)
    rank, tie = np.empty(count), np.random.default_rng([seed, 0]).random(count)
    labels = np.zeros(count, dtype=np.int64) if labels is None else labels
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        order = np.random.default_rng([seed, 1, int(label) + 2**31]).permutation(len(members))
        rank[members[order]] = (np.arange(len(members)) + 0.5) / len(members)
    chosen = np.lexsort((tie, rank))[: max(1, round(fraction * count))]
    return np.sort(chosen)
