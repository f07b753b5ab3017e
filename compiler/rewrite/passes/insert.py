"""insert: operators behind blocks, each in a residual branch of its own: y = x + op(norm(x))."""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import fx

from archspec.compiler.rewrite.graph import HostGraph, NewOperator, Provenance, insert, rewire
from archspec.compiler.rewrite.passes.base import Fact, Pass, block_call, edits
from archspec.host.structure import Site
from archspec.language import spec
from archspec.operators.base import Signature
from archspec.runtime.model.structures import NORM_EPS
from archspec.semantics.resolve import ResolvedSpec


@dataclass(frozen=True)
class Insert(Pass):
    """Put the branch behind each selected block; what read the block reads its sum."""

    name: ClassVar[str] = "insert"
    verb: ClassVar[type] = spec.Insert
    requires: ClassVar[frozenset[Fact]] = frozenset({Fact.VALUES, Fact.OPERATORS})

    def run(self, graph: HostGraph, resolved: ResolvedSpec) -> HostGraph:
        graph = graph.copied()
        for edit, _ in edits(resolved, spec.Insert):
            for block, place, config in zip(edit.sites, edit.inserted, edit.configs, strict=True):
                node, tokens = block_call(graph, block, edit)
                _branch(node, tokens, place, config, self.why(edit, place.path))
        return graph


def _branch(block: fx.Node, tokens: fx.Node, place: Site, config: Signature, why: Provenance) -> None:
    """Insert the nodes of one branch. The operator is called as the block is, with the normed output for tokens."""
    users, value = list(block.users), block.meta["val"]
    shape = (value.shape[-1],)
    normed = insert(
        block, "call_function", torch.layer_norm, (block, shape, None, None, NORM_EPS), why=why, value=value
    )
    args, kwargs = fx.map_arg((block.args, block.kwargs), lambda n: normed if n is tokens else n)
    new = NewOperator(place, config)
    y = insert(normed, "call_module", place.path, args, kwargs, why=why, value=value, new=new)
    total = insert(y, "call_function", operator.add, (block, y), why=why, value=value)
    for user in users:
        rewire(user, block, total, why)
