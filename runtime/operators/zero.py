"""The operator that contributes nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from archspec.host.structure import SiteShape
from archspec.operators.zero import Zero as Signature
from archspec.runtime.operators import memory
from archspec.runtime.operators.base import EMPTY, Context, Operator


class Zero(Operator):
    """y = 0."""

    signature = Signature

    def mix(self, x: Tensor, context: Context = EMPTY) -> Tensor:
        memory.count(context, x)
        return torch.zeros_like(x)

    @staticmethod
    def reference(x: Tensor, state: Mapping[str, Tensor], config: Any, shape: SiteShape, context: Context) -> Tensor:
        return torch.zeros_like(x)
