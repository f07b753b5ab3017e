"""insert: operators behind blocks, each in a residual branch of its own: y = x + op(norm(x))."""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import ClassVar

import torch

from archspec.compiler.rewrite.graph import HostGraph, NewOperator, Provenance, insert, rewire
from archspec.compiler.rewrite.passes.base import BlockCall, Fact, Pass, block_call, edits, map_arg, order
from archspec.host.structure import Site
from archspec.language import edits as language
from archspec.operators.base import Signature
from archspec.runtime.model.structures import NORM_EPS
from archspec.semantics.resolve import ResolvedSpec


@dataclass(frozen=True)
class Insert(Pass):
    """Put the branch behind each selected block; what read the block reads its sum."""

    name: ClassVar[str] = "insert"
    verb: ClassVar[type] = language.Insert
    requires: ClassVar[frozenset[Fact]] = frozenset({Fact.VALUES, Fact.OPERATORS})

    def run(self, graph: HostGraph, resolved: ResolvedSpec) -> HostGraph:
        graph = graph.copied()
        for edit, _ in edits(resolved, language.Insert):
            for block, place, config in zip(edit.sites, edit.inserted, edit.configs, strict=True):
                call = block_call(graph, block, edit)
                _branch(call, place, config, self.why(edit, place.path))
        return graph


def _branch(call: BlockCall, place: Site, config: Signature, why: Provenance) -> None:
    """Insert the nodes of one branch. The operator is called as the next block would be, with the normed output for its
    own tokens."""
    block = call.out
    users, value = list(block.users), block.meta["val"]
    shape = (value.shape[-1],)
    last = max((s.out for s in call.streams if s.out is not None), key=order(block.graph).__getitem__)
    normed = insert(last, "call_function", torch.layer_norm, (block, shape, None, None, NORM_EPS), why=why, value=value)
    read = {stream.given: stream.out for stream in call.streams} | {call.given: normed}
    args, kwargs = map_arg((call.node.args, dict(call.node.kwargs)), lambda n: read.get(n, n))
    new = NewOperator(place, config)
    y = insert(normed, "call_module", place.path, args, kwargs, why=why, value=value, new=new)
    total = insert(y, "call_function", operator.add, (block, y), why=why, value=value)
    for user in users:
        rewire(user, block, total, why)
