"""Tensors of files, a block of numbers at a time, through mappings: what is read stays in the page cache, and no memory
of this process grows with a tensor."""

from __future__ import annotations

import mmap
from pathlib import Path

import torch
from torch import Tensor

from archspec.host.structure import TensorHeader
from archspec.runtime.store.checkpoint import DTYPES

BLOCK = 1 << 17
"""Numbers of a block: the few float32 arrays of a method stay in the processor's cache. No result depends on it but by
the order in which sums round."""


class Files:
    """Opens each file once; `read` gives a block in its own dtype, as a view where its data is aligned."""

    def __init__(self) -> None:
        self._maps: dict[str, Tensor] = {}

    def __enter__(self) -> Files:
        return self

    def __exit__(self, *_: object) -> None:
        self._maps.clear()

    def read(self, header: TensorHeader, first: int, last: int) -> Tensor:
        """Return the numbers `first` to `last` of a flat tensor."""
        if header.file not in self._maps:
            with Path(header.file).open("rb") as file:  # a mapping outlives its file
                mapping = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)  # torch warns of what it may not write
            self._maps[header.file] = torch.frombuffer(mapping, dtype=torch.uint8)
        dtype = DTYPES[header.dtype]
        start = header.start + first * dtype.itemsize
        data = self._maps[header.file][start : header.start + last * dtype.itemsize]
        return (data if start % dtype.itemsize == 0 else data.clone()).view(dtype)
