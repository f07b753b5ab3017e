"""Linear recurrences with a decay per token and head: the state space duality of Mamba-2 (arXiv 2405.21060, Sec. 6).

    h_i = exp(a_i) h_{i-1} + b_i x_iᵀ          y_i = h_iᵀ c_i

Within a chunk, y is a masked matrix product; what came before enters as one state. Chunks follow one another, so memory
is that of one chunk beside inputs and outputs, whatever the number of tokens, and the last chunk may be shorter.

Exponents are sums over segments, each summed on its own: a difference of two running sums would lose the digits of
a short segment behind a long one. All are negative, so nothing overflows.

On CUDA the kernel of `mamba_ssm` takes over where it is installed.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, unflatten

KERNEL_CHUNK = 256
"""What the kernel of mamba_ssm is tuned for."""


def single_precision(device: str) -> AbstractContextManager[object]:
    """Return a context without autocast, for sums that half precision would spoil."""
    return torch.autocast(device, enabled=False) if torch.amp.is_autocast_available(device) else nullcontext()


def scan(x: Tensor, a: Tensor, b: Tensor, c: Tensor, state: Tensor | None, chunk: int) -> tuple[Tensor, Tensor]:
    """Return y and the state after the last token.

    x, y (batch, tokens, heads, values), a (batch, tokens, heads), b and c (batch, tokens, groups, features), where
    heads are groups x heads per group; state (batch, groups, features, heads per group, values), None for zeros.
    """
    x, a = (unflatten(part, 2, (b.shape[2], -1)) for part in (x, a))
    out = []
    for xs, rates, bs, cs in zip(*(torch.split(part, chunk, dim=1) for part in (x, a, b, c)), strict=True):
        y, state = _step(xs, rates, bs, cs, state)
        out.append(y)
    assert state is not None
    return torch.cat(out, 1).flatten(2, 3), state


def _step(x: Tensor, a: Tensor, b: Tensor, c: Tensor, state: Tensor | None) -> tuple[Tensor, Tensor]:
    """One chunk: x (batch, tokens, groups, heads, values), a (batch, tokens, groups, heads)."""
    b, c = b.transpose(1, 2), c.transpose(1, 2)
    decay = segment_sums(a.permute(0, 2, 3, 1)).exp()  # (batch, groups, heads, tokens, tokens)
    scores = (c @ b.transpose(-1, -2)).unsqueeze(2) * decay
    y = (scores @ x.permute(0, 2, 3, 1, 4)).permute(0, 3, 1, 2, 4)
    left = decay[..., -1, :].permute(0, 3, 1, 2)  # what is left of each token at the end
    added = b.transpose(-1, -2) @ (x * left[..., None]).transpose(1, 2).flatten(3)
    new = unflatten(added, 3, x.shape[3:])
    if state is None:
        return y, new
    since = a.cumsum(1).exp()[..., None]  # what is left of the state at each token
    before = unflatten(c @ state.flatten(3), 3, x.shape[3:]).transpose(1, 2)
    return y + before * since, new + state * since[:, -1].unsqueeze(2)


def segment_sums(a: Tensor) -> Tensor:
    """(..., tokens) -> (..., tokens, tokens): entry (i, j) is a_{j+1} + ... + a_i, and -inf where j > i.

    >>> segment_sums(torch.tensor([1.0, 2.0, 4.0]))[2].tolist()
    [6.0, 4.0, 0.0]
    """
    tokens = a.shape[-1]
    later = torch.ones(tokens, tokens, dtype=torch.bool, device=a.device).triu()
    sums = a[..., None].expand(*a.shape, tokens).masked_fill(later, 0.0).cumsum(-2)
    return sums.masked_fill(later.triu(1), float("-inf"))


@cache
def _kernel() -> Callable[..., Any] | None:
    if find_spec("mamba_ssm") is None:
        return None
    found: Callable[..., Any] = import_module("mamba_ssm.ops.triton.ssd_combined").mamba_chunk_scan_combined
    return found


def has_kernel(x: Tensor) -> bool:
    """Whether mamba_ssm's kernel can take a tensor: on CUDA, not in double precision, and no fake one."""
    return x.is_cuda and x.dtype != torch.float64 and type(x) is Tensor and _kernel() is not None


def selective_scan(
    x: Tensor, dt: Tensor, rate: Tensor, b: Tensor, c: Tensor, state: Tensor | None, chunk: int
) -> tuple[Tensor, Tensor]:
    """Return y and the state of `scan` with inputs dt x and exponents -rate dt: dt (batch, tokens, heads) and rate
    (heads), both positive. By the kernel of mamba_ssm where it can."""
    if has_kernel(x):
        return _by_kernel(x, dt, rate, b, c, state)
    return scan(x * dt[..., None], -rate * dt, b, c, state, chunk)


def _by_kernel(
    x: Tensor, dt: Tensor, rate: Tensor, b: Tensor, c: Tensor, state: Tensor | None
) -> tuple[Tensor, Tensor]:
    """The kernel's state is (batch, heads, values, features)."""
    kernel = _kernel()
    assert kernel is not None
    first = None if state is None else state.permute(0, 1, 3, 4, 2).flatten(1, 2).contiguous()
    y, last = kernel(x, dt, -rate, b, c, KERNEL_CHUNK, initial_states=first, return_final_states=True)
    return y, unflatten(last.to(x.dtype), 1, (b.shape[2], -1)).permute(0, 1, 4, 2, 3)
