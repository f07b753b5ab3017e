"""The operators' modules: each in the file of its signature's name, loaded when first used."""

from __future__ import annotations

from functools import cache
from importlib import import_module

import torch

from archspec.instructions import Install
from archspec.operators import restore, signature
from archspec.runtime.operators.base import Operator


@cache
def module_class(name: str) -> type[Operator]:
    """Return the module class of an operator: the class named as its signature's. Raises KeyError if unknown."""
    wanted = signature(name).__name__
    found: type[Operator] = getattr(import_module(f"archspec.runtime.operators.{name}"), wanted)
    return found


def build_operator(install: Install, device: torch.device | str = "meta", dtype: torch.dtype | None = None) -> Operator:
    """Return the operator of an instruction. Its weights are arbitrary until they are loaded or initialized.

    torch's global random state is left as it was.
    """
    config = restore(install.operator, install.config)
    with torch.random.fork_rng(devices=[]), torch.device(device):
        operator = module_class(install.operator)(config, install.shape, install.port, install.layer).joined()
    return operator.to(dtype) if dtype is not None else operator
