"""The tracer: runs a module's own forward on proxies and values at once, and writes the fx graph.

Targets are paths from the whole model's root, for the graph of a block as well, so a block that borrows a module from
elsewhere (tied weights) is described like any other. What becomes a single `call_module` node (a leaf) is decided by
the caller's predicate; every other module is traced through. While a node's value is computed (`_computing`) nothing
is recorded, so a leaf runs as it would without us. Factories such as `torch.arange`, which see no proxy, are caught
by a `TorchFunctionMode`: no fake tensor is ever baked into the graph as a constant.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, fx, nn
from torch.overrides import TorchFunctionMode, is_tensor_method_or_property
from torch.utils._pytree import tree_map_only

from archspec.compiler.capture.fake import fake_tree
from archspec.compiler.capture.values import ValueProxy, contains_traveller, is_proxy, rebuild, travels, unwrap

Leaf = Callable[[str, nn.Module], bool]
Form = Callable[[str, tuple[Any, ...], Mapping[str, Any]], Any]
IN_PLACE = frozenset({operator.setitem})


@dataclass(frozen=True)
class Call:
    """One call of a module, in fake values. `attention`: (heads, size of a head, key heads) if it runs one kernel of
    attention or several alike."""

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    result: Any
    attention: tuple[int, int, int] | None = None


class ValueTracer(fx.Tracer):
    """Traces one call of one module of `root`. `calls` afterwards holds, by path, the first call of every module.

    `form`, if given, tells of a leaf call all that its result can depend on: a second call of the same form is not run
    again, its result is fresh fake tensors of the same shapes. None: run it.
    """

    def __init__(self, root: nn.Module, leaf: Leaf, form: Form | None = None) -> None:
        super().__init__()
        self.root, self.leaf, self.form = root, leaf, form
        self.known: dict[Any, str] = {}
        self.calls: dict[str, Call] = {}
        self.submodule_paths = {m: name for name, m in root.named_modules()}
        self._computing = False
        self._open: list[str | None] = []
        self._attention: dict[str, set[tuple[int, int, int]]] = {}
        self._parameters: dict[int, str] = {}
        self._attributes: dict[str, ValueProxy] = {}

    def trace_call(
        self,
        module: nn.Module,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        names: Mapping[int, str],
        answer: Callable[[Any], Any] | None = None,
    ) -> fx.Graph:
        """Return the graph of `module(*args, **kwargs)`; tensors among the arguments become placeholders.

        `names` maps the identity of each such tensor to the placeholder's name. `answer`: what of the result the graph
        gives; None: its tensors alone.
        """
        self.graph = fx.Graph(tracer_cls=type(self))
        self.tensor_attrs = {}
        tensors = (*self.root.named_parameters(), *self.root.named_buffers())
        self._parameters = {id(tensor): name for name, tensor in tensors}
        inputs = {key: self._placeholder(name) for key, name in names.items()}

        def enter(tensor: Tensor) -> Any:
            proxy = inputs[id(tensor)]
            proxy.value = proxy.node.meta["val"] = tensor
            return proxy

        args, kwargs = tree_map_only(Tensor, enter, (args, dict(kwargs)))
        with self._patched(), _Intercept(self):
            result = module.forward(*args, **kwargs)
        self.create_node("output", "output", (self.create_arg((answer or first_tensors)(result)),), {})
        self.graph.eliminate_dead_code(is_impure)
        self.graph.lint()
        return self.graph

    def _placeholder(self, name: str) -> ValueProxy:
        return ValueProxy(self.create_node("placeholder", name, (), {}), self, None)

    @contextmanager
    def _patched(self) -> Iterator[None]:
        call, find = nn.Module.__call__, nn.Module.__getattr__

        def traced_call(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
            def run(*a: Any, **k: Any) -> Any:
                return call(module, *a, **k)

            self._open.append((self.submodule_paths or {}).get(module))
            result = run(*args, **kwargs) if self._computing else self.call_module(module, run, args, kwargs)
            self._saw(self._open.pop(), args, kwargs, result)
            return result

        def traced_getattr(module: nn.Module, name: str) -> Any:
            value = find(module, name)
            return self._attribute(value) if isinstance(value, Tensor) and not self._computing else value

        with patch.object(nn.Module, "__call__", traced_call), patch.object(nn.Module, "__getattr__", traced_getattr):
            yield

    def _saw(self, path: str | None, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> None:
        if path is not None and path not in self.calls:
            seen = self._attention.get(path, set())
            attention = next(iter(seen)) if len(seen) == 1 else None
            self.calls[path] = Call(unwrap(args), unwrap(kwargs), unwrap(result), attention)

    def attends(self, query: Tensor, key: Tensor) -> None:
        """Note that every module that is being called runs attention; query and key: (batch, heads, tokens, size)."""
        for path in self._open:
            if path is not None:
                self._attention.setdefault(path, set()).add((query.shape[1], query.shape[3], key.shape[1]))

    def _attribute(self, value: Tensor) -> Any:
        """Return the proxy of a parameter or buffer."""
        name = self._parameters.get(id(value))
        if name is None:
            return value
        if name not in self._attributes:
            proxy = ValueProxy(self.create_node("get_attr", name, (), {}), self, value)
            proxy.node.meta["val"] = value
            self._attributes[name] = proxy
        return self._attributes[name]

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return self.leaf(module_qualified_name, m)

    def create_arg(self, a: Any) -> Any:
        if is_proxy(a):
            return a.node
        if isinstance(a, tuple | list | slice) or type(a) is dict:
            return rebuild(a, self.create_arg)
        if isinstance(a, torch.dtype | torch.device | torch.memory_format | torch.layout):
            return a
        return super().create_arg(a)

    def create_proxy(self, kind: str, target: Any, args: Any, kwargs: Any, *_: Any, **__: Any) -> Any:
        """Make a node, compute its value, and return what the host's code goes on with."""
        node = self.create_node(kind, target, self.create_arg(args), self.create_arg(kwargs))
        value = self._compute(kind, target, unwrap(args), unwrap(kwargs))
        return self._returned(node, value)

    def _compute(self, kind: str, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        self._computing = True
        try:
            if kind == "call_module":
                return self._leaf_result(target, args, kwargs)
            if kind == "call_method":
                return getattr(args[0], target)(*args[1:], **kwargs)
            return target(*args, **kwargs)
        finally:
            self._computing = False

    def _leaf_result(self, path: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        form = self.form(path, args, kwargs) if self.form else None
        if form is None or self.known.setdefault(form, path) == path:
            return self.root.get_submodule(path)(*args, **kwargs)
        model = self.known[form]
        inside = [(p.removeprefix(model), call) for p, call in self.calls.items() if p.startswith(f"{model}.")]
        for local, call in inside:
            self.calls.setdefault(path + local, call)
        return fake_tree(self.calls[model].result)

    def _returned(self, node: fx.Node, value: Any) -> Any:
        node.meta["val"] = value
        if travels(value):
            return ValueProxy(node, self, value)
        if not contains_traveller(value):
            return value
        if isinstance(value, Mapping):
            parts = {key: self._part(node, value[key], key) for key in value}
            return type(value)(**parts)
        items = [self._part(node, part, i) for i, part in enumerate(value)]
        return (
            type(value)(*items) if hasattr(value, "_fields") else list(items) if type(value) is list else tuple(items)
        )

    def _part(self, node: fx.Node, value: Any, key: Any) -> Any:
        if not contains_traveller(value):
            return value
        return self._returned(self.create_node("call_function", operator.getitem, (node, key), {}), value)

    def ask(self, proxy: ValueProxy, question: Callable[[Any], Any]) -> Any:
        """Answer a question of Python's from the value: control flow, `int`, `range`."""
        self._computing, before = True, self._computing
        try:
            return question(proxy.value)
        finally:
            self._computing = before


class _Intercept(TorchFunctionMode):
    """Sends every torch call of the host's own code through the tracer."""

    def __init__(self, tracer: ValueTracer) -> None:
        super().__init__()
        self.tracer = tracer

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is torch.nn.functional.scaled_dot_product_attention and len(args) > 1:
            self.tracer.attends(args[0], args[1])
        if self.tracer._computing:
            return func(*args, **kwargs)
        if is_tensor_method_or_property(func):
            if not any(map(is_proxy, args)):
                return func(*args, **kwargs)
            return self.tracer.create_proxy("call_method", func.__name__, args, kwargs)
        return self.tracer.create_proxy("call_function", func, args, kwargs)


def first_tensors(result: Any) -> Any:
    """Return a model's output without the parts that are not tensors: a tensor, or a tuple of them."""
    if isinstance(result, Mapping):
        result = tuple(result.values())
    elif hasattr(result, "sample") and not is_proxy(result):
        result = result.sample
    if isinstance(result, tuple | list):
        kept = tuple(part for part in map(first_tensors, result) if part is not None and part != ())
        return kept[0] if len(kept) == 1 else kept
    return result if isinstance(result, Tensor) or is_proxy(result) else None


def whole_tuple(result: Any) -> Any:
    """Return a block's output as its host takes it apart: a tuple with all its places, those of None too."""
    return tuple(map(whole_tuple, result)) if type(result) is tuple else first_tensors(result)


def is_impure(node: fx.Node) -> bool:
    """Whether a node has an effect beside its value."""
    if node.op in ("placeholder", "output"):
        return True
    if node.op == "call_method":
        name = str(node.target)
        return name.endswith("_") and not name.endswith("__")
    return node.op == "call_function" and node.target in IN_PLACE
