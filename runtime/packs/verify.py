"""A pack decoded whole, to say that it is sound."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from archspec.diagnostics import Collector
from archspec.host.headers import read_folder
from archspec.runtime.packs.check import check_base
from archspec.runtime.packs.reading import check_claims, open_pack
from archspec.runtime.store.checkpoint import live
from archspec.runtime.store.home import home


def verify(path: Path, base: Path | None = None) -> dict[str, Any]:
    """Decode every tensor of a pack and compare its digests with a base. AS680, AS681; AS610 to AS617."""
    pack = open_pack(path)
    check_claims(pack)
    if base is not None:
        problems, model = Collector(), home(base).model
        check_base(pack, live(model, read_folder(model)), problems)
        problems.raise_if_errors()
    for name, change in pack.header.tensors.items():
        if change.terms:
            pack.delta(name)
    return {
        "pack": str(path),
        "hash": pack.digest,
        "tensors": len(pack.header.tensors),
        "base": str(base or "") or None,
    }
