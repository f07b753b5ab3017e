"""Graphs as text: for people, golden files and `archspec plan -v`.

One line per node: name, fake value, what it does, and for nodes of a pass why it is there.

    graph transformer_blocks.1
      hidden_states: f32[1, 16, 32]
      %attn1: f32[1, 16, 32] = hyena_x @ transformer_blocks.1.attn1 (%getitem_3)    # replace, spec.yaml:5:12
      return %add_3

Names of nodes are left as fx gives them: they are stable across processes. A block whose graph differs from another's
in paths alone is printed as "like" that one.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import fx

from archspec.compiler.capture.values import summary
from archspec.compiler.rewrite.graph import Body, HostGraph, Provenance


def render(graph: HostGraph) -> str:
    """Return the whole graph as text, the root first."""
    lines = [*_graph(graph.root)]
    seen: dict[tuple[str, ...], str] = {}
    for path, body in graph.bodies.items():
        text = (*(line.replace(path, "BLOCK").replace(path.replace(".", "_"), "BLOCK") for line in _graph(body)),)
        if text in seen:
            lines += ["", f"graph {path} like {seen[text]}"]
        else:
            seen[text] = path
            lines += ["", *_graph(body)]
    return "\n".join(lines) + "\n"


def _graph(body: Body) -> Iterator[str]:
    yield f"graph {body.path or 'root'}"
    for node in body.graph.nodes:
        yield f"  {_node(node)}"


def _node(node: fx.Node) -> str:
    value = summary(node.meta.get("val"))
    if node.op == "placeholder":
        return f"{node.name}: {value}"
    if node.op == "output":
        return f"return {_argument(node.args[0])}"
    return f"%{node.name}: {value} = {_operation(node)}{_reason(node.meta.get('why'))}"


def _operation(node: fx.Node) -> str:
    arguments = [_argument(a) for a in node.args] + [f"{k}={_argument(v)}" for k, v in node.kwargs.items()]
    match node.op:
        case "get_attr":
            return str(node.target)
        case "call_module":
            return f"{module_label(node)} ({', '.join(arguments)})"
        case "call_method":
            return f"{arguments[0]}.{node.target}({', '.join(arguments[1:])})"
    return f"{function_name(node.target)}({', '.join(arguments)})"


def module_label(node: fx.Node) -> str:
    """Return what a call_module node calls: a path of the base, or something new at such a path."""
    new, copy = node.meta.get("new"), node.meta.get("copy", 0)
    text = f"{new} @ {node.target}" if new else str(node.target)
    return f"{text} copy {copy}" if copy else text


def function_name(function: Any) -> str:
    """Return a function's name with its module, `torch.cat`.

    >>> import operator
    >>> function_name(operator.add)
    'operator.add'
    """
    module = {"_operator": "operator", "torch._C._nn": "torch.nn.functional"}.get(
        function.__module__, function.__module__
    )
    return f"{module or 'torch'}.{function.__name__}"


def _argument(value: Any) -> str:
    if isinstance(value, fx.Node):
        return f"%{value.name}"
    if isinstance(value, list | tuple):
        inner = ", ".join(map(_argument, value))
        return f"[{inner}]" if isinstance(value, list) else f"({inner})"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{k}: {_argument(v)}" for k, v in value.items()) + "}"
    if isinstance(value, slice):
        return ":".join("" if p is None else _argument(p) for p in (value.start, value.stop))
    return repr(value)


def _reason(why: Provenance | None) -> str:
    if why is None:
        return ""
    return f"    # {why.by}" + (f", {why.span}" if why.span else "")
