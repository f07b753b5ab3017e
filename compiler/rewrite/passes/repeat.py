"""repeat: blocks run several times in a row."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import fx

from archspec.compiler.rewrite.graph import HostGraph, Provenance, insert, rewire
from archspec.compiler.rewrite.passes.base import BlockCall, Fact, Pass, Stream, block_call, edits, order, part_of
from archspec.host.structure import Site
from archspec.language import edits as language
from archspec.semantics.resolve import ResolvedSpec


@dataclass(frozen=True)
class Repeat(Pass):
    """Put further calls behind a block, each on the output of the one before; copies are numbered from 1."""

    name: ClassVar[str] = "repeat"
    verb: ClassVar[type] = language.Repeat
    requires: ClassVar[frozenset[Fact]] = frozenset({Fact.VALUES, Fact.OPERATORS})

    def run(self, graph: HostGraph, resolved: ResolvedSpec) -> HostGraph:
        graph = graph.copied()
        for edit, verb in edits(resolved, language.Repeat):
            for site in edit.sites:
                call = block_call(graph, site, edit)
                for number in range(1, verb.times):
                    call = _again(call, site, 0 if verb.tie else number, self.why(edit, site.path))
        return graph


def _again(call: BlockCall, site: Site, copy: int, why: Provenance) -> BlockCall:
    """Insert one more call behind a block, on what comes out of it."""
    outs = {stream.given: stream.out for stream in call.streams if stream.out is not None}
    users = {out: list(out.users) for out in outs.values()}
    args, kwargs = fx.map_arg((call.node.args, call.node.kwargs), lambda n: outs.get(n, n))
    meta = {**call.node.meta, "copy": copy}
    value = meta.pop("val")
    meta.pop("why", None)
    last = max(outs.values(), key=order(call.node.graph).__getitem__)
    again = insert(last, "call_module", call.node.target, args, kwargs, why=why, value=value, **meta)
    indices = [index for _, index in site.port.streams]
    parts = [part_of(again, index) for index in indices] if indices else [again]
    streams = [Stream(before.out, part) for before, part in zip(call.streams, parts, strict=True) if before.out]
    for stream in streams:
        for user in users[stream.given]:
            assert stream.out is not None  # a block that ends a stream is not run again
            rewire(user, stream.given, stream.out, why)
    return BlockCall(again, tuple(streams))
