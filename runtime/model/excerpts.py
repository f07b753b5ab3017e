"""Reading weights that are excerpts of the base's tensors (`archspec.host.excerpt`)."""

from __future__ import annotations

import torch
from torch import Tensor

from archspec.host.excerpt import Excerpt


def taken(excerpt: Excerpt, tensor: Tensor) -> Tensor:
    """Return the weight that `excerpt` names within its tensor: a view, unless it is multiplied."""
    axis = excerpt.axis
    if excerpt.transposed:
        tensor = tensor.T
    if excerpt.cuts:
        groups = torch.unflatten(tensor, axis, (excerpt.groups, -1))
        stop = groups.shape[axis + 1] if excerpt.stop is None else excerpt.stop
        tensor = groups.narrow(axis + 1, excerpt.start, stop - excerpt.start).flatten(axis, axis + 1)
    return tensor if excerpt.scale == 1.0 else tensor * excerpt.scale
