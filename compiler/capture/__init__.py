"""Capture: a host and example inputs -> its `HostGraph`, without weights and without arithmetic.

    capture(model, example, sites)  ->  HostGraph(root graph, one graph per block, every module's call)

The root graph has the blocks (entries of module lists) as leaves and reads as Python. A block's graph has as leaves the
sites and, where no site is inside, the block's own children. Blocks that are alike (same classes, sizes and settings, called
with the same shapes) are traced once and their graph is copied with other paths.
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
from archspec.compiler.capture.tracer import Call, ValueTracer
from archspec.compiler.capture.values import summary
from archspec.compiler.graph import Body, HostGraph
from archspec.diagnostics import ArchspecError, fail
from archspec.runtime.structures import Parallel, Tied

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
    tracer = ValueTracer(model, lambda path, module: _root_leaf(path, module, blocks, inner))
    root = Body("", inputs, tracer.trace_call(model, (), example, inputs.names((), example)))
    calls = tracer.calls
    bodies: dict[str, Body] = {}
    alike: dict[Any, Body] = {}
    for node in root.graph.find_nodes(op="call_module"):
        if node.target in blocks and node.target not in bodies:
            body = _block(model, node.target, calls[node.target], alike, inner)
            bodies[node.target] = body
    return HostGraph(model, root, bodies, calls, example)


def _block(model: nn.Module, path: str, call: Call, alike: dict[Any, Body], inner: frozenset[str]) -> Body:
    module = model.get_submodule(path)
    key = (_form(module), summary([*call.args, *(f"{k}={summary(v)}" for k, v in call.kwargs.items())]))
    if key not in alike or borrows(module):
        alike[key] = _trace_block(model, module, path, call, inner)
    return alike[key].moved(path)


def _trace_block(model: nn.Module, module: nn.Module, path: str, call: Call, inner: frozenset[str]) -> Body:
    inputs = Inputs.of(module, call.args, call.kwargs)
    tracer = ValueTracer(model, lambda p, m: _body_leaf(p, m, path, inner))
    graph = tracer.trace_call(module, call.args, call.kwargs, inputs.names(call.args, call.kwargs))
    return Body(path, inputs, graph)


def _root_leaf(path: str, module: nn.Module, blocks: frozenset[str], inner: frozenset[str]) -> bool:
    if isinstance(module, Parallel | Tied):
        return False
    return path in blocks or path in inner or type(module).__module__.startswith("torch.nn")


def _body_leaf(path: str, module: nn.Module, owner: str, inner: frozenset[str]) -> bool:
    if isinstance(module, Parallel | Tied):
        return False
    local = path.removeprefix(f"{owner}.")
    return not any(site.startswith(f"{local}.") for site in inner)


def outermost_blocks(model: nn.Module) -> frozenset[str]:
    """Return the paths of module-list entries that lie in no other entry; containers of ours count as what they hold."""
    found: list[str] = []

    def visit(module: nn.Module, path: str) -> None:
        for name, child in module.named_children():
            below = f"{path}.{name}" if path else name
            if isinstance(module, nn.ModuleList) and not isinstance(child, Parallel | Tied):
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


def borrows(module: nn.Module) -> bool:
    """Whether a module uses weights of another place: its graph cannot be moved."""
    return any(isinstance(part, Tied) for part in module.modules())


_SETTINGS = (str, int, float, bool, torch.dtype)


def _form(module: nn.Module) -> tuple[Any, ...]:
    """Return what the trace of a module can depend on: classes, settings and sizes of all its parts."""
    return tuple((name, _part(part)) for name, part in module.named_modules())


def _part(module: nn.Module) -> tuple[Any, ...]:
    settings = {k: v for k, v in vars(module).items() if isinstance(v, _SETTINGS) and k != "layer_idx"}
    sizes = {k: tuple(v.shape) for k, v in module._parameters.items() if v is not None}
    return (type(module), tuple(sorted(settings.items())), tuple(sizes.items()), id(vars(module).get("config")))
