"""What a node *is*, said alike of a rewritten graph and of the lowered model captured again.

`Expected` reads the marks that passes left; `Lowered` looks at the real modules, and finds out whose weights each
uses from the table by which checkpoints are written (`layout.tensor_sources`). So the proof covers that table too:
had emission routed a block's weights elsewhere, its label would differ. A module with weights is told by its class
and whose they are, one without by its class and settings; a parameter by its name in the base, a buffer (which no
checkpoint holds) by its last name.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import asdict
from typing import Any

from torch import fx, nn

from archspec.compiler.proof.isomorphism import operation
from archspec.compiler.rewrite.graph import HostGraph, NewMerge, NewOperator
from archspec.host.structure import Port, SiteShape
from archspec.instructions import TensorSource
from archspec.operators.base import Signature
from archspec.runtime.model.structures import Linked, Parallel
from archspec.runtime.operators.base import Operator


class Expected:
    """Labels of the nodes of a rewritten graph. `tensors`: the names of the base's."""

    def __init__(self, graph: HostGraph, tensors: Collection[str]) -> None:
        self.graph, self.tensors = graph, frozenset(tensors)
        self.owners = _prefixes(tensors)

    def __call__(self, node: fx.Node) -> str:
        new, path = node.meta.get("new"), str(node.target)
        if isinstance(new, NewOperator):
            own = path if new.config.weights(new.site.shape) else ""
            return _operator(new.config, new.site.shape, new.site.port, own)
        if isinstance(new, NewMerge):
            return _merge(len(new.members), new.width)
        if node.op == "get_attr":
            return _attribute(path if path in self.tensors else None, path)
        if node.op != "call_module":
            return operation(node)
        return _module(self.graph.model.get_submodule(path), path if path in self.owners else "")


class Lowered:
    """Labels of the nodes of a lowered model. `sources`: tensor of the result -> where from."""

    def __init__(self, model: nn.Module, sources: Mapping[str, TensorSource]) -> None:
        self.model, self.sources = model, sources
        self.homes: dict[str, set[str]] = {}
        for name, source in sources.items():
            for path in _prefixes([name]):
                self._note(path, name, source)

    def _note(self, path: str, name: str, source: TensorSource) -> None:
        """A tensor at `path` + local name: the base's module has it under the same local name."""
        local = name.removeprefix(path)
        if source.base is not None:
            home = source.base.removesuffix(local) if source.base.endswith(local) else f"{source.base}, as {name}"
            self.homes.setdefault(path, set()).add(home)

    def __call__(self, node: fx.Node) -> str:
        path = str(node.target)
        if node.op == "get_attr":
            source = self.sources.get(path)
            return _attribute(source.base if source else None, path)
        if node.op != "call_module":
            return operation(node)
        module = self.model.get_submodule(path)
        if isinstance(module, Operator):
            return _operator(module.config, module.shape, module.port, self._site(path))
        owner = self.model.get_submodule(path.rpartition(".")[0])
        if isinstance(module, nn.Linear) and _is_merge(module, owner):
            return _merge(module.in_features // module.out_features, module.out_features)
        return _module(module, " and ".join(sorted(self.homes.get(path, ()))))

    def _site(self, path: str) -> str:
        sites = {s.site or "the base" for name, s in self.sources.items() if name.startswith(f"{path}.")}
        return " and ".join(sorted(sites))


def _prefixes(names: Collection[str]) -> set[str]:
    """Return the paths of all modules that these tensors belong to."""
    return {".".join(parts[:n]) for parts in (name.split(".") for name in names) for n in range(1, len(parts))}


def _module(module: nn.Module, home: str) -> str:
    return f"module {type(module).__name__} of {home}" if home else f"module {module!r}"


def _is_merge(module: nn.Module, owner: nn.Module) -> bool:
    if isinstance(owner, Parallel):
        return module in owner.maps.values()
    return isinstance(owner, Linked) and owner.merge is module


def _merge(count: int, width: int) -> str:
    return f"merge of {count} x {width}"


def _operator(config: Signature, shape: SiteShape, port: Port, site: str) -> str:
    data: dict[str, Any] = {"config": config.settings(), "shape": asdict(shape), "port": asdict(port)}
    return f"operator {config.name}/{config.version} at {site or 'any'} {json.dumps(data, sort_keys=True, default=str)}"


def _attribute(base: str | None, name: str) -> str:
    return f"parameter {base}" if base else f"buffer {name.rpartition('.')[2]}"
