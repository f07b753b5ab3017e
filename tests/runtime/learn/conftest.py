"""A small trained-looking teacher and what it is fed: random weights, random data, no files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from archspec.host.structure import Port, SiteShape
from archspec.instructions import Entry, Install, Instruction, Relist
from archspec.operators import restore
from archspec.runtime.data.examples import Arrays
from archspec.runtime.learn.draws import generator
from archspec.runtime.learn.feed import Feed
from archspec.runtime.model.apply import apply
from archspec.runtime.objectives import Conditioning, Flow

WIDTH = 32
SHAPE = SiteShape(
    width=WIDTH, tokens=16, grid=(4, 4), heads=2, kv_heads=2, head_dim=16, hidden=128, activation="gelu_pytorch_tanh"
)


@pytest.fixture
def host(tiny_dit: Path) -> nn.Module:
    from diffusers import DiTTransformer2DModel

    model: nn.Module = DiTTransformer2DModel.from_pretrained(tiny_dit).eval().requires_grad_(False)
    return model


@pytest.fixture
def feed() -> Feed:
    """200 random latents (4, 8, 8) with labels; 20 of them are held out."""
    draws = generator("test data")
    columns = {"x": torch.randn(200, 4, 8, 8, generator=draws), "label": torch.randint(0, 10, (200,), generator=draws)}
    return Feed(Arrays(columns, "test"), Flow(Conditioning(null=10), times="uniform"), seed=3, batch=32)


def _install(path: str, slot: str, operator: str, **params: Any) -> Install:
    config = restore(operator, params).complete(SHAPE)
    return Install(path, slot, operator, 1, config.settings(), SHAPE, Port())


def _parallel(merge: str) -> Relist:
    """Blocks 0 and 1 side by side; 2 and 3 as they were."""
    entries = (Entry("parallel", (0, 1), merge), Entry("keep", (2,)), Entry("keep", (3,)))
    return Relist("transformer_blocks", 4, WIDTH, entries)


def _edited(host_folder: Path, program: Sequence[Instruction]) -> nn.Module:
    """Return the host with the program applied, new weights drawn from a fixed seed, merges as plain sums or means."""
    from diffusers import DiTTransformer2DModel

    model = DiTTransformer2DModel.from_pretrained(host_folder).eval()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        apply(model, program)
    for module in model.modules():
        if hasattr(module, "branches"):
            module.identify()
    found: nn.Module = model
    return found


@pytest.fixture
def student(tiny_dit: Path) -> Callable[[Sequence[Instruction]], nn.Module]:
    return lambda program: _edited(tiny_dit, program)


@pytest.fixture
def install() -> Callable[..., Install]:
    """install(path, slot, operator, **parameters)"""
    return _install


@pytest.fixture
def parallel() -> Callable[[str], Relist]:
    """parallel(merge): blocks 0 and 1 side by side, 2 and 3 as they were."""
    return _parallel
