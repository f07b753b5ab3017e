"""Running a HostGraph on real tensors, block graphs included.

Base modules are those of `graph.model`; whatever is new is given by the caller, who alone knows its weights.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from operator import attrgetter
from typing import Any

import torch
from torch import fx, nn

from archspec.compiler.rewrite.graph import Body, HostGraph

NewModule = Callable[[fx.Node | None, fx.Node], nn.Module]
"""(root's node that calls the block, None in the root; node of something new) -> its module."""
Modules = Callable[[fx.Node], Callable[..., Any]]


def interpret(graph: HostGraph, example: Mapping[str, Any], new: NewModule) -> Any:
    """Return what the graph computes for the host's keyword inputs."""
    with torch.no_grad():
        return _run(graph, graph.root, (), dict(example), lambda node: _call_module(graph, node, new))


def _run(graph: HostGraph, body: Body, args: tuple[Any, ...], kwargs: Mapping[str, Any], module: Modules) -> Any:
    inputs = body.inputs.values(args, kwargs)
    known: dict[fx.Node, Any] = {}
    for node in body.graph.nodes:
        if node.op == "placeholder":
            known[node] = inputs[node.target]
            continue
        a, k = fx.map_arg((node.args, dict(node.kwargs)), known.__getitem__)
        if node.op == "output":
            return a[0]
        known[node] = module(node)(*a, **k) if node.op == "call_module" else _call(graph, node, a, k)
    raise AssertionError("a graph without output")


def _call(graph: HostGraph, node: fx.Node, args: Any, kwargs: Any) -> Any:
    if node.op == "get_attr":
        return attrgetter(str(node.target))(graph.model)
    if node.op == "call_method":
        return getattr(args[0], str(node.target))(*args[1:], **kwargs)
    assert callable(node.target)
    return node.target(*args, **kwargs)


def _call_module(graph: HostGraph, node: fx.Node, new: NewModule) -> Callable[..., Any]:
    """Return what a node of the root calls: something new, a block's graph, or a module of the host."""
    if node.meta.get("new"):
        return new(None, node)
    path = str(node.target)
    if path not in graph.bodies:
        return graph.model.get_submodule(path)

    def inside(part: fx.Node) -> Callable[..., Any]:
        return new(node, part) if part.meta.get("new") else graph.model.get_submodule(str(part.target))

    return lambda *args, **kwargs: _run(graph, graph.bodies[path], args, kwargs, inside)
