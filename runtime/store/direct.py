"""Large files written past the page cache.

A checkpoint is brought to the disk before it is published, and nothing reads it on the way. In the page cache its
bytes would cost more than all other work of a compile (allocating the pages is most of what `cp` does) and push out
the base. So the aligned middle of every large extent goes to the disk directly, through one small buffer; its ragged
ends, and everything where the system knows no direct writes, go the usual way:

    with Output(path) as out:
        out.write(data, at)                     bytes of this process
        out.copy(source, start, end, at)        bytes of another file

What is paid: the first reading of the result comes from the disk.
"""

from __future__ import annotations

import errno
import mmap
import os
from collections.abc import Callable
from pathlib import Path

from archspec.runtime.store.files import copy_bytes, read_at, write_at

BLOCK = 4096
"""Direct writes begin and end at multiples of this; no disk in use has larger sectors."""
BUFFER = 1 << 22
LEAST = 1 << 20
"""Bytes from which an extent is written directly."""
_REFUSED = {errno.EINVAL, errno.EOPNOTSUPP}

Read = Callable[[memoryview, int], None]
"""Fill a buffer with the bytes from an offset of what is to be written."""


class Output:
    """A file that is made new, with extents written at any offsets in any order."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("wb", buffering=0)
        self._direct = _open_direct(path)
        self._buffer = memoryview(mmap.mmap(-1, BUFFER)) if self._direct is not None else memoryview(b"")

    def __enter__(self) -> Output:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        self._stop()

    def truncate(self, size: int) -> None:
        self._file.truncate(size)

    def write(self, data: memoryview, at: int) -> None:
        """Write bytes at an offset."""

        def read(into: memoryview, offset: int) -> None:
            into[:] = data[offset : offset + len(into)]

        done, end = self._middle(read, len(data), at)
        write_at(self._file.fileno(), data[:done], at)
        write_at(self._file.fileno(), data[end:], at + end)

    def copy(self, source: int, start: int, end: int, at: int) -> None:
        """Copy bytes `start` to `end` of descriptor `source` to an offset; EIO when they end early."""
        done, rest = self._middle(lambda into, offset: read_at(source, into, start + offset), end - start, at)
        copy_bytes(source, self._file.fileno(), start, start + done, at)
        copy_bytes(source, self._file.fileno(), start + rest, end, at + rest)

    def _middle(self, read: Read, size: int, at: int) -> tuple[int, int]:
        """Write directly what can be of an extent, and return it as (first, end) offsets within the extent."""
        first = -at % BLOCK
        end = size - (at + size) % BLOCK
        if self._direct is None or end - first < LEAST:
            return size, size
        for position in range(first, end, BUFFER):
            piece = self._buffer[: min(BUFFER, end - position)]
            read(piece, position)
            if not self._put(piece, at + position):
                return first, position
        return first, end

    def _put(self, piece: memoryview, at: int) -> bool:
        """Write a whole buffer directly; False where the file system refuses to, from now on."""
        assert self._direct is not None
        try:
            done = os.pwrite(self._direct, piece, at)
        except OSError as error:
            if error.errno not in _REFUSED:
                raise
            self._stop()
            return False
        write_at(self._file.fileno(), piece[done:], at + done)
        return True

    def _stop(self) -> None:
        if self._direct is not None:
            os.close(self._direct)
            self._direct = None


def _open_direct(path: Path) -> int | None:
    """Return a descriptor for direct writes, None where there are none."""
    if not hasattr(os, "O_DIRECT"):
        return None
    try:
        return os.open(path, os.O_WRONLY | os.O_DIRECT)
    except OSError as error:
        if error.errno not in _REFUSED:
            raise
        return None
