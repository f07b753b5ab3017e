"""HostGraph: the compiler's intermediate form, a thin layer over torch.fx.

    root     graph of the whole host; a block is one call_module node
    bodies   per block its own graph; sites are call_module nodes
    calls    per module path, the fake values of its first call
    example  the keyword inputs of the captured run

Targets are module paths of the *base* in every graph and at every stage, so a rewritten graph says of each node which
weights it uses. What a pass changes about a node stands in two entries of its `meta`:

    meta["new"]    `NewOperator` or `NewMerge`: the node is not the base's module but this
    meta["copy"]   n > 0: a copy of the base's module with weights of its own
    meta["why"]    `Provenance`: pass, place in the spec, replaced path

A node made or changed by a pass has provenance, for only `insert` and `retarget` do either.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from torch import fx, nn

from archspec.diagnostics import InternalError
from archspec.host.structure import Site
from archspec.operators.base import Signature
from archspec.source import Span

if TYPE_CHECKING:  # `archspec.compiler.capture` makes these graphs
    from archspec.compiler.capture.inputs import Inputs
    from archspec.compiler.capture.tracer import Call


@dataclass(frozen=True)
class Provenance:
    """Who made a node: the pass, the piece of the spec that asked for it, and the base path that it stands for."""

    by: str
    span: Span | None = field(compare=False)
    replaced: str


@dataclass(frozen=True)
class NewOperator:
    """An operator at a site, fully configured."""

    site: Site
    config: Signature

    def __str__(self) -> str:
        return self.config.name


@dataclass(frozen=True)
class NewMerge:
    """The learned map that merges the outputs of `members`, parallel blocks or the ends of a skip: (batch, tokens, n *
    width) to width."""

    members: tuple[str, ...]
    width: int
    maps: int = 1
    """How many such maps it stands for in counts: that of the own stream for those of the others too, of which some may
    be read by nobody."""

    def __str__(self) -> str:
        return f"merge of {len(self.members)}"


@dataclass(frozen=True)
class Body:
    """One graph: the root's (path "") or a block's."""

    path: str
    inputs: Inputs
    graph: fx.Graph

    def copied(self) -> Body:
        """Return a copy whose graph may be changed."""
        return replace(self, graph=copy_graph(self.graph))

    def moved(self, path: str) -> Body:
        """Return the body of a block of the same form at another path."""
        if path == self.path:
            return self
        return Body(path, self.inputs, copy_graph(self.graph, lambda target: _moved(target, self.path, path)))


@dataclass(frozen=True)
class HostGraph:
    """The graphs of one model. Passes return a new one and leave the old as it is."""

    model: nn.Module = field(repr=False)
    root: Body
    bodies: Mapping[str, Body]
    calls: Mapping[str, Call] = field(repr=False)
    example: Mapping[str, Any] = field(repr=False)
    """The host's keyword inputs that were captured; another capture is comparable if made with the same."""

    def copied(self) -> HostGraph:
        return replace(self, root=self.root.copied(), bodies={p: b.copied() for p, b in self.bodies.items()})

    def graphs(self) -> Iterator[Body]:
        yield self.root
        yield from self.bodies.values()

    def nodes(self, path: str) -> list[tuple[Body, fx.Node]]:
        """Return every node, of any graph, that calls the module at `path` of the base."""
        return [(b, n) for b in self.graphs() for n in b.graph.find_nodes(op="call_module") if n.target == path]

    def node(self, path: str) -> tuple[Body, fx.Node]:
        """Return the one node that calls the module at `path`."""
        found = self.nodes(path)
        if len(found) != 1:
            raise InternalError(f"'{path}' is called {len(found)} times in the graph, not once")
        return found[0]


def _moved(target: str, old: str, new: str) -> str:
    return new + target[len(old) :] if target == old or target.startswith(f"{old}.") else target


def copy_graph(graph: fx.Graph, rename: Callable[[str], str] = lambda target: target) -> fx.Graph:
    """Return a copy with its nodes' meta; `rename` maps the targets of modules and attributes."""
    new = fx.Graph(tracer_cls=graph._tracer_cls)
    made: dict[fx.Node, fx.Node] = {}
    for node in graph.nodes:
        moved = rename(node.target) if node.op in ("call_module", "get_attr") else node.target
        if moved == node.target:
            copied = new.node_copy(node, made.__getitem__)
        else:
            args, kwargs = fx.map_arg((node.args, node.kwargs), made.__getitem__)
            copied = new.create_node(node.op, moved, args, kwargs, name=moved.replace(".", "_"))
        copied.meta = dict(node.meta)
        made[node] = copied
    return new


def insert(
    after: fx.Node,
    op: str,
    target: Any,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any] | None = None,
    *,
    why: Provenance,
    value: Any,
    **meta: Any,
) -> fx.Node:
    """Insert a node behind `after` and return it. `value` is its fake value, in place of a run."""
    with after.graph.inserting_after(after):
        node = after.graph.create_node(op, target, args, dict(kwargs or {}))
    node.meta = {"val": value, "why": why, **meta}
    return node


def retarget(node: fx.Node, target: str, why: Provenance, **meta: Any) -> None:
    """Let a call_module node call another module."""
    node.target = target
    node.meta = {**node.meta, "why": why, **meta}


def rewire(node: fx.Node, old: fx.Node, new: fx.Node, why: Provenance) -> None:
    """Let `node` read `new` where it read `old`."""
    node.replace_input_with(old, new)
    node.meta = {**node.meta, "why": why}
