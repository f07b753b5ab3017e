"""Building a host: an instance of the ecosystem's own class, by its name in the config.

A class is looked up by name in `diffusers` or `transformers` and nowhere else, and must be a model class of that
library: a config can name no module path, and no code of a checkpoint is executed. On the device `meta` the
parameters hold no memory, so a host of any size is built in a moment, while buffers are real (on the CPU): tables
that the host computes when it is built, such as positions and rotary frequencies, stand in no checkpoint.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from importlib import import_module
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn

from archspec.diagnostics import fail, nearest

LIBRARIES: Mapping[str, tuple[str, str]] = {
    "diffusers": ("ModelMixin", "_class_name"),
    "transformers": ("PreTrainedModel", "architectures"),
}
"""Library -> its base class of models, and the key under which a config names the class."""


def host_class(library: str, architecture: str) -> type[nn.Module]:
    """Return the class `architecture` of a known library; anything else is refused by name."""
    if library not in LIBRARIES:
        raise fail("AS401", f"unknown library '{library}'", None, f"use one of {', '.join(LIBRARIES)}")
    module = import_module(library)
    found = getattr(module, architecture, None) if architecture.isidentifier() else None
    base = getattr(module, LIBRARIES[library][0])
    if not (isinstance(found, type) and issubclass(found, base)):
        hints = nearest(architecture, (name for name in dir(module) if name[:1].isupper()))
        raise fail("AS401", f"{library} has no model class '{architecture}'", None, *hints)
    return found


def build(config: Mapping[str, Any], library: str, architecture: str, device: str | torch.device = "meta") -> nn.Module:
    """Return the host in evaluation mode: on `meta` without weights, else with random ones of torch's global state."""
    cls = host_class(library, architecture)
    try:
        if torch.device(device).type == "meta":
            from accelerate import init_empty_weights

            with init_empty_weights(include_buffers=False), _undrawn():
                model: Any = _construct(cls, library, config)
            if library == "transformers":
                model.tie_weights()  # registering each parameter anew has untied them
        else:
            with nullcontext() if torch.device(device).type == "cpu" else torch.device(device):
                model = _construct(cls, library, config)
        host: nn.Module = model.eval()
        return host
    except (TypeError, ValueError, KeyError, AttributeError, NotImplementedError, ZeroDivisionError) as error:
        raise fail("AS402", f"{architecture} refuses its config: {error}") from error


@contextmanager
def _undrawn() -> Iterator[None]:
    """Let torch's initializers do nothing: on `meta` there is nothing to draw, and it would be half of a build."""
    fills = (name for name in vars(nn.init) if name.endswith("_") and not name.startswith("_"))
    idle: dict[str, Any] = dict.fromkeys(fills, _same)
    with patch.multiple(nn.init, **idle):
        yield


def _same(tensor: Tensor, *_: Any, **__: Any) -> Tensor:
    return tensor


def _construct(cls: Any, library: str, config: Mapping[str, Any]) -> Any:
    if library == "diffusers":
        known = inspect.signature(cls.__init__).parameters
        model: nn.Module = cls.from_config({key: value for key, value in config.items() if key in known})
        return model
    from transformers import AutoConfig

    rest = {key: value for key, value in config.items() if key != "model_type"}
    built: nn.Module = cls(AutoConfig.for_model(config["model_type"], **rest))
    return built


def read_config(folder: Path) -> dict[str, Any]:
    """Return a model folder's config."""
    config: dict[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return config
