"""share: selected sites call the module of the first one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from archspec import spec
from archspec.compiler.graph import HostGraph, retarget
from archspec.compiler.passes.base import Fact, Pass, call_of, check_alone, edits
from archspec.resolve import ResolvedSpec


@dataclass(frozen=True)
class Share(Pass):
    """Let the nodes of the other sites have the target, and the operator, of the first."""

    name: ClassVar[str] = "share"
    requires: ClassVar[frozenset[Fact]] = frozenset({Fact.VALUES})
    ensures: ClassVar[frozenset[Fact]] = frozenset({Fact.OPERATORS})

    def run(self, graph: HostGraph, resolved: ResolvedSpec) -> HostGraph:
        graph = graph.copied()
        for edit, _ in edits(resolved, spec.Share):
            first, *others = edit.sites
            _, source = call_of(graph, first, edit)
            for site in others:
                _, node = call_of(graph, site, edit)
                check_alone(graph, site, edit)
                new = source.meta.get("new")
                retarget(node, first.path, self.why(edit, site.path), new=new)
        return graph
