"""Injections into a model of no known family, whose attention has no processor."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from archspec.diagnostics import ArchspecError
from archspec.injection import Donor, Graft, Injection, Match
from archspec.runtime.features.donors import DonorInput, Trajectory
from archspec.runtime.features.hosts import HostPort
from archspec.runtime.features.injecting import inject

WIDTH, HEADS, GRID = 16, 2, (3, 5)
PORT = HostPort(1.0, lambda host, keywords: GRID)


class Attention(nn.Module):
    """As timm's."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.proj = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        batch, count, width = x.shape
        q, k, v = self.qkv(x).reshape(batch, count, 3, HEADS, width // HEADS).permute(2, 0, 3, 1, 4).unbind(0)
        y = F.scaled_dot_product_attention(q, k, v, dropout_p=0.0)
        return self.proj(y.transpose(1, 2).reshape(batch, count, width))  # type: ignore[no-any-return]


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.attn = nn.LayerNorm(WIDTH), Attention()

    def forward(self, x: Tensor) -> Tensor:
        return x + self.attn(self.norm(x))  # type: ignore[no-any-return]


class Host(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block() for _ in range(2))

    def forward(self, hidden_states: Tensor, timestep: Tensor) -> tuple[Tensor]:
        x = hidden_states + timestep.reshape(-1, 1, 1)
        for block in self.blocks:
            x = block(x)
        return (x,)


@pytest.fixture
def host() -> Host:
    torch.manual_seed(0)
    return Host().double().eval()


X = torch.randn(3, 15, WIDTH, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
TIME = torch.full((3,), 0.5, dtype=torch.float64)
GRAFT = Graft("append", ("blocks.0.attn", "blocks.1.attn"), ("it",), match=Match(threshold=-1.0))
DONORS = {"it": DonorInput(Trajectory({0.5: X[2:]}))}


def run(host: Host, graft: Graft) -> Tensor:
    with torch.no_grad(), inject(host, Injection((graft,), {"it": Donor()}), DONORS, PORT):
        found: Tensor = host(hidden_states=X[:2], timestep=TIME[:2])[0]
    return found


@torch.no_grad()
def test_its_kernel_sees_donors_and_the_rest_is_the_hosts(host: Host) -> None:
    before: Any = host.blocks[0].attn
    plain = host(hidden_states=X, timestep=TIME)[0][:2]
    found = run(host, GRAFT)
    assert (found - plain).abs().max() > 1e-4
    norm: Any = host.blocks[0].norm
    first = norm(X + TIME.reshape(-1, 1, 1))
    q, k, v = before.qkv(first).reshape(3, 15, 3, HEADS, -1).permute(2, 0, 3, 1, 4).unbind(0)
    k, v = (torch.cat([x[:2], x[2:].expand(2, -1, -1, -1)], 2) for x in (k, v))
    wide = F.scaled_dot_product_attention(q[:2], k, v)
    wanted = X[:2] + TIME[:2].reshape(-1, 1, 1) + before.proj(wide.transpose(1, 2).reshape(2, 15, WIDTH))
    only = run(host, replace(GRAFT, sites=("blocks.0.attn",)))
    torch.testing.assert_close(only, host.blocks[1](wanted), rtol=0, atol=1e-12)
    assert host.blocks[0].attn is before


@torch.no_grad()
@pytest.mark.parametrize("off", [{"times": (0.4, 0.0)}, {"strength": float("-inf")}, {"match": Match(threshold=1.01)}])
def test_off_switches_change_no_bit(host: Host, off: dict[str, object]) -> None:
    plain = host(hidden_states=X, timestep=TIME)[0][:2]
    assert torch.equal(run(host, replace(GRAFT, **off)), plain)  # type: ignore[arg-type]


def test_what_does_not_attend_is_refused(host: Host) -> None:
    with pytest.raises(ArchspecError) as error:
        run(host, replace(GRAFT, sites=("blocks.0.norm",)))
    assert error.value.diagnostics[0].code == "AS758"
    assert "calls torch's attention 0 times" in error.value.diagnostics[0].message
