"""Whether a base is the one that a pack was made of: by the digest of every tensor that the pack changes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from archspec.diagnostics import Collector
from archspec.host.fingerprint import digest_of
from archspec.host.structure import TensorHeader
from archspec.packs.header import Header
from archspec.runtime.packs.reading import Pack

MOST_PROBLEMS = 4
"""Tensors that are named."""


def check_base(pack: Pack, headers: Mapping[str, TensorHeader], problems: Collector) -> None:
    """Report a base that is another one: AS681, with the first few tensors that differ."""
    wrong = list(_differences(pack.header, headers))
    for message in wrong[:MOST_PROBLEMS]:
        problems.report("AS681", f"'{pack.path.name}' is of another base: {message}", None, origin(pack.header.base))
    if len(wrong) > MOST_PROBLEMS:
        problems.report("AS681", f"and {len(wrong) - MOST_PROBLEMS} more tensors of '{pack.path.name}'", None)


def origin(base: Mapping[str, str]) -> str:
    """Return the hint that names the base of a pack or a router."""
    told = " ".join(base[key] for key in ("from", "fingerprint") if key in base)
    return f"it was made of {told}"


def _differences(header: Header, headers: Mapping[str, TensorHeader]) -> Iterator[str]:
    for name, change in header.tensors.items():
        found = headers.get(name)
        if found is None:
            yield f"there is no '{name}'"
        elif (found.shape, found.dtype) != (change.shape, change.dtype):
            yield f"'{name}' is {found.dtype} {found.shape}, it wants {change.dtype} {change.shape}"
        elif digest_of(found).hex() != change.digest:
            yield f"'{name}' has other values"
