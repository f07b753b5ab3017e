"""Whether a base is the one that a pack was made of: by the digest of every tensor that the pack changes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from archspec.diagnostics import Collector
from archspec.host.fingerprint import digest_of
from archspec.host.structure import TensorHeader
from archspec.packs.header import Header
from archspec.runtime.packs.reading import Pack


def check_base(pack: Pack, headers: Mapping[str, TensorHeader], problems: Collector) -> None:
    """Report a base that is another one: AS681, with the first few tensors that differ."""
    name = pack.path.name
    wrong = (f"'{name}' is of another base: {message}" for message in _differences(pack.header, headers))
    problems.report_few("AS681", wrong, f"tensors of '{name}'", None, origin(pack.header.base))


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
