"""Linear maps: torch's, and transformers' `Conv1D`, which keeps its weight as (inputs, outputs)."""

from __future__ import annotations

from torch import nn


def is_turned(module: nn.Module) -> bool:
    """Say whether a module is a linear map whose weight is kept transposed. Imports no transformers."""
    kind = type(module)
    return (kind.__module__, kind.__name__) == ("transformers.pytorch_utils", "Conv1D")


def is_linear(module: nn.Module) -> bool:
    return isinstance(module, nn.Linear) or is_turned(module)
