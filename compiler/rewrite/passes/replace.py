"""replace: a site calls a new operator."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

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
    two modules, the second becomes the identity."""

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
                    self._pass_through(graph, node, site, site.exit, edit)
        return graph

    def _pass_through(self, graph: HostGraph, node: fx.Node, site: Site, end: Site, edit: ResolvedEdit) -> None:
        """Let the second module of a site do nothing: the operator gives its output already."""
        _, last = call_of(graph, end, edit)
        check_alone(graph, end, edit)
        given = node.meta["val"]
        node.meta["val"] = (last.meta["val"], *given[1:]) if isinstance(given, tuple) else last.meta["val"]
        retarget(last, end.path, self.why(edit, site.path), new=NewOperator(end, Identity()))
