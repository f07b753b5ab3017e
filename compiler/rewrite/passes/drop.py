"""drop: blocks are left out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from archspec.compiler.rewrite.graph import HostGraph, rewire
from archspec.compiler.rewrite.passes.base import Fact, Pass, block_call, check_alone, edits
from archspec.language import spec
from archspec.semantics.resolve import ResolvedSpec


@dataclass(frozen=True)
class Drop(Pass):
    """Let the users of a block read its input, and erase it."""

    name: ClassVar[str] = "drop"
    verb: ClassVar[type] = spec.Drop
    requires: ClassVar[frozenset[Fact]] = frozenset({Fact.VALUES, Fact.OPERATORS})

    def run(self, graph: HostGraph, resolved: ResolvedSpec) -> HostGraph:
        graph = graph.copied()
        for edit, _ in edits(resolved, spec.Drop):
            for site in edit.sites:
                node, tokens = block_call(graph, site, edit)
                check_alone(graph, site, edit)
                for user in list(node.users):
                    rewire(user, node, tokens, self.why(edit, site.path))
                node.graph.erase_node(node)
        return graph
