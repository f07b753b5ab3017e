"""What a pass is, and the few moves on graphs that passes share.

A pass is a frozen dataclass: it takes a graph, returns a new one and leaves the old as it was. It says what it needs
and what it brings about (`requires`, `ensures`); the driver in `pipeline.py` checks both, and verifies the graph
behind it. An edit that a host cannot take is refused with a diagnostic at the edit's place in the spec.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, ClassVar, TypeVar

from torch import Tensor, fx

from archspec.compiler.capture.values import summary
from archspec.compiler.rewrite.graph import Body, HostGraph, Provenance
from archspec.diagnostics import ArchspecError, fail
from archspec.host.structure import Site
from archspec.semantics.resolve import ResolvedEdit, ResolvedSpec

Verb = TypeVar("Verb")


class Fact(StrEnum):
    """What may hold of a graph."""

    VALUES = "every node has a fake value"
    OPERATORS = "every site calls its final operator"
    WIRING = "every block stands in its final place"
    TRAINABLE = "it is marked what trains"


@dataclass(frozen=True)
class Pass:
    """Base of all passes."""

    name: ClassVar[str]
    verb: ClassVar[type | None] = None
    """The edits that it carries out. A spec without any leaves the graph as it is; None: runs on every spec."""
    requires: ClassVar[frozenset[Fact]]
    ensures: ClassVar[frozenset[Fact]] = frozenset()

    def run(self, graph: HostGraph, resolved: ResolvedSpec) -> HostGraph:
        raise NotImplementedError

    def why(self, edit: ResolvedEdit, path: str) -> Provenance:
        return Provenance(self.name, edit.edit.span(), path)


def edits(resolved: ResolvedSpec, verb: type[Verb]) -> Iterator[tuple[ResolvedEdit, Verb]]:
    """Yield the edits of one verb, in the order of the spec."""
    for edit in resolved.edits:
        if isinstance(edit.edit, verb):
            yield edit, edit.edit


def refuse(code: str, edit: ResolvedEdit, message: str, hint: str) -> ArchspecError:
    """Return (to be raised) why this host cannot take an edit."""
    return fail(code, message, edit.edit.span(), hint)


def call_of(graph: HostGraph, site: Site, edit: ResolvedEdit) -> tuple[Body, fx.Node]:
    """Return the one node that calls a site."""
    found = graph.nodes(site.path)
    if len(found) != 1:
        times = "never" if not found else f"{len(found)} times"
        message = f"{site.name} is called {times} in a run of the host, not once"
        raise refuse("AS501", edit, message, "select a module that the host calls once")
    return found[0]


@dataclass(frozen=True)
class Stream:
    """One sequence of tokens at a block: the node that gives it to the block, and the node of what comes out, None
    where the block ends it."""

    given: fx.Node
    out: fx.Node | None


@dataclass(frozen=True)
class BlockCall:
    """The call of a block, and the streams that it carries, its own first."""

    node: fx.Node
    streams: tuple[Stream, ...]

    @property
    def given(self) -> fx.Node:
        return self.streams[0].given

    @property
    def out(self) -> fx.Node:
        """Its own tokens as they come out."""
        out = self.streams[0].out
        assert out is not None  # of the own stream, `block_call` sees to it
        return out


def input_of(graph: HostGraph, body: Body, node: fx.Node, site: Site) -> fx.Node:
    """Return the node that gives a site its tokens."""
    if site.port.input in node.kwargs:
        found: Any = node.kwargs[site.port.input]
    elif node.args:
        found = node.args[0]
    else:
        found = next(iter(node.kwargs.values()), None)
    if not isinstance(found, fx.Node):
        raise fail("AS501", f"{site.name} is given no tokens by its host", None)
    return found


def block_call(graph: HostGraph, site: Site, edit: ResolvedEdit) -> BlockCall:
    """Return the call of a block. The block must map each of its streams to one of the same shape, or end it."""
    body, node = call_of(graph, site, edit)
    tokens = input_of(graph, body, node, site)
    streams = [Stream(tokens, part_of(node, site.port.streams[0][1]) if site.port.streams else node)]
    for place, (name, index) in enumerate(site.port.streams[1:], start=1):
        given: Any = node.kwargs[name] if name in node.kwargs else node.args[place]
        streams.append(Stream(given, part_of(node, index)))
    if not all(_keeps_shape(stream) for stream in streams):
        message = f"{site.name} does not map tokens to tokens of the same shape"
        raise refuse("AS502", edit, message, "this verb needs blocks that do")
    return BlockCall(node, tuple(streams))


def _keeps_shape(stream: Stream) -> bool:
    if stream.out is None:
        return True
    value, given = stream.out.meta["val"], stream.given.meta["val"]
    return isinstance(value, Tensor) and isinstance(given, Tensor) and value.shape == given.shape


def part_of(node: fx.Node, index: int | None) -> fx.Node | None:
    """Return the node that takes a part out of the tuple that `node` gives, made where nothing took it before."""
    if index is None:
        return None
    for user in node.users:
        if user.target is operator.getitem and user.args == (node, index):
            return user
    with node.graph.inserting_after(node):
        part = node.graph.call_function(operator.getitem, (node, index))
    part.meta = {"val": node.meta["val"][index]}
    return part


def order(graph: fx.Graph) -> dict[fx.Node, int]:
    """Return the place of every node in the order of execution."""
    return {node: place for place, node in enumerate(graph.nodes)}


def map_arg(argument: Any, change: Callable[[fx.Node], fx.Node | None]) -> Any:
    """Return arguments with every node changed. As torch's own, but a node may become None."""
    if isinstance(argument, fx.Node):
        return change(argument)
    if isinstance(argument, tuple | list):
        return type(argument)(map_arg(part, change) for part in argument)
    if isinstance(argument, dict):
        return {key: map_arg(part, change) for key, part in argument.items()}
    return argument


