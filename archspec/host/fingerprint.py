"""The content identity of a base: one short text that changes when any weight, shape, name or setting does.

    xxh3:<32 hex digits>            every byte of every tensor
    xxh3-sampled:<32 hex digits>    16 pages of 4 KiB spread over each tensor, and all of the small ones

Both hash the config (without bookkeeping such as library versions) and, per tensor in the order of their names, name,
dtype, shape and the XXH3-128 digest of its data. So the identity does not depend on how the tensors are spread over
files, and whoever reads the data anyway hashes it on the way, tensor by tensor in any order:

    identity = Identity(config)
    for name, header in tensors.items():
        digest = hasher()
        for chunk in ...:            # the header's bytes, in order
            digest.update(chunk)
        identity.add(name, header, digest.digest())
    identity.value()

Why the whole content: hashing a DiT-XL of 3.0 GB from the page cache took 0.33 to 0.37 CPU seconds, 0.2 of them for
reading, where `cp` of as much took 2.3 (two cores, ext4); a compile that streams the bytes pays about 0.1 s for it.
The sampled form (0.05 s) is for a quick look at a base that is not read otherwise; a changed tensor escapes it only
when every sampled page stayed the same. XXH3 is no cryptographic hash: the identity guards against mistakes, not
against forgery.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import xxhash

from archspec.diagnostics import fail
from archspec.host.headers import AGAIN
from archspec.host.strict_json import open_regular
from archspec.host.structure import TensorHeader
from archspec.source import Span

FULL, SAMPLED = "xxh3", "xxh3-sampled"
CHUNK = 1 << 20
PAGE, PAGES = 4096, 16
UNRELATED = frozenset({"transformers_version", "torch_dtype", "dtype", "name_or_path"})
"""Config entries that the libraries rewrite on every save; those that begin with `_` are as these, save the class."""

hasher = xxhash.xxh3_128


class Identity:
    """Gathers the digests of tensors, in any order, to the identity of a model."""

    def __init__(self, config: Mapping[str, Any], scheme: str = FULL) -> None:
        self._config, self._scheme = dict(config), scheme
        self._lines: dict[str, str] = {}

    def add(self, name: str, header: TensorHeader, digest: bytes) -> None:
        """Add a tensor by the digest of its data."""
        self._lines[name] = json.dumps([name, header.dtype, header.shape, digest.hex()])

    def value(self) -> str:
        related = {k: v for k, v in self._config.items() if k not in UNRELATED and (k == "_class_name" or k[:1] != "_")}
        whole = hasher(json.dumps(related, sort_keys=True).encode())
        for name in sorted(self._lines):
            whole.update(self._lines[name].encode())
        return f"{self._scheme}:{whole.hexdigest()}"


def identity_of(
    config: Mapping[str, Any], tensors: Mapping[str, TensorHeader], scheme: str = FULL, span: Span | None = None
) -> str:
    """Return the identity of a model with this config and these tensors."""
    identity = Identity(config, scheme)
    for name, header in tensors.items():
        identity.add(name, header, digest_of(header, scheme, span))
    return identity.value()


def digest_of(header: TensorHeader, scheme: str = FULL, span: Span | None = None) -> bytes:
    """Return the digest of a tensor's data, whole or sampled."""
    found = hasher()
    for chunk in _chunks(header, scheme, span):
        found.update(chunk)
    return found.digest()


def same_data(a: TensorHeader, b: TensorHeader) -> bool:
    """Say whether two tensors hold the same data, by samples."""
    return (a.dtype, a.shape) == (b.dtype, b.shape) and digest_of(a, SAMPLED) == digest_of(b, SAMPLED)


def _chunks(header: TensorHeader, scheme: str, span: Span | None) -> Iterator[memoryview]:
    """Yield the bytes that the scheme hashes; each chunk is good until the next."""
    buffer = memoryview(bytearray(min(CHUNK, header.end - header.start)))
    with open_regular(Path(header.file), span) as file:
        for start, end in _ranges(header, scheme):
            file.seek(start)
            while start < end:
                size = file.readinto(buffer[: end - start])
                if not size:
                    raise fail("AS616", f"'{header.file}' became shorter while it was read", span, AGAIN)
                yield buffer[:size]
                start += size


def _ranges(header: TensorHeader, scheme: str) -> list[tuple[int, int]]:
    """Return the byte ranges that are hashed: everything, or the first page, the last, and those evenly between."""
    size = header.end - header.start
    if scheme == FULL or size <= PAGE * PAGES:
        return [(header.start, header.end)]
    starts = (header.start + (size - PAGE) * page // (PAGES - 1) for page in range(PAGES))
    return [(start, start + PAGE) for start in starts]
