"""The largest singular values of a matrix that comes in blocks of rows, by subspace iteration on D^T D.

A pass multiplies a few more directions than are asked for by D^T D, block by block (Halko, Martinsson and Tropp, arXiv
0909.4061, algorithm 4.4); the last takes the squares of D's length along them. Values are reached from below: a
flat spectrum, where no value is much larger than the next, is underrated by some percent.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

Blocks = Callable[[], Iterator[Tensor]]
"""Begins a pass over blocks (rows, columns), float32."""
PASSES = 4
MORE = 8
"""Directions beyond those that are asked for."""


def leading(blocks: Blocks, columns: int, k: int) -> Tensor:
    """Return the squares of the `k` largest singular values, falling, float64 (at most k, or columns)."""
    generator = torch.Generator().manual_seed(0)
    basis = _orthonormal(torch.randn(columns, min(k + MORE, columns), generator=generator))
    for _ in range(PASSES):
        basis = _orthonormal(sum((block.T @ (block @ basis) for block in blocks()), torch.zeros_like(basis)))
    lengths = ((block @ basis).double() for block in blocks())
    gram = sum((part.T @ part for part in lengths), torch.zeros(basis.shape[1], basis.shape[1], dtype=torch.float64))
    squares: Tensor = torch.linalg.eigvalsh(gram)
    return squares.flip(0)[:k].clamp_(min=0)


def _orthonormal(columns: Tensor) -> Tensor:
    found: Tensor = torch.linalg.qr(columns).Q
    return found
