"""What a spec depends on beside its own words: the content of the files and folders that it names.

A path is identified by every byte under it, data by what identifies data (`runtime.data.describe`: a set may be
larger than anybody reads twice), a base of the hub by its snapshot. What is no path here (a bundled data set, a hub id
that is not at hand) is known by its name, which the spec says. No path of the machine is part of an identity.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from archspec.diagnostics import ArchspecError
from archspec.host.locate import locate
from archspec.language.paths import Named, named_paths
from archspec.language.spec import Base
from archspec.language.stages import Data
from archspec.plan import digest
from archspec.runtime.data.describe import fingerprint
from archspec.runtime.store.files import known_hash
from archspec.syntax.tree import Map


def inputs(tree: Map, near: Path) -> dict[str, str]:
    """Return path, as the spec writes it -> identity of what is there now; paths start at the folder `near`."""
    named = sorted(set(named_paths(tree)), key=lambda one: (one.text, one.key))
    return {one.text: found for one in named if (found := _identity(one, near)) is not None}


def _identity(named: Named, near: Path) -> str | None:
    path = near / Path(named.text).expanduser()
    if not path.exists():
        return _snapshot(named.text, near) if named.owner is Base else None
    if named.owner is Data and named.key == "from":
        return fingerprint(path)
    return content(path)


def _snapshot(name: str, near: Path) -> str | None:
    """Return the commit that a hub id stands for in the local cache."""
    try:
        folder = locate(Base(from_=name), near).folder
    except ArchspecError:
        return None
    return folder.name if folder else None


def content(path: Path) -> str:
    """Return the identity of a file, or of all files under a folder, hidden ones left out, with their names."""
    if path.is_file():
        return known_hash(path)
    return digest([[file.relative_to(path).as_posix(), known_hash(file)] for file in _files(path)])


def _files(folder: Path) -> Iterator[Path]:
    for root, folders, names in os.walk(folder, followlinks=True):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (path for name in sorted(names) if name[0] != "." and (path := Path(root, name)).is_file())
