"""Proxies that carry a value: the graph grows beside a run on fake tensors.

Plain symbolic tracing stops where a host asks a question (`len`, `if x.shape[0] == 1`, `isinstance`). Here every node
is also computed, and a proxy answers from its value. Only tensors and numbers travel as proxies:

* a tensor's proxy is of class Tensor for `isinstance`, and its operations become nodes;
* sizes stay in the graph as far as they are only computed with (`x.shape[0]`, `n // 2`), so the graph serves other
  batch sizes; where Python needs the number itself (`int`, `range`, `len`) it is taken from the value and becomes a
  constant;
* tuples, lists and mappings are taken apart at once into containers of proxies; unused parts vanish as dead code;
* everything else (None, booleans, dtypes, devices, names) is the value itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from torch import Tensor, fx
from torch.fx.proxy import Proxy

if TYPE_CHECKING:
    from archspec.compiler.capture.tracer import ValueTracer


class ValueProxy(Proxy):
    """A node and its value, a tensor or a number."""

    tracer: ValueTracer

    def __init__(self, node: fx.Node, tracer: ValueTracer, value: Any) -> None:
        super().__init__(node, tracer)
        self.value = value

    @property  # type: ignore[misc]
    def __class__(self) -> type:
        """The value's type: `isinstance(proxy, Tensor)` holds."""
        return type(self.value)

    def __repr__(self) -> str:
        return f"<{self.node.name}: {summary(self.value)}>"

    def __getattr__(self, name: str) -> Any:
        found = getattr(self.value, name)
        if callable(found):
            return Method(self, name)
        return self.tracer.create_proxy("call_function", getattr, (self, name), {})

    def __bool__(self) -> bool:
        return bool(self.tracer.ask(self, bool))

    def __int__(self) -> int:
        return int(self.tracer.ask(self, int))

    def __float__(self) -> float:
        return float(self.tracer.ask(self, float))

    def __index__(self) -> int:
        return int(self.tracer.ask(self, lambda value: value.__index__()))

    def __len__(self) -> int:
        return len(self.value)

    def __iter__(self) -> Any:
        return iter([self[i] for i in range(len(self.value))])  # type: ignore[index]

    def __contains__(self, item: Any) -> bool:
        return any(bool(item == part) for part in self)

    def __setitem__(self, key: Any, value: Any) -> None:
        import operator

        self.tracer.create_proxy("call_function", operator.setitem, (self, key, value), {})

    def __hash__(self) -> int:
        return id(self)


class Method:
    """A bound method of a proxy: calling it makes a node."""

    def __init__(self, owner: ValueProxy, name: str) -> None:
        self.owner, self.name = owner, name

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.owner.tracer.create_proxy("call_method", self.name, (self.owner, *args), kwargs)


def is_proxy(item: object) -> bool:
    """Whether an object is a proxy; `isinstance` would be answered by the value's class as well."""
    return issubclass(type(item), Proxy)


def rebuild(item: Any, leaf: Callable[[Any], Any]) -> Any:
    """Return nested tuples, lists, mappings and slices with `leaf` applied to everything else in them."""
    if is_proxy(item) or item is None or isinstance(item, str | Tensor | int | float):
        return leaf(item)
    if isinstance(item, tuple) and hasattr(item, "_fields"):
        return type(item)(*(rebuild(part, leaf) for part in item))
    if isinstance(item, tuple):
        return tuple(rebuild(part, leaf) for part in item)
    if isinstance(item, list):
        return [rebuild(part, leaf) for part in item]
    if isinstance(item, slice):
        return slice(*(rebuild(part, leaf) for part in (item.start, item.stop, item.step)))
    if type(item) is dict:
        return {key: rebuild(part, leaf) for key, part in item.items()}
    return leaf(item)


def unwrap(item: Any) -> Any:
    """Return nested arguments with every proxy replaced by its value."""
    return rebuild(item, lambda part: part.value if is_proxy(part) else part)


def travels(value: object) -> bool:
    """Whether a value travels as a proxy."""
    return isinstance(value, Tensor | int | float) and not isinstance(value, bool)


def contains_traveller(value: object) -> bool:
    if isinstance(value, tuple | list):
        return any(map(contains_traveller, value))
    if isinstance(value, Mapping):
        return any(map(contains_traveller, value.values()))
    return travels(value)


def summary(value: object) -> str:
    """Return a short text of a value: `f32[2, 16, 32]` of a tensor.

    >>> import torch
    >>> summary(torch.zeros(2, 3)), summary(7)
    ('f32[2, 3]', '7')
    """
    if isinstance(value, Tensor):
        from torch.utils._dtype_abbrs import dtype_abbrs

        return f"{dtype_abbrs[value.dtype]}{list(value.shape)}"
    if isinstance(value, tuple | list):
        return f"({', '.join(map(summary, value))})"
    return str(value)
