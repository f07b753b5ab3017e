"""skip: outputs of early blocks merged into inputs of later ones. With x the input and s what skips to it:

linear            W [x; s] + b
residual_linear   x + W s + b
sum               x + s
"""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import fx

from archspec.compiler.rewrite.graph import HostGraph, NewMerge, Provenance, insert
from archspec.compiler.rewrite.passes.base import Fact, Pass, block_call, edits, order, refuse
from archspec.host.structure import Site
from archspec.instructions import SKIP
from archspec.language import edits as language
from archspec.semantics.resolve import ResolvedEdit, ResolvedSpec


@dataclass(frozen=True)
class Skip(Pass):
    """Let each target read the merge of its input and its source's output."""

    name: ClassVar[str] = "skip"
    verb: ClassVar[type] = language.Skip
    requires: ClassVar[frozenset[Fact]] = frozenset({Fact.VALUES, Fact.OPERATORS})

    def run(self, graph: HostGraph, resolved: ResolvedSpec) -> HostGraph:
        graph = graph.copied()
        for edit, verb in edits(resolved, language.Skip):
            for source, target in zip(edit.sites, edit.targets, strict=True):
                self._lead(graph, edit, source, target, verb.merge)
        return graph

    def _lead(self, graph: HostGraph, edit: ResolvedEdit, source: Site, target: Site, merge: str) -> None:
        call = block_call(graph, target, edit)
        s, node, x = block_call(graph, source, edit).out, call.node, call.given
        if s.meta["val"].shape != x.meta["val"].shape:
            message = f"the output of {source.name} has not the shape of what {target.name} reads"
            raise refuse("AS502", edit, message, "select blocks between which the tokens keep their shape")
        why = self.why(edit, target.path)
        last = max(x, s, key=order(x.graph).__getitem__)
        merged = _merged(merge, last, x, s, (source.path, target.path), why)
        node.args, node.kwargs = fx.map_arg((node.args, node.kwargs), lambda n: merged if n is x else n)
        node.meta = {**node.meta, "why": why}


def _merged(kind: str, last: fx.Node, x: fx.Node, s: fx.Node, ends: tuple[str, str], why: Provenance) -> fx.Node:
    """Insert the nodes of a merge behind `last`."""
    value = x.meta["val"]

    def call(after: fx.Node, function: Any, *args: Any, **kwargs: Any) -> fx.Node:
        known = torch.cat([value, value], dim=-1) if function is torch.cat else value
        return insert(after, "call_function", function, args, kwargs, why=why, value=known)

    if kind == "sum":
        return call(last, operator.add, x, s)
    joined = call(last, torch.cat, [x, s], dim=-1) if kind == "linear" else s
    members = ends if kind == "linear" else ends[:1]
    new, after = NewMerge(members, value.shape[-1]), joined if kind == "linear" else last
    y = insert(after, "call_module", f"{ends[1]}.{SKIP}", (joined,), {}, why=why, value=value, new=new)
    return y if kind == "linear" else call(y, operator.add, x, y)
