"""parallelize: groups of consecutive blocks run side by side on the same input, and a merge joins their outputs.

With x the input of the group and Bi(x) the blocks' outputs:

    linear            W [B1(x); ...; Bn(x)] + b
    residual_linear   x + W [B1(x) - x; ...; Bn(x) - x] + b
    sum               x + sum of (Bi(x) - x)
    average           mean of Bi(x)

Of blocks that carry several streams each is merged so, by a map of its own.
"""

from __future__ import annotations

import operator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar

import torch
from torch import Tensor, fx

from archspec.compiler.rewrite.graph import HostGraph, NewMerge, Provenance, insert, rewire
from archspec.compiler.rewrite.passes.base import BlockCall, Fact, Pass, block_call, edits, order, refuse
from archspec.host.structure import Site
from archspec.instructions import merge_names
from archspec.language import edits as language
from archspec.semantics.resolve import ResolvedEdit, ResolvedSpec


@dataclass(frozen=True)
class Parallelize(Pass):
    """Rewire each group of `by` blocks to the input of its first, and put the merge behind its last."""

    name: ClassVar[str] = "parallelize"
    verb: ClassVar[type] = language.Parallelize
    requires: ClassVar[frozenset[Fact]] = frozenset({Fact.VALUES, Fact.OPERATORS})
    ensures: ClassVar[frozenset[Fact]] = frozenset({Fact.WIRING})

    def run(self, graph: HostGraph, resolved: ResolvedSpec) -> HostGraph:
        graph = graph.copied()
        for edit, verb in edits(resolved, language.Parallelize):
            for start in range(0, len(edit.sites), verb.by):
                self._join(graph, edit, edit.sites[start : start + verb.by], verb.merge)
        return graph

    def _join(self, graph: HostGraph, edit: ResolvedEdit, sites: tuple[Site, ...], merge: str) -> None:
        calls = [block_call(graph, site, edit) for site in sites]
        _check_chain(calls, sites, edit)
        why, inputs = self.why(edit, sites[0].path), [stream.given for stream in calls[0].streams]
        for call in calls[1:]:
            for stream, x in zip(call.streams, inputs, strict=True):
                rewire(call.node, stream.given, x, why)
        merges = _Merge(_last(calls), tuple(str(call.node.target) for call in calls), why)
        outputs = zip(*([stream.out for stream in call.streams] for call in calls), strict=True)
        carried = [(x, outs) for x, outs in zip(inputs, outputs, strict=True) if all(outs)]
        names = merge_names(name for name, index in sites[-1].port.streams[1:] if index is not None)
        for number, (name, (x, outs)) in enumerate(zip(names, carried, strict=True)):
            last, users = outs[-1], list(outs[-1].users)
            merged = merges.build(merge, x, list(outs), name, 0 if number else len(names))
            for user in users:
                rewire(user, last, merged, why)


def _last(calls: list[BlockCall]) -> fx.Node:
    """Return the node behind which all that comes out of the last block is known."""
    outs = (stream.out for stream in calls[-1].streams if stream.out is not None)
    return max(outs, key=order(calls[-1].node.graph).__getitem__)


def _check_chain(calls: list[BlockCall], sites: tuple[Site, ...], edit: ResolvedEdit) -> None:
    """Refuse blocks that do not follow one another, or whose output is used by more than the next."""
    for (here, call), (there, follower) in pairwise(zip(sites, calls, strict=True)):
        if [stream.out for stream in call.streams] != [stream.given for stream in follower.streams]:
            message = f"{there.name} does not read the output of {here.name}"
            raise refuse("AS504", edit, message, "select blocks that follow one another")
        if any(set(stream.out.users) != {follower.node} for stream in call.streams if stream.out is not None):
            message = f"the output of {here.name} is used by more than {there.name}"
            raise refuse("AS504", edit, message, "leave these blocks out of the selection")


class _Merge:
    """Inserts the nodes of a merge of `members`, each behind the one before."""

    def __init__(self, last: fx.Node, members: tuple[str, ...], why: Provenance) -> None:
        self.last, self.members, self.why = last, members, why

    def build(self, kind: str, x: fx.Node, outputs: list[fx.Node], name: str, maps: int) -> fx.Node:
        """Insert the merge of one stream, by the map `name`; `maps` as of `NewMerge`."""
        if kind == "average":
            return self._method("mean", self._call(torch.stack, outputs), 0)
        residual = kind in ("residual_linear", "sum")
        parts = [self._call(operator.sub, y, x) for y in outputs] if residual else outputs
        if kind == "sum":
            return self._call(operator.add, x, self._method("sum", self._call(torch.stack, parts), 0))
        y = self._linear(self._call(torch.cat, parts, dim=-1), x.meta["val"], name, maps)
        return self._call(operator.add, x, y) if residual else y

    def _call(self, function: Any, *args: Any, **kwargs: Any) -> fx.Node:
        return self._insert("call_function", function, args, kwargs, self._run(function, args, kwargs))

    def _method(self, name: str, owner: fx.Node, *args: Any) -> fx.Node:
        value = self._run(getattr(torch.Tensor, name), (owner, *args), {})
        return self._insert("call_method", name, (owner, *args), {}, value)

    def _linear(self, tokens: fx.Node, value: Tensor, name: str, maps: int) -> fx.Node:
        new = NewMerge(self.members, value.shape[-1], maps)
        return self._insert("call_module", f"{self.members[0]}.{name}", (tokens,), {}, value, new=new)

    def _insert(self, op: str, target: Any, args: Any, kwargs: Any, value: Any, **meta: Any) -> fx.Node:
        self.last = insert(self.last, op, target, args, kwargs, why=self.why, value=value, **meta)
        return self.last

    @staticmethod
    def _run(function: Any, args: Any, kwargs: Any) -> Any:
        """Compute the fake value of a call."""
        args, kwargs = fx.map_arg((args, kwargs), lambda node: node.meta["val"])
        return function(*args, **kwargs)
