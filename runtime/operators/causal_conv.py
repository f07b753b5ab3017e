"""Depthwise causal convolution along the last axis, by the fused CUDA kernel where that is installed.

The package causal-conv1d (https://github.com/Dao-AILab/causal-conv1d) has kernels of 2 to 4 taps, in single or lower
precision. It is optional: whatever it does not take goes through torch, which says the same.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from importlib import import_module
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import conv1d, pad

TAPS = (2, 3, 4)
DTYPES = (torch.float32, torch.float16, torch.bfloat16)


def causal_conv(u: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Return y[c, i] = bias[c] + Σ_j weight[c, 0, j] u[c, i - K + 1 + j], of zeros before the first.

    u (batch, channels, length); weight (channels, 1, K); bias (channels,).
    """
    kernel = fused_kernel() if takes(u, weight) else None
    if kernel is not None:
        y: Tensor = kernel(u, weight[:, 0], bias)
        return y
    return conv1d(pad(u, (weight.shape[-1] - 1, 0)), weight, bias, groups=u.shape[1])


def takes(u: Tensor, weight: Tensor) -> bool:
    """Whether the fused kernel takes these: real tensors on CUDA, and no compiler that would look inside."""
    return u.is_cuda and type(u) is Tensor and not torch.compiler.is_compiling() and fits(u, weight)


def fits(u: Tensor, weight: Tensor) -> bool:
    """Whether taps, data types and layout are the kernel's: either the length in sequence, or the channels with strides
    of whole vectors (8 elements)."""
    length, channels = u.stride(2) == 1, u.stride(1) == 1 and u.stride(0) % 8 == 0 and u.stride(2) % 8 == 0
    return weight.shape[-1] in TAPS and u.dtype in DTYPES and weight.dtype in DTYPES and (length or channels)


@cache
def fused_kernel() -> Callable[..., Any] | None:
    """Return the package's function, None where it is not installed or does not load."""
    try:
        found: Callable[..., Any] = import_module("causal_conv1d").causal_conv1d_fn
    except (ImportError, OSError):
        return None
    return found
