"""Isomorphism of two captured graphs, up to the names of nodes.

Nodes are labelled with what they are (`Label`: operation, whose weights, operator and config), edges with the place
of the argument; constants among the arguments belong to the label. A digest of a node covers its label and, through
its inputs, everything above it: two graphs can be isomorphic only if their digests agree as multisets. That makes the
search of networkx (VF2) quick on graphs of equal blocks, and where they disagree, the first node in order of
execution that has no counterpart is the one to blame.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable
from typing import Any

import networkx as nx
from networkx.algorithms.isomorphism import DiGraphMatcher
from torch import fx

from archspec.compiler.rewrite.graph_text import function_name

Label = Callable[[fx.Node], str]


class Difference(Exception):
    """A node of one graph without a counterpart in the other; `node` belongs to the expected graph if `missing`."""

    def __init__(self, node: fx.Node, label: str, missing: bool) -> None:
        super().__init__(label)
        self.node, self.label, self.missing = node, label, missing


def match(expected: fx.Graph, expected_label: Label, found: fx.Graph, found_label: Label) -> dict[fx.Node, fx.Node]:
    """Return node of `expected` -> node of `found`. Raises Difference where there is no isomorphism."""
    one, other = _digraph(expected, expected_label), _digraph(found, found_label)
    _compare_digests(one, other)
    matcher = DiGraphMatcher(one, other, node_match=_same("digest"), edge_match=_same("places"))
    if not matcher.is_isomorphic():
        last = next(reversed(expected.nodes))
        raise Difference(last, "the sharing of values between nodes", missing=True)
    mapping: dict[fx.Node, fx.Node] = dict(matcher.mapping)
    return mapping


def _same(key: str) -> Callable[[dict[str, Any], dict[str, Any]], bool]:
    return lambda a, b: bool(a[key] == b[key])


def _digraph(graph: fx.Graph, label: Label) -> nx.DiGraph[fx.Node]:
    """Return the graph with `digest` and `label` on nodes and `places` on edges."""
    found: nx.DiGraph[fx.Node] = nx.DiGraph()
    for node in graph.nodes:
        places: dict[fx.Node, list[str]] = {}
        shape = _describe((list(node.args), dict(node.kwargs)), "", places)
        text = f"{label(node)} {shape}"
        above = "".join(f"{place}{found.nodes[n]['digest']}" for n, where in places.items() for place in where)
        digest = hashlib.sha256(f"{text}|{above}".encode()).hexdigest()
        found.add_node(node, digest=digest, label=label(node))
        for source, where in places.items():
            found.add_edge(source, node, places=tuple(sorted(where)))
    return found


def _describe(value: Any, place: str, places: dict[fx.Node, list[str]]) -> str:
    """Return arguments as text with nodes left out, and note at which place each node stands."""
    if isinstance(value, fx.Node):
        places.setdefault(value, []).append(place)
        return "_"
    if isinstance(value, list | tuple):
        return f"({','.join(_describe(v, f'{place}.{i}', places) for i, v in enumerate(value))})"
    if isinstance(value, dict):
        inner = (f"{k}={_describe(v, f'{place}.{k}', places)}" for k, v in sorted(value.items()))
        return "{" + ",".join(inner) + "}"
    if isinstance(value, slice):
        return f"slice{_describe((value.start, value.stop, value.step), f'{place}.slice', places)}"
    return repr(value)


def _compare_digests(expected: nx.DiGraph[fx.Node], found: nx.DiGraph[fx.Node]) -> None:
    for one, other, missing in ((expected, found, True), (found, expected, False)):
        left = Counter(digest for _, digest in other.nodes(data="digest"))
        for node, data in one.nodes(data=True):
            left[data["digest"]] -= 1
            if left[data["digest"]] < 0:
                raise Difference(node, data["label"], missing)


def operation(node: fx.Node) -> str:
    """Return the label of a node that is no module and no parameter."""
    if node.op == "call_function":
        return f"function {function_name(node.target)}"
    if node.op == "output":
        return "output"
    return f"{node.op} {node.target}"
