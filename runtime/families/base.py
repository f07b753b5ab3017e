"""What running code must know of a family of hosts: valid inputs, and the loss of its task.

`example` gives the keyword arguments of one call; a family says with `inputs` what they are. Random draws come from a
generator of their own, so an example depends on its arguments alone; on the device `meta` the tensors have shapes and
no content.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from math import isqrt
from typing import Any, Literal

import torch
from torch import Tensor, nn

from archspec.diagnostics import fail

Objective = Literal["epsilon", "flow", "lm", "mlm", "classification"]
TEXT_TOKENS = 64
"""Length of an example of text when none is asked for: hosts of text have no native one."""
Example = dict[str, Any]


@dataclass
class Draw:
    """Makes the tensors of one example."""

    device: str | torch.device
    dtype: torch.dtype
    seed: int = 0
    generator: torch.Generator = field(init=False)

    def __post_init__(self) -> None:
        self.generator = torch.Generator().manual_seed(self.seed)

    def normal(self, *shape: int) -> Tensor:
        if torch.device(self.device).type == "meta":
            return torch.empty(shape, dtype=self.dtype, device=self.device)
        return torch.randn(shape, generator=self.generator).to(self.device, self.dtype)

    def integers(self, high: int, *shape: int) -> Tensor:
        if torch.device(self.device).type == "meta":
            return torch.empty(shape, dtype=torch.long, device=self.device)
        return torch.randint(0, high, shape, generator=self.generator).to(self.device)

    def ones(self, *shape: int, dtype: torch.dtype | None = None) -> Tensor:
        return torch.ones(shape, dtype=dtype or self.dtype, device=self.device)


@dataclass(frozen=True)
class Request:
    """What one example is asked to be, and its parts that hosts have in common. `get` reads the host's config."""

    module: nn.Module
    batch: int
    tokens: int | None
    draw: Draw

    @property
    def config(self) -> Any:
        return self.module.config

    def get(self, *names: str, default: Any = None) -> Any:
        """Return the first of these config attributes that is set."""
        found = (getattr(self.config, name, None) for name in names)
        return next((value for value in found if value is not None), default)

    @property
    def text(self) -> int:
        """Length of a text, at most the host's longest."""
        return self.tokens or min(TEXT_TOKENS, self.get("max_position_embeddings", "n_positions", default=TEXT_TOKENS))

    @property
    def side(self) -> int:
        """Side, in latent pixels, of a diffusion host's input."""
        return side_of(self.tokens, self.get("sample_size", default=32), self.get("patch_size", default=1))

    def latents(self) -> Tensor:
        """(batch, channels, side, side)"""
        return self.draw.normal(self.batch, self.get("in_channels", default=4), self.side, self.side)

    def times(self) -> Tensor:
        """(batch,), steps of 0..999"""
        return self.draw.integers(1000, self.batch)

    def ids(self) -> Tensor:
        """(batch, tokens)"""
        return self.draw.integers(self.get("vocab_size", default=2), self.batch, self.text)


class Family(ABC):
    """One entry of the table in `archspec.runtime.families`."""

    name: str
    objective: Objective
    """The loss of the task, unless the pipeline's scheduler says otherwise."""

    def example(
        self,
        module: nn.Module,
        batch: int = 1,
        tokens: int | None = None,
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.float32,
        seed: int = 0,
    ) -> Example:
        """Return keyword inputs that are valid for the host. `tokens`: None means its native number."""
        return self.inputs(Request(module, batch, tokens, Draw(device, dtype, seed)))

    @abstractmethod
    def inputs(self, request: Request) -> Example:
        """Return the keyword inputs that are asked for."""


def side_of(tokens: int | None, sample_size: int, patch: int) -> int:
    """Return the side, in latent pixels, of a square input that gives `tokens` tokens.

    >>> side_of(None, 32, 2), side_of(1024, 32, 2)
    (32, 64)
    """
    if tokens is None:
        return sample_size
    rows = isqrt(tokens)
    if rows < 1 or rows * rows != tokens:
        near = max(rows, 1) ** 2
        hint = f"take a square, for example {near} or {(max(rows, 1) + 1) ** 2}"
        raise fail("AS403", f"the host's tokens are a square grid, {tokens} is no square", None, hint)
    return rows * patch
