"""repeat: blocks run several times in a row."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import fx

from archspec.compiler.rewrite.graph import HostGraph, Provenance, insert, rewire
from archspec.compiler.rewrite.passes.base import Fact, Pass, block_call, edits
from archspec.language import spec
from archspec.semantics.resolve import ResolvedSpec


@dataclass(frozen=True)
class Repeat(Pass):
    """Put further calls behind a block, each on the output of the one before; copies are numbered from 1."""

    name: ClassVar[str] = "repeat"
    verb: ClassVar[type] = spec.Repeat
    requires: ClassVar[frozenset[Fact]] = frozenset({Fact.VALUES, Fact.OPERATORS})

    def run(self, graph: HostGraph, resolved: ResolvedSpec) -> HostGraph:
        graph = graph.copied()
        for edit, verb in edits(resolved, spec.Repeat):
            for site in edit.sites:
                last, tokens = block_call(graph, site, edit)
                for number in range(1, verb.times):
                    why = self.why(edit, site.path)
                    last, tokens = _again(last, tokens, 0 if verb.tie else number, why), last
        return graph


def _again(node: fx.Node, tokens: fx.Node, copy: int, why: Provenance) -> fx.Node:
    """Insert one more call behind `node`, which reads `tokens`."""
    users = list(node.users)
    args, kwargs = fx.map_arg((node.args, node.kwargs), lambda n: node if n is tokens else n)
    meta = {**node.meta, "copy": copy}
    value = meta.pop("val")
    meta.pop("why", None)
    again = insert(node, "call_module", node.target, args, kwargs, why=why, value=value, **meta)
    for user in users:
        rewire(user, node, again, why)
    return again
