"""Fake weights: a module whose parameters and buffers are shapes for the time of a capture.

Weights are swapped for fake tensors on the host's nominal device (the CPU), whatever they were: real ones of a small
host, or `meta` ones of a host of any size. Weights that were tied stay tied. Afterwards the module is as it was.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._pytree import tree_map_only


def fake_like(tensor: Tensor) -> Tensor:
    """Return a fake tensor of the same shape and type on the CPU. To be called within a `FakeTensorMode`."""
    return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="cpu")


def fake_tree(tree: Any) -> Any:
    """Return nested data with its tensors made fake."""
    return tree_map_only(Tensor, fake_like, tree)


@contextmanager
def fake_weights(module: nn.Module) -> Iterator[FakeTensorMode]:
    """Within the context, `module` runs on fake tensors, without memory and without arithmetic."""
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    made: dict[int, Tensor] = {}
    before: list[tuple[dict[str, Any], str, Tensor]] = []
    for owner in module.modules():
        for table, is_parameter in ((owner._parameters, True), (owner._buffers, False)):
            before += [(table, name, tensor) for name, tensor in table.items() if tensor is not None]
            for name, tensor in table.items():
                if tensor is not None:
                    table[name] = _swapped(tensor, made, mode, is_parameter)
    try:
        with mode, torch.no_grad():
            yield mode
    finally:
        for table, name, tensor in before:
            table[name] = tensor  # type: ignore[assignment]


def _swapped(tensor: Tensor, made: dict[int, Tensor], mode: FakeTensorMode, is_parameter: bool) -> Any:
    """Return the fake of a weight: made directly, since a dispatch for each would be most of a capture."""
    if id(tensor) not in made:
        shape = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="meta")
        fake = FakeTensor(mode, shape, torch.device("cpu"))
        if is_parameter:
            fake._is_param = True
        made[id(tensor)] = fake
    return made[id(tensor)]
