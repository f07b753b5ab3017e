"""replace: a site calls a new operator."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from archspec.compiler.rewrite.graph import HostGraph, NewOperator, retarget
from archspec.compiler.rewrite.passes.base import Fact, Pass, call_of, check_alone, check_contract, edits
from archspec.language import spec
from archspec.semantics.resolve import ResolvedSpec


@dataclass(frozen=True)
class Replace(Pass):
    """Mark the node of each selected site with its operator; arguments and users stay."""

    name: ClassVar[str] = "replace"
    verb: ClassVar[type] = spec.Replace
    requires: ClassVar[frozenset[Fact]] = frozenset({Fact.VALUES})

    def run(self, graph: HostGraph, resolved: ResolvedSpec) -> HostGraph:
        graph = graph.copied()
        for edit, _ in edits(resolved, spec.Replace):
            for site, config in zip(edit.sites, edit.configs, strict=True):
                body, node = call_of(graph, site, edit)
                check_contract(graph, body, node, site, edit)
                check_alone(graph, site, edit)
                retarget(node, site.path, self.why(edit, site.path), new=NewOperator(site, config))
        return graph
