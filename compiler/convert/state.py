"""A published pickle as named tensors. Nothing in it is executed: only tensors and plain containers are unpickled.

Files that torch wrote since 1.6 are mapped, so that a tensor is read when it is used.
"""

from __future__ import annotations

import pickle
import re
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from archspec.diagnostics import fail

HOLDERS = ("ema", "model", "state_dict")
"""Keys under which training code keeps weights, the best first: published models are their moving average."""
State = Mapping[str, Tensor]


def read_state(path: Path) -> State:
    """Return name -> tensor of a pickle, in the order of the file. AS650 where it is damaged or would run code."""
    if not path.is_file():
        raise fail("AS650", f"there is no file '{path}'", None, "name a .pt file, or a published .yaml config")
    try:
        with warnings.catch_warnings(action="ignore"):
            found = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except (pickle.UnpicklingError, RuntimeError, ValueError, EOFError, OSError, KeyError, AttributeError) as error:
        hint = "only files that hold nothing but tensors are read; download it again if it should be one"
        raise fail("AS650", f"'{path.name}' cannot be read as tensors: {_reason(error)}", None, hint) from error
    return _weights(found, path)


def _reason(error: Exception) -> str:
    """Return what a file is instead, of the long advice that torch gives."""
    text = re.sub(r"\x1b\[[0-9;]*m", "", str(error)).strip()
    if named := re.search(r"GLOBAL ([\w.]+)", text):
        return f"it would run '{named[1]}'"
    if isinstance(error, pickle.UnpicklingError | KeyError):
        return "it is no pickle of tensors, or damaged"
    return text.partition("\n")[0][:160] or type(error).__name__


def _weights(found: Any, path: Path) -> State:
    while isinstance(found, Mapping):
        holder = next((key for key in HOLDERS if isinstance(found.get(key), Mapping)), None)
        if holder is None:
            break
        found = found[holder]
    if not isinstance(found, Mapping) or not any(isinstance(value, Tensor) for value in found.values()):
        raise fail(
            "AS650", f"'{path.name}' holds no weights", None, f"weights stand under {', '.join(HOLDERS)}, or alone"
        )
    return {str(name).removeprefix("module."): value for name, value in found.items() if isinstance(value, Tensor)}
