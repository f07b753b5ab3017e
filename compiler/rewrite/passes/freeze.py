"""freeze: selected sites keep their weights in training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from archspec.compiler.rewrite.graph import HostGraph, retarget
from archspec.compiler.rewrite.passes.base import Fact, Pass, edits
from archspec.language import edits as language
from archspec.semantics.resolve import ResolvedSpec


@dataclass(frozen=True)
class Freeze(Pass):
    """Mark the nodes of frozen sites; what they compute stays as it is."""

    name: ClassVar[str] = "freeze"
    verb: ClassVar[type] = language.Freeze
    requires: ClassVar[frozenset[Fact]] = frozenset({Fact.WIRING})
    ensures: ClassVar[frozenset[Fact]] = frozenset({Fact.TRAINABLE})

    def run(self, graph: HostGraph, resolved: ResolvedSpec) -> HostGraph:
        graph = graph.copied()
        for edit, _ in edits(resolved, language.Freeze):
            for path in (path for site in edit.sites for path in site.paths):
                for _, node in graph.nodes(path):
                    retarget(node, path, self.why(edit, path), frozen=True)
        return graph
