"""A pack's file, written without holding it: parts go to spools by their width, the header in front of them at last."""

from __future__ import annotations

import json
import os
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import IO

import torch
from torch import Tensor

from archspec.host.headers import BITS
from archspec.packs.header import KEY, Header
from archspec.runtime.store.checkpoint import NAMES
from archspec.runtime.store.files import copy_bytes, writing

ALIGN = 8


class PackWriter:
    """Takes parts in any order; `publish` puts the file under its name in one rename.

    Data lies by falling width of its elements, so that all of it is aligned, and in the order of `add` within a width:
    the same parts give the same bytes.
    """

    def __init__(self, out: Path) -> None:
        self.out = out
        self._stack = ExitStack()
        self._spools: dict[int, IO[bytes]] = {}
        self._entries: dict[int, list[tuple[str, str, tuple[int, ...], int]]] = {32: [], 16: [], 8: []}

    def __enter__(self) -> PackWriter:
        with writing(self.out):
            self.out.parent.mkdir(parents=True, exist_ok=True)
            folder = self.out.parent
            for width in self._entries:
                self._spools[width] = self._stack.enter_context(tempfile.TemporaryFile(dir=folder))
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def add(self, name: str, part: Tensor) -> None:
        data = part.contiguous().reshape(-1).view(torch.uint8).numpy()
        dtype = NAMES[part.dtype]
        with writing(self.out):
            self._spools[BITS[dtype]].write(memoryview(data))  # type: ignore[arg-type]
        self._entries[BITS[dtype]].append((name, dtype, tuple(part.shape), data.nbytes))

    def head(self, header: Header) -> bytes:
        """Return the head of the file: its length, and the JSON."""
        content: dict[str, object] = {"__metadata__": {"format": "pt", KEY: header.to_text()}}
        position = 0
        for entries in self._entries.values():
            for name, dtype, shape, size in entries:
                content[name] = {"dtype": dtype, "shape": shape, "data_offsets": [position, position + size]}
                position += size
        text = json.dumps(content, separators=(",", ":"), ensure_ascii=False).encode()
        text += b" " * (-len(text) % ALIGN)
        return len(text).to_bytes(8, "little") + text

    def publish(self, header: Header) -> int:
        """Write the file and return its size."""
        head = self.head(header)
        partial = self.out.with_name(f".{self.out.name}.partial")
        with writing(self.out):
            try:
                with partial.open("wb") as file:
                    file.write(head)
                    file.flush()
                    at = len(head)
                    for spool in self._spools.values():
                        spool.flush()
                        size = spool.tell()
                        copy_bytes(spool.fileno(), file.fileno(), 0, size, at)
                        at += size
                    os.fsync(file.fileno())
                partial.replace(self.out)
            finally:
                partial.unlink(missing_ok=True)
        return at
