"""replace: a site calls a new operator."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import fx

from archspec.compiler.rewrite.graph import HostGraph, NewOperator, retarget
from archspec.compiler.rewrite.passes.base import Fact, Pass, call_of, check_alone, check_contract, check_outputs, edits
from archspec.host.structure import Site
from archspec.language import edits as language
from archspec.operators.identity import Identity
from archspec.semantics.resolve import ResolvedEdit, ResolvedSpec


@dataclass(frozen=True)
class Replace(Pass):
    """Mark the node of each selected site with its operator; arguments and users stay. Where a site's work is done in
    several modules, those behind the first become the identity."""

    name: ClassVar[str] = "replace"
    verb: ClassVar[type] = language.Replace
    requires: ClassVar[frozenset[Fact]] = frozenset({Fact.VALUES})

    def run(self, graph: HostGraph, resolved: ResolvedSpec) -> HostGraph:
        graph = graph.copied()
        for edit, _ in edits(resolved, language.Replace):
            for site, config in zip(edit.sites, edit.configs, strict=True):
                body, node = call_of(graph, site, edit)
                check_contract(graph, body, node, site, edit)
                check_outputs(node, site, edit)
                check_alone(graph, site, edit)
                retarget(node, site.path, self.why(edit, site.path), new=NewOperator(site, config))
                if site.exit:
                    self._pass_through(graph, node, site, edit)
        return graph

    def _pass_through(self, graph: HostGraph, node: fx.Node, site: Site, edit: ResolvedEdit) -> None:
        """Let the further modules of a site do nothing: the operator gives their output already."""
        given, last = node.meta["val"], node
        for end in site.ends:
            _, last = call_of(graph, end, edit)
            check_alone(graph, end, edit)
            retarget(last, end.path, self.why(edit, site.path), new=NewOperator(end, Identity()))
        node.meta["val"] = (last.meta["val"], *given[1:]) if isinstance(given, tuple) else last.meta["val"]
        if site.port.foreign:
            _revalue(node, last)


def _revalue(first: fx.Node, last: fx.Node) -> None:
    """Find the fake values anew of what stands between two nodes and depends on the first."""
    changed, node = {first}, first.next
    while node is not last:
        if changed.intersection(node.all_input_nodes):
            args, kwargs = fx.map_arg((node.args, dict(node.kwargs)), lambda n: n.meta["val"])
            call: Any = node.target
            node.meta["val"] = args[0] if node.op == "call_module" else call(*args, **kwargs)
            changed.add(node)
        node = node.next
