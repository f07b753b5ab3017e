"""What a pass is, and the few moves on graphs that passes share.

A pass is a frozen dataclass: it takes a graph, returns a new one and leaves the old as it was. It says what it needs
and what it brings about (`requires`, `ensures`); the driver in `pipeline.py` checks both, and verifies the graph
behind it. An edit that a host cannot take is refused with a diagnostic at the edit's place in the spec.
"""

from __future__ import annotations

from collections.abc import Iterator
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


def block_call(graph: HostGraph, site: Site, edit: ResolvedEdit) -> tuple[fx.Node, fx.Node]:
    """Return the node that calls a block and the node of its tokens. The block must map tokens to tokens."""
    body, node = call_of(graph, site, edit)
    tokens = input_of(graph, body, node, site)
    value, given = node.meta["val"], tokens.meta["val"]
    if not (isinstance(value, Tensor) and isinstance(given, Tensor) and value.shape == given.shape):
        message = f"{site.name} does not map tokens to tokens of the same shape"
        raise refuse("AS502", edit, message, "this verb needs blocks that do")
    return node, tokens


def check_contract(graph: HostGraph, body: Body, node: fx.Node, site: Site, edit: ResolvedEdit) -> None:
    """Refuse a site that is not given (batch, tokens, width) or does not give the same back: no operator fits it."""
    last = call_of(graph, site.exit, edit)[1] if site.exit else node
    given, value = input_of(graph, body, node, site).meta["val"], last.meta["val"]
    given = given if isinstance(given, Tensor) else None
    first = value[0] if isinstance(value, tuple) else value
    fits = isinstance(first, Tensor) and given is not None and given.dim() == 3 and first.shape == given.shape
    if not fits or site.shape.width != first.shape[-1]:
        message = f"{site.name} is given {summary(given)} and gives {summary(first)}: not tokens of one width"
        raise refuse("AS505", edit, message, "select a module that maps (batch, tokens, width) to the same")


def check_alone(graph: HostGraph, site: Site, edit: ResolvedEdit) -> None:
    """Refuse to take away a module of which the host uses a part by itself."""
    for body in graph.graphs():
        for node in body.graph.nodes:
            inside = node.op in ("call_module", "get_attr") and node.target.startswith(f"{site.path}.")
            if inside and body.path != site.path:
                part = node.target.removeprefix(f"{site.path}.")
                message = f"{site.name} cannot be taken away: the host reads its '{part}' elsewhere as well"
                raise refuse("AS503", edit, message, "leave this one out of the selection")