def check_contract(graph: HostGraph, body: Body, node: fx.Node, site: Site, edit: ResolvedEdit) -> None:
    """Refuse a site that is not given (batch, tokens, width) or does not give the same back: no operator fits it."""
    last = call_of(graph, site.exit, edit)[1] if site.exit else node
    given, value = input_of(graph, body, node, site).meta["val"], last.meta["val"]
    given = given if isinstance(given, Tensor) else None
    first = value[site.port.output] if isinstance(value, tuple) else value
    fits = isinstance(first, Tensor) and given is not None and given.dim() == 3 and first.shape == given.shape
    if not fits or site.shape.width != first.shape[-1]:
        message = f"{site.name} is given {summary(given)} and gives {summary(first)}: not tokens of one width"
        raise refuse("AS505", edit, message, "select a module that maps (batch, tokens, width) to the same")


def check_outputs(node: fx.Node, site: Site, edit: ResolvedEdit) -> None:
    """Refuse a site of whose outputs the host reads more than the one that an operator gives or hands on."""
    known = {site.port.output} | {index for _, index in site.port.streams}
    read = [user.args[1] for user in node.users if user.target is operator.getitem and user.users]
    if any(isinstance(index, int) and index not in known for index in read):
        message = f"{site.name} gives {summary(node.meta['val'])}, and its host reads more of it than one output"
        raise refuse("AS620", edit, message, "an operator gives one: edit another part of the block")


def check_alone(graph: HostGraph, site: Site, edit: ResolvedEdit) -> None:
    """Refuse to take away a module of which the host uses a part by itself."""
    for body in graph.graphs():
        for node in body.graph.nodes:
            inside = node.op in ("call_module", "get_attr") and node.target.startswith(f"{site.path}.")
            if inside and body.path != site.path:
                part = node.target.removeprefix(f"{site.path}.")
                message = f"{site.name} cannot be taken away: the host reads its '{part}' elsewhere as well"
                raise refuse("AS503", edit, message, "leave this one out of the selection")
