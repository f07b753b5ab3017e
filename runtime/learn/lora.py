"""Low-rank training of old weights with peft: adapters put in before a finetuning, merged into plain weights after it.

What is emitted holds no adapter, so it loads like any other checkpoint. Adapters start from the task's seed, and begin
as nothing (B = 0), so a run that was killed puts the same ones in before it loads its last checkpoint. A moving average
is one of the factors.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import nn

from archspec.diagnostics import fail
from archspec.runtime.model.linear import is_linear

NAME = "archspec"


@dataclass(frozen=True)
class LoraSettings:
    """As `archspec.language.stages.Lora`; `sites` are paths in the base."""

    rank: int
    alpha: float
    dropout: float = 0.0
    sites: tuple[str, ...] = ()


def adapt(model: nn.Module, settings: LoraSettings, places: Iterable[str], seed: int) -> None:
    """Put an adapter on every linear map under the paths `places`. What trained before still does. AS733 if none."""
    from peft import LoraConfig, inject_adapter_in_model

    names = _maps(model, tuple(f"{path}." for path in places))
    if not names:
        raise fail("AS733", "lora finds no old linear map to add to", None, "name other targets, or leave lora out")
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    config = LoraConfig(r=settings.rank, lora_alpha=settings.alpha, lora_dropout=settings.dropout, target_modules=names)
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="fan_in_fan_out")  # peft sets it for each map by what it is
        torch.manual_seed(seed)
        inject_adapter_in_model(config, model, NAME)
    for parameter in trained:
        parameter.requires_grad_(True)


def _maps(model: nn.Module, homes: tuple[str, ...]) -> list[str]:
    """Return the linear maps under `homes`."""
    maps = (name for name, module in model.named_modules() if is_linear(module))
    return [name for name in maps if name.startswith(homes)] if homes else []


def merge(model: nn.Module) -> list[str]:
    """Put the sums in place of the adapted maps; return the names of the weights that changed."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    found = [(name, module) for name, module in model.named_modules() if isinstance(module, BaseTunerLayer)]
    for name, module in found:
        module.merge()
        parent, _, leaf = name.rpartition(".")
        setattr(model.get_submodule(parent), leaf, module.get_base_layer())
    return [f"{name}.weight" for name, _ in found]
