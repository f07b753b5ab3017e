"""What compiler tests share: a spec resolved on a tiny host, and compiled as far as the rewritten graph."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from archspec.compiler.capture import capture
from archspec.compiler.capture.infer import complete
from archspec.compiler.capture.model import build_structure, edited_paths
from archspec.compiler.rewrite.graph import HostGraph
from archspec.compiler.rewrite.pipeline import run
from archspec.host.locate import Located, structure_of
from archspec.instructions import Instruction
from archspec.language.parse import parse
from archspec.runtime.families import family
from archspec.semantics.lower import lower
from archspec.semantics.resolve import ResolvedSpec, resolve
from archspec.source import Source


@dataclass(frozen=True)
class Compiled:
    """All stages up to the rewritten graph."""

    resolved: ResolvedSpec
    program: tuple[Instruction, ...]
    before: HostGraph
    after: HostGraph


Compiler = Callable[..., Compiled]


def resolved_on(folder: Path, *edits: str) -> ResolvedSpec:
    """Resolve edits (YAML flow maps) on a saved host."""
    listed = "".join(f"  - {edit}\n" for edit in edits)
    text = f"archspec: 1\nname: test\nbase: {folder}\n" + (f"edits:\n{listed}" if edits else "")
    structure = complete(structure_of(Located(folder)))
    return resolve(parse(Source("spec.yaml", text)), structure)


def captured(resolved: ResolvedSpec) -> HostGraph:
    """Capture the host of a resolved spec."""
    structure = resolved.structure
    model = build_structure(structure)
    return capture(model, family(structure.family).example(model), edited_paths(resolved))


@pytest.fixture(scope="session")
def compiler() -> Compiler:
    def compile_(folder: Path, *edits: str) -> Compiled:
        resolved = resolved_on(folder, *edits)
        before = captured(resolved)
        return Compiled(resolved, lower(resolved), before, run(before, resolved))

    return compile_
