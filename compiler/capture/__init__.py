"""Capture: a host and example inputs -> its `HostGraph`, without weights and without arithmetic.

    capture(model, example, sites)  ->  HostGraph(root graph, one graph per block, every module's call)

The root graph has the blocks (entries of module lists) as leaves and reads as Python. A block's graph has as leaves
the sites and, where no site is inside, the block's own children. Blocks that are alike (same classes, sizes and
settings, called with the same shapes) are traced once and their graph is copied with other paths.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import DataDependentOutputException

from archspec.compiler.capture.fake import fake_tree, fake_weights
from archspec.compiler.capture.inputs import Inputs
from archspec.compiler.capture.tracer import Call, ValueTracer, whole_tuple
from archspec.compiler.capture.values import summary
from archspec.compiler.rewrite.graph import Body, HostGraph
from archspec.diagnostics import ArchspecError, fail
from archspec.runtime.model.structures import Linked, Standin, Tied
from archspec.runtime.operators.base import Operator

__all__ = ["capture"]


def capture(model: nn.Module, example: Mapping[str, Any], sites: Collection[str] = ()) -> HostGraph:
    """Return the graphs of `model(**example)`. `sites` are module paths that must stay visible as single nodes.

    Parameters may be on any device, `meta` included; the model is left as it was.
    """
    blocks = outermost_blocks(model)
    inner = frozenset(relative(path, blocks) for path in sites)
    with fake_weights(model):
        try:
            graph = _capture(model, fake_tree(dict(example)), blocks, inner)
            return replace(graph, example=example)
        except ArchspecError:
            raise
        except DataDependentOutputException as error:
            what = f"{type(model).__name__} branches on the content of a tensor ({error.func})"
            raise fail("AS405", what, None, "leave the part that does so out of the example's inputs") from error
        except (TypeError, ValueError, RuntimeError, NotImplementedError, AttributeError, KeyError) as error:
            raise fail("AS406", f"cannot capture {type(model).__name__}: {error}") from error


def _capture(model: nn.Module, example: dict[str, Any], blocks: frozenset[str], inner: frozenset[str]) -> HostGraph:
    inputs = Inputs.of(model, (), example)
    forms: dict[str, Any] = {}

    def form(path: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        if path not in blocks:
            return None
        if path not in forms:
            forms[path] = block_form(model.get_submodule(path))
        given = summary([*args, *(f"{k}={summary(v)}" for k, v in kwargs.items())])
        return forms[path] and (forms[path], given)

    tracer = ValueTracer(model, lambda path, module: _root_leaf(path, module, blocks, inner), form)
    root = Body("", inputs, tracer.trace_call(model, (), example, inputs.names((), example)))
    bodies: dict[str, Body] = {}
    alike: dict[Any, Body] = {}
    for node in root.graph.find_nodes(op="call_module"):
        path = node.target
        if path in blocks and path not in bodies:
            call = tracer.calls[path]
            key = form(path, call.args, call.kwargs) or path
            if key not in alike:
                alike[key] = _trace_block(model, model.get_submodule(path), path, call, inner)
            bodies[path] = alike[key].moved(path)
    return HostGraph(model, root, bodies, tracer.calls, example)


def _trace_block(model: nn.Module, module: nn.Module, path: str, call: Call, inner: frozenset[str]) -> Body:
    inputs = Inputs.of(module, call.args, call.kwargs)
    tracer = ValueTracer(model, lambda p, m: _body_leaf(p, m, path, inner))
    graph = tracer.trace_call(module, call.args, call.kwargs, inputs.names(call.args, call.kwargs), whole_tuple)
    return Body(path, inputs, graph)


def _root_leaf(path: str, module: nn.Module, blocks: frozenset[str], inner: frozenset[str]) -> bool:
    if isinstance(module, Standin):
        return False
    ours = isinstance(module, Operator) or type(module).__module__.startswith("torch.nn")
    return path in blocks or path in inner or ours


def _body_leaf(path: str, module: nn.Module, owner: str, inner: frozenset[str]) -> bool:
    if isinstance(module, Standin):
        return False
    local = path.removeprefix(f"{owner}.")
    return not any(site.startswith(f"{local}.") for site in inner)


def outermost_blocks(model: nn.Module) -> frozenset[str]:
    """Return the paths of module-list entries that lie in no other; containers of ours count as what they hold."""
    found: list[str] = []

    def visit(module: nn.Module, path: str) -> None:
        for name, child in module.named_children():
            below = f"{path}.{name}" if path else name
            entry = isinstance(module, nn.ModuleList) or (isinstance(module, Linked) and name == "block")
            if entry and not isinstance(child, Standin):
                found.append(below)
            else:
                visit(child, below)

    visit(model, "")
    return frozenset(found)


def relative(path: str, blocks: Collection[str]) -> str:
    """Return a site's path within its block, the path itself outside of blocks.

    >>> relative("blocks.3.attn", {"blocks.3"}), relative("proj", {"blocks.3"})
    ('attn', 'proj')
    """
    parts = path.split(".")
    for cut in range(1, len(parts)):
        if ".".join(parts[:cut]) in blocks:
            return ".".join(parts[cut:])
    return path


_SETTINGS = (str, int, float, bool, torch.dtype)


def block_form(module: nn.Module) -> tuple[Any, ...] | None:
    """Return what a trace of a block can depend on: classes, settings and sizes of all its parts.

    None for a block that uses weights of another place: its graph cannot be moved.
    """
    parts = [*module.named_modules()]
    if any(isinstance(part, Tied) for _, part in parts):
        return None
    return tuple((name, _part(part)) for name, part in parts)


def _part(module: nn.Module) -> tuple[Any, ...]:
    settings = {k: v for k, v in vars(module).items() if isinstance(v, _SETTINGS) and k != "layer_idx"}
    sizes = {k: tuple(v.shape) for k, v in module._parameters.items() if v is not None}
    config = vars(module).get("config")
    told = repr((config, module.port)) if isinstance(module, Operator) else id(config)
    return (type(module), tuple(sorted(settings.items())), tuple(sizes.items()), told)
