"""The option `--device`, the same for every verb that runs a model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])


def device_option(function: F) -> F:
    """Add `--device`; a device that is none, or is not here, is a mistake of usage."""
    text = "cpu, cuda, cuda:1, mps.  [default: the fastest at hand]"
    return click.option("--device", callback=_present, help=text)(function)


def _present(_: click.Context, __: click.Parameter, value: str | None) -> str | None:
    if value is None:
        return None
    import torch

    try:
        device = torch.device(value)
    except RuntimeError:
        raise click.BadParameter(f"'{value}' is no device; write cpu, cuda, cuda:1 or mps") from None
    counts = {"cpu": 1, "cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available())}
    if (device.index or 0) >= counts.get(device.type, 0):
        raise click.BadParameter(f"there is no device '{value}' here")
    return value
