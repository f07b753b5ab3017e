"""share: selected sites call the module of the first one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from archspec.compiler.rewrite.graph import HostGraph, retarget
from archspec.compiler.rewrite.passes.base import Fact, Pass, call_of, check_alone, edits
from archspec.host.structure import Site
from archspec.language import edits as language
from archspec.semantics.resolve import ResolvedSpec


@dataclass(frozen=True)
class Share(Pass):
    """Let the nodes of the other sites have the target, and the operator, of the first."""

    name: ClassVar[str] = "share"
    verb: ClassVar[type] = language.Share
    requires: ClassVar[frozenset[Fact]] = frozenset({Fact.VALUES})
    ensures: ClassVar[frozenset[Fact]] = frozenset({Fact.OPERATORS})

    def run(self, graph: HostGraph, resolved: ResolvedSpec) -> HostGraph:
        graph = graph.copied()
        shared = [
            (edit, site, first)
            for edit, _ in edits(resolved, language.Share)
            for whole in edit.sites
            for site, first in zip(_modules(whole), _modules(edit.sites[0]), strict=True)
        ]
        nodes = {site.path: call_of(graph, site, edit)[1] for edit, site, _ in shared}
        owner = {site.path: first.path for _, site, first in shared if site.path != first.path}
        for edit, site, _ in shared:
            if site.path in owner:
                check_alone(graph, site, edit)
                source = nodes[_root(site.path, owner)]
                retarget(nodes[site.path], str(source.target), self.why(edit, site.path), new=source.meta.get("new"))
        return graph


def _modules(site: Site) -> tuple[Site, ...]:
    return (site, site.exit) if site.exit else (site,)


def _root(path: str, owner: dict[str, str]) -> str:
    """Return the module at the end of a chain of sharing.

    >>> _root("c", {"c": "b", "b": "a"})
    'a'
    """
    while path in owner:
        path = owner[path]
    return path
