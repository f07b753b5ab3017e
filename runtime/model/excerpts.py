"""Reading weights that are excerpts of the base's tensors (`archspec.host.excerpt`)."""

from __future__ import annotations

import torch
from torch import Tensor

from archspec.host.excerpt import Excerpt


def taken(excerpt: Excerpt, tensor: Tensor) -> Tensor:
    """Return the weight that `excerpt` names within its tensor: a view, unless it is multiplied or in groups."""
    found = _groups(excerpt, tensor)
    if excerpt.cuts:
        found = found.flatten(excerpt.axis, excerpt.axis + 1)
    return found if excerpt.scale == 1.0 else found * excerpt.scale


def add_to(excerpt: Excerpt, tensor: Tensor, value: Tensor) -> None:
    """Add to an excerpt of a tensor, in place."""
    place = _groups(excerpt, tensor)
    place += value.reshape(place.shape)


def _groups(excerpt: Excerpt, tensor: Tensor) -> Tensor:
    """Return a view of what is taken, its axis still in groups where it is cut."""
    axis = excerpt.axis
    if excerpt.transposed:
        tensor = tensor.T
    if not excerpt.cuts:
        return tensor
    groups = torch.unflatten(tensor, axis, (excerpt.groups, -1))
    stop = groups.shape[axis + 1] if excerpt.stop is None else excerpt.stop
    return groups.narrow(axis + 1, excerpt.start, stop - excerpt.start)
