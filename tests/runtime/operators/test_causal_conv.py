"""The fused CUDA kernel and torch say the same; without it torch is used."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from archspec.runtime.operators import causal_conv as module
from archspec.runtime.operators.causal_conv import causal_conv, fits, fused_kernel, takes


@pytest.fixture
def fresh() -> Iterator[None]:
    fused_kernel.cache_clear()
    yield
    fused_kernel.cache_clear()


def drawn(kernel: int, device: str = "cpu", dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(0)
    sizes = ((2, 11, 16), (16, 1, kernel), (16,))
    u, weight, bias = (torch.randn(size, generator=generator).to(device, dtype) for size in sizes)
    return u.transpose(1, 2), weight, bias


def test_torch_by_hand() -> None:
    u, weight, bias = drawn(3)
    y = causal_conv(u, weight, bias)
    assert y.shape == u.shape
    expected = bias + weight[:, 0, 0] * u[..., 2] + weight[:, 0, 1] * u[..., 3] + weight[:, 0, 2] * u[..., 4]
    torch.testing.assert_close(y[..., 4], expected)
    torch.testing.assert_close(y[..., 0], bias + weight[:, 0, 2] * u[..., 0])


def test_what_the_kernel_takes() -> None:
    u, weight, _ = drawn(4)
    assert fits(u, weight)
    assert fits(u.contiguous(), weight)
    assert fits(u.bfloat16(), weight)
    assert not takes(u, weight), "on the CPU"
    assert not fits(u.double(), weight)
    assert not fits(u, weight.double())
    assert not fits(u[:, :12].transpose(1, 2).contiguous().transpose(1, 2), weight), "12 channels are no whole vectors"
    assert not fits(u[:, ::2], weight), "neither axis is in sequence"
    for taps, taken in ((1, False), (2, True), (5, False)):
        assert fits(*drawn(taps)[:2]) == taken


def test_a_package_that_does_not_load_is_none(fresh: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "causal_conv1d", None)
    assert fused_kernel() is None


def test_the_package_is_called_where_it_takes(fresh: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in for the package, in the shapes that it documents: weight (channels, taps)."""
    seen: list[Any] = []

    def stand_in(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        seen.append((tuple(x.shape), tuple(weight.shape), tuple(bias.shape)))
        return x

    monkeypatch.setitem(sys.modules, "causal_conv1d", SimpleNamespace(causal_conv1d_fn=stand_in))
    monkeypatch.setattr(module, "takes", lambda u, weight: weight.shape[-1] <= 4)
    u, weight, bias = drawn(4)
    assert causal_conv(u, weight, bias) is u
    assert seen == [((2, 16, 11), (16, 4), (16,))]
    assert causal_conv(*drawn(5)) is not u
    assert len(seen) == 1


@pytest.mark.skipif(not torch.cuda.is_available() or fused_kernel() is None, reason="needs CUDA and causal-conv1d")
@pytest.mark.parametrize("kernel", [2, 3, 4])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 2e-2)])
@pytest.mark.parametrize("last", ["channels", "length"])
def test_kernel_equals_torch(kernel: int, dtype: torch.dtype, tolerance: float, last: str) -> None:
    u, weight, bias = drawn(kernel, "cuda", dtype)
    u = (u.contiguous() if last == "length" else u).detach().requires_grad_()
    assert takes(u, weight)
    y = causal_conv(u, weight, bias)
    twin = u.detach().double().requires_grad_()
    exact = causal_conv(twin, weight.double(), bias.double())
    torch.testing.assert_close(y.double(), exact, rtol=tolerance, atol=tolerance)
    (grad,) = torch.autograd.grad(y.float().square().sum(), u)
    (wanted,) = torch.autograd.grad(exact.square().sum(), twin)
    torch.testing.assert_close(grad.double(), wanted, rtol=10 * tolerance, atol=10 * tolerance)
