"""What operators keep in a transformers `Cache` while tokens are decoded one by one.

Softmax attention over everything keeps keys and values as transformers' own layers do. The others need less, and put
a layer of their own in the cache before its first use: one that keeps the last few tokens, or one running sum. So a
windowed or linear operator decodes with constant memory and work, while the cache still counts tokens, reorders
beams, repeats batches, and (windows) rolls back as transformers asks.

An operator that keeps nothing still says that tokens passed: transformers reads the length of the whole cache, and
thereby the positions of new tokens, from its first layer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor

from archspec.diagnostics import InternalError
from archspec.runtime.operators.base import Cache, Context

if TYPE_CHECKING:
    from archspec.runtime.operators.cache_layers import SumLayer


def window(cache: Cache, layer: int, reach: int) -> None:
    """Let this layer of the cache keep the last `reach` tokens only."""
    from archspec.runtime.operators.cache_layers import WindowLayer

    _install(cache, layer, WindowLayer, reach)


def running_sum(cache: Cache, layer: int) -> SumLayer:
    """Return this layer of the cache as a running sum."""
    from archspec.runtime.operators.cache_layers import SumLayer

    _install(cache, layer, SumLayer)
    found: SumLayer = cache.layers[layer]
    return found


def count(context: Context, x: Tensor) -> None:
    """Tell the cache, if there is one, that the tokens of `x` passed: for an operator that keeps nothing."""
    if context.cache is not None:
        window(context.cache, context.layer, 1)
        passed = x[:, None, :, :1]
        context.cache.update(passed, passed, context.layer)


def _install(cache: Cache, layer: int, wanted: type, *args: Any) -> None:
    while len(cache.layers) <= layer and cache.layer_class_to_replicate is not None:
        cache.layers.append(cache.layer_class_to_replicate())
    current = cache.layers[layer]
    if isinstance(current, wanted):
        return
    if getattr(current, "is_initialized", False):
        raise InternalError(f"layer {layer} of the cache holds the state of another operator")
    cache.layers[layer] = wanted(*args)
    # transformers makes masks by whether the whole cache is static: the others' masks must stay as they were
    cache.layers[layer].is_compileable = getattr(current, "is_compileable", False)
