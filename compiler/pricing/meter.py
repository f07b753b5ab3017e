"""Measuring one call of a model without weights and without arithmetic: FLOPs and peak memory, per module.

The call runs on fake tensors under a dispatch mode. FLOPs are those of `torch.utils.flop_counter` (matrix products,
convolutions, attention; a multiply-add is 2); element-wise work is not counted. Activations are the bytes of all
storages that the call has allocated and not yet released, at their highest; the workspace inside a fused kernel is not
seen, and neither are weights, inputs or what autograd would keep. A module that is used at several places through ties
is charged at each of them.

Blocks of the same form, called with the same shapes, are measured once; the others are given the same figures.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only
from torch.utils.flop_counter import flop_registry

from archspec.compiler.capture import block_form, outermost_blocks
from archspec.compiler.capture.fake import fake_tree, fake_weights
from archspec.compiler.capture.values import summary
from archspec.runtime.model.structures import Tied

aten = torch.ops.aten


@dataclass
class Usage:
    """Of one module, over all its calls. `mixing`: the part of `flops` inside attention kernels (q k^T and its product
    with v). `peak`: bytes above what was held when it was called."""

    flops: int = 0
    mixing: int = 0
    peak: int = 0

    def add(self, other: Usage) -> None:
        self.flops += other.flops
        self.mixing += other.mixing
        self.peak = max(self.peak, other.peak)


def attention_flops(query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any) -> int:
    """FLOPs of softmax(q k^T) v; q, k, v: (batch, heads, tokens, features)."""
    batch, heads, queries, features = query.shape
    return int(2 * batch * heads * queries * key.shape[2] * (features + value.shape[3]))


ATTENTION = {
    aten._scaled_dot_product_flash_attention_for_cpu,
    aten._scaled_dot_product_flash_attention,
    aten._scaled_dot_product_efficient_attention,
    aten._scaled_dot_product_fused_attention_overrideable,
}
COUNTS: Mapping[Any, Callable[..., int]] = {**flop_registry, **dict.fromkeys(ATTENTION, attention_flops)}


class Meter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Adds up FLOPs and keeps account of live storages."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.total = Usage()
        self.live = 0
        self._held: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        packet = func._overloadpacket
        if packet in COUNTS:
            flops = int(COUNTS[packet](*args, **kwargs, out_val=out))
            self.total.flops += flops
            self.total.mixing += flops if packet in ATTENTION else 0
        self._hold(out, [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)])
        return out

    def _hold(self, out: Any, given: list[Tensor]) -> None:
        """Count the storages that `out` has brought: those of no argument and not counted yet."""
        old = {tensor.untyped_storage()._cdata for tensor in given}
        for tensor in tree_leaves(out):
            if not isinstance(tensor, Tensor) or tensor.is_meta:
                continue
            storage = tensor.untyped_storage()
            key, size = storage._cdata, storage.nbytes()
            if key in old or key in self._held:
                continue
            self._held.add(key)
            self.live += size
            self.total.peak = max(self.total.peak, self.live)
            weakref.finalize(storage, self._release, key, size)

    def _release(self, key: int, size: int) -> None:
        self._held.discard(key)
        self.live -= size


@dataclass
class Measurement:
    """Module path -> what its calls used; "" is the whole model."""

    modules: dict[str, Usage] = field(default_factory=dict)

    def at(self, path: str) -> Usage:
        return self.modules.get(path, Usage())


def measure(model: nn.Module, example: Mapping[str, Any]) -> Measurement:
    """Measure `model(**example)`. Parameters may be on any device; inputs give only their shapes."""
    found = Measurement()
    with fake_weights(model):
        given = fake_tree(dict(example))
        meter = Meter()
        with _Metered(model, meter, found).patched(), meter:
            model(**given)
    return found


class _Metered:
    """Attributes what the meter sees to modules."""

    def __init__(self, model: nn.Module, meter: Meter, found: Measurement) -> None:
        self.meter, self.found = meter, found
        self.paths = {module: path for path, module in model.named_modules()}
        self.forms = {path: block_form(model.get_submodule(path)) for path in outermost_blocks(model)}
        self.known: dict[Any, tuple[dict[str, Usage], Any]] = {}
        self.ties: list[tuple[str, str]] = []

    @contextmanager
    def patched(self) -> Iterator[None]:
        call = nn.Module.__call__

        def metered(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
            return self._call(module, lambda: call(module, *args, **kwargs), args, kwargs)

        with patch.object(nn.Module, "__call__", metered):
            yield

    def _call(self, module: nn.Module, run: Callable[[], Any], args: Any, kwargs: Any) -> Any:
        path = self.paths.get(module)
        if path is None:
            return run()
        path = self._place(path)
        if isinstance(module, Tied):
            return self._tied(path, module, run)
        form = self._form(path, args, kwargs)
        if form in self.known:
            return self._again(path, *self.known[form])
        first = form is not None and path not in self.found.modules
        result, usage = self._measured(run)
        self.found.modules.setdefault(path, Usage()).add(usage)
        if first:
            inside = {p.removeprefix(path): replace(u) for p, u in self.found.modules.items() if _in(p, path)}
            self.known[form] = inside, _shapes(result)
        return result

    def _place(self, path: str) -> str:
        """Return where a module is at work: at the place of the tie through which it is called, if there is one."""
        for target, place in reversed(self.ties):
            if _in(path, target):
                return place + path.removeprefix(target)
        return path

    def _tied(self, path: str, module: Tied, run: Callable[[], Any]) -> Any:
        """Charge the tie's place with what its target uses."""
        self.ties.append((self.paths[module.target], path))
        try:
            return run()
        finally:
            self.ties.pop()

    def _form(self, path: str, args: Any, kwargs: Any) -> Any:
        """Return what a block's usage can depend on; None: not a block, or one that is to be measured each time."""
        form = self.forms.get(path)
        return form and (form, summary([*args, *(f"{key}={summary(value)}" for key, value in kwargs.items())]))

    def _measured(self, run: Callable[[], Any]) -> tuple[Any, Usage]:
        total, held = self.meter.total, self.meter.live
        flops, mixing, highest = total.flops, total.mixing, total.peak
        total.peak = held
        result = run()
        usage = Usage(total.flops - flops, total.mixing - mixing, total.peak - held)
        total.peak = max(total.peak, highest)
        return result, usage

    def _again(self, path: str, inside: Mapping[str, Usage], result: Any) -> Any:
        """Charge a block with what one of the same form has used."""
        for local, usage in inside.items():
            self.found.modules.setdefault(path + local, Usage()).add(usage)
        whole, total = inside[""], self.meter.total
        total.flops += whole.flops
        total.mixing += whole.mixing
        total.peak = max(total.peak, self.meter.live + whole.peak)
        return fake_tree(result)


def _shapes(result: Any) -> Any:
    """Return a result as meta tensors, which the meter does not count."""
    return tree_map_only(
        Tensor, lambda t: torch.empty_strided(t.shape, t.stride(), dtype=t.dtype, device="meta"), result
    )


def _in(path: str, block: str) -> bool:
    return path == block or path.startswith(f"{block}.")
