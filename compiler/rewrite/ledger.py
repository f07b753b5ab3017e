"""The parameter ledger of a rewritten graph: what is kept, what is new, what is dropped.

Counted from the graph alone: a base module whose node is gone (erased, retargeted or replaced) loses its parameters,
unless another node still uses them; operators, merges and copies bring new ones. Two sums must hold, and the proof
compares the second with the lowered model:

    kept + dropped = parameters of the base
    kept + new     = parameters of the result
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod

from torch import fx, nn

from archspec.compiler.rewrite.graph import Body, HostGraph, NewMerge, NewOperator


@dataclass(frozen=True)
class Ledger:
    """Counts of parameters."""

    kept: int
    new: int
    dropped: int

    @property
    def result(self) -> int:
        return self.kept + self.new


def ledger(before: HostGraph, after: HostGraph) -> Ledger:
    """Compare a rewritten graph with the one it was made from."""
    sizes = parameter_sizes(after.model)
    gone = _used(before) - _used(after)
    still = _used(after)
    dropped = sum(
        count for name, count in sizes.items() if _within(name, gone) and not any(_inside(name, p) for p in still)
    )
    return Ledger(sum(sizes.values()) - dropped, sum(_new(after, sizes)), dropped)


def parameter_sizes(model: nn.Module) -> dict[str, int]:
    """Return name -> count of every parameter, tied ones once."""
    return {name: parameter.numel() for name, parameter in model.named_parameters()}


def reachable(graph: HostGraph) -> Iterator[Body]:
    """Yield the root and the bodies of the blocks that it still calls as they are."""
    yield graph.root
    called = {n.target for n in graph.root.graph.find_nodes(op="call_module") if not n.meta.get("new")}
    yield from (body for path, body in graph.bodies.items() if path in called)


def _used(graph: HostGraph) -> set[str]:
    """Return the base paths that nodes use, blocks by their parts."""
    found: set[str] = set()
    for body in reachable(graph):
        for node in body.graph.nodes:
            own = node.op == "get_attr" or (node.op == "call_module" and not node.meta.get("new"))
            if own and node.target not in graph.bodies:
                found.add(node.target)
    return found


def _within(name: str, paths: set[str]) -> bool:
    parts = name.split(".")
    return any(".".join(parts[:cut]) in paths for cut in range(1, len(parts) + 1))


def _inside(name: str, path: str) -> bool:
    return name == path or name.startswith(f"{path}.")


def _new(graph: HostGraph, sizes: dict[str, int]) -> Iterator[int]:
    """Yield the parameters of every new module: operators once per site, merges, copies of blocks."""
    counted: set[str] = set()
    for body in reachable(graph):
        for node in body.graph.find_nodes(op="call_module"):
            new = node.meta.get("new")
            if new is not None and node.target not in counted:
                counted.add(node.target)
                yield new_parameters(new)
    for node in graph.root.graph.find_nodes(op="call_module"):
        if node.meta.get("copy"):
            yield _copied(graph, node, sizes)


def _copied(graph: HostGraph, node: fx.Node, sizes: dict[str, int]) -> int:
    """Return the parameters of a copied block, with the operators in it."""
    if node.meta.get("new"):
        return new_parameters(node.meta["new"])
    path = str(node.target)
    body = graph.bodies[path]
    calls = body.graph.find_nodes(op="call_module")
    own = [str(n.target) for n in body.graph.nodes if n.op in ("call_module", "get_attr") and not n.meta.get("new")]
    kept = sum(count for name, count in sizes.items() if _within(name, {p for p in own if _inside(p, path)}))
    inside = {n.target: n.meta["new"] for n in calls if n.meta.get("new") and _inside(str(n.target), path)}
    return kept + sum(map(new_parameters, inside.values()))


def new_parameters(new: NewOperator | NewMerge) -> int:
    """Return how many parameters something new has."""
    if isinstance(new, NewMerge):
        return new.maps * new.width * (len(new.members) * new.width + 1)
    return sum(prod(shape) for shape in new.config.weights(new.site.shape).values())
