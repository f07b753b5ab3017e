"""One member in the folder of a sweep: where it lies, and whether what lies there is still what the spec says.

A member is compiled from its part of the spec and from the files that this names. Both are hashed into its `source`,
which holds no path of the machine: a folder that moved, or a spec that did, is as good as before, and a base, a file
of data or a line of the spec that changed concerns the members that depend on it, and no others.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from archspec.compiler.inputs import inputs
from archspec.diagnostics import ArchspecError, Diagnostic
from archspec.host.strict_json import read_json
from archspec.language.matrix import Member
from archspec.plan import digest
from archspec.runtime.execution.execute import read_plan
from archspec.runtime.execution.workspace import Workspace
from archspec.runtime.store.files import replace_text, writing
from archspec.runtime.store.lock import PLAN, is_compiled, read_lock
from archspec.runtime.store.verify import differences
from archspec.syntax.tree import plain


@dataclass(frozen=True)
class Place:
    """`out` is the folder of the sweep, `near` that of the spec, where its paths start."""

    out: Path
    member: Member
    near: Path

    @property
    def folder(self) -> Path:
        return self.out / "members" / (self.member.slug or "only")

    @property
    def workspace(self) -> Workspace:
        return Workspace(self.folder)

    @property
    def state(self) -> Path:
        return self.out / "state" / f"{self.folder.name}.json"

    @cached_property
    def source(self) -> str:
        """The hash of all that the spec says of the member, and of the files that it names, as they were when first
        asked for."""
        return digest([plain(self.member.tree), inputs(self.member.tree, self.near)])

    @property
    def known(self) -> dict[str, Any]:
        """What the last run noted, if the member was the same."""
        source, found = self.source, read_json(self.state, "AS816") if self.state.is_file() else {}
        return found if found.get("source") == source else {}

    @property
    def is_compiled(self) -> bool:
        noted = bool(self.known.get("compiled"))
        return noted and is_compiled(self.folder) and (self.folder / PLAN).is_file()

    def damage(self) -> str | None:
        """Say what in the compiled folder cannot be read or is not as its lock says; None where nothing is found."""
        try:
            read_plan(self.folder)
            differ = next(differences(self.folder, read_lock(self.folder), whole=False), None)
        except ArchspecError as error:
            return error.diagnostics[0].message
        return f"'{self.folder / differ.file}' {differ.reason}" if differ else None

    def note(self, **what: Any) -> None:
        with writing(self.state):
            self.state.parent.mkdir(parents=True, exist_ok=True)
        replace_text(self.state, json.dumps({"source": self.source, **what}, indent=1) + "\n")


def problem(diagnostic: Diagnostic) -> str:
    """Return what is noted of a failure."""
    return "; ".join((f"[{diagnostic.code}] {diagnostic.message}", *diagnostic.hints))
