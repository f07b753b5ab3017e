"""drop: blocks are left out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import fx

from archspec.compiler.rewrite.graph import HostGraph, Provenance, rewire
from archspec.compiler.rewrite.passes.base import Fact, Pass, block_call, check_alone, edits
from archspec.language import edits as language
from archspec.semantics.resolve import ResolvedSpec


@dataclass(frozen=True)
class Drop(Pass):
    """Let the users of a block read its input, stream by stream, and erase it."""

    name: ClassVar[str] = "drop"
    verb: ClassVar[type] = language.Drop
    requires: ClassVar[frozenset[Fact]] = frozenset({Fact.VALUES, Fact.OPERATORS})

    def run(self, graph: HostGraph, resolved: ResolvedSpec) -> HostGraph:
        graph = graph.copied()
        for edit, _ in edits(resolved, language.Drop):
            for site in edit.sites:
                call = block_call(graph, site, edit)
                check_alone(graph, site, edit)
                for stream in call.streams:
                    if stream.out is not None:
                        _pass_by(call.node, stream.out, stream.given, self.why(edit, site.path))
                call.node.graph.erase_node(call.node)
        return graph


def _pass_by(block: fx.Node, out: fx.Node, given: fx.Node, why: Provenance) -> None:
    for user in list(out.users):
        rewire(user, out, given, why)
    if out is not block:
        out.graph.erase_node(out)
