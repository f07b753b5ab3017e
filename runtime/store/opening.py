"""Opening any model to run it: a compiled checkpoint, or a plain folder of diffusers or transformers.

Weights kept in half precision are computed with in float32 on the CPU (half precision is slower there) and as they
are stored elsewhere, unless `dtype` says otherwise.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from archspec.diagnostics import fail
from archspec.families import identify
from archspec.runtime.model.hosts import host_class
from archspec.runtime.model.program import KEY
from archspec.runtime.store.home import Home
from archspec.runtime.store.load import load

DTYPES: Mapping[str, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def open_model(place: Home, device: str | torch.device = "cpu", dtype: torch.dtype | None = None) -> nn.Module:
    """Return the model in evaluation mode on `device`."""
    if dtype is None and torch.device(device).type == "cpu":
        dtype = torch.float32
    if KEY in place.config:
        return load(place.model, device, dtype)
    library, architecture = identify(place.config)
    cls: Any = host_class(library, architecture)
    word = "torch_dtype" if library == "diffusers" else "dtype"
    try:
        model: nn.Module = cls.from_pretrained(place.model, local_files_only=True, **{word: dtype or "auto"})
    except (OSError, ValueError, RuntimeError) as error:
        first = str(error).partition("\n")[0]
        raise fail("AS714", f"{library} cannot load '{place.model}': {first}") from error
    return model.to(device).eval()


def best_device() -> str:
    """Return the fastest device at hand."""
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"
