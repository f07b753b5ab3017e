"""Sites of a running host, seen from outside: hooks give what goes in and comes out, a torch function mode the queries
and keys of attention kernels. So every family is seen alike, and nothing has to be told where its projections are."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from archspec.host.structure import Site
from archspec.runtime.learn.taps import own_part

Seen = Callable[[Site, Tensor, Tensor], None]
"""(site, tokens in, tokens out), each (batch, tokens, width)."""
Attended = Callable[[Site, Mapping[str, Any]], None]
"""(site, arguments of the kernel: query, key, attn_mask, is_causal, scale)."""
NAMES = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal", "scale")


@contextmanager
def watched(host: nn.Module, sites: Sequence[Site], seen: Seen, attended: Attended) -> Iterator[None]:
    """Tell of every call of a site while the block lasts."""
    inside: list[Site] = []
    calls: list[Tensor] = []

    def enter(site: Site, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        inside.append(site)
        calls.append(args[0] if args else kwargs[site.port.input])

    def leave(site: Site, output: Any) -> None:
        inside.pop()
        seen(site, calls.pop(), output[site.port.output] if isinstance(output, tuple) else output)

    handles = []
    for site in sites:
        first, last = host.get_submodule(site.path), host.get_submodule(site.paths[-1])
        handles.append(first.register_forward_pre_hook(lambda _, a, k, site=site: enter(site, a, k), with_kwargs=True))
        handles.append(
            last.register_forward_hook(lambda m, a, y, site=site: leave(site, own_part(m, a, y, site.port.foreign)))
        )
    try:
        with _Kernels(lambda arguments: attended(inside[-1], arguments) if inside else None):
            yield
    finally:
        for handle in handles:
            handle.remove()


class _Kernels(TorchFunctionMode):
    """Tells of scaled dot-product attention."""

    def __init__(self, tell: Callable[[Mapping[str, Any]], None]) -> None:
        super().__init__()
        self._tell = tell

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is torch.nn.functional.scaled_dot_product_attention:
            self._tell(dict(zip(NAMES, args, strict=False)) | kwargs)
        return func(*args, **kwargs)


@dataclass
class Figure:
    """A running mean over examples, and its standard error."""

    count: int = 0
    total: float = 0.0
    squares: float = 0.0

    def add(self, values: Tensor) -> None:
        """Add one value per example, (batch,)."""
        wide = values.double()
        self.count += wide.numel()
        self.total += float(wide.sum())
        self.squares += float(wide.square().sum())

    def to_json(self) -> dict[str, float]:
        mean = self.total / self.count
        spread = max(0.0, self.squares / self.count - mean * mean)
        error = (spread / (self.count - 1)) ** 0.5 if self.count > 1 else 0.0
        return {"mean": mean, "error": error}
