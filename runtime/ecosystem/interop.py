"""Compiled models in plain diffusers and transformers: classes that build the host and execute the instructions.

For every model class of the two libraries there is a class `Grafted<Class>`, made when it is asked for, that takes the
instructions from its config (the entry `archspec`), builds the host as the base was, and applies them. All else is
the host's own: forward, pipelines, generation, gradient checkpointing, adapters, `save_pretrained`. The classes live in
the module `archspec`, which resolves them by name, so `model_index.json` names them `["archspec", "Grafted..."]`.

    diffusers       config.json: `_class_name` is the grafted class
    transformers    config.json: `model_type` is `archspec` (see `graft_config`)

Files may be hard links of the base's (`compile --link`) and then hold tensors of removed modules, so tensors that the
model does not have are passed over in silence, as the libraries provide; missing ones are still reported.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterable
from dataclasses import replace
from functools import cache
from importlib import import_module
from typing import Any

from torch import nn

from archspec.diagnostics import ArchspecError, fail
from archspec.instructions import Instruction, Share
from archspec.runtime.model.apply import apply
from archspec.runtime.model.hosts import LIBRARIES, host_class
from archspec.runtime.model.program import KEY, PREFIX, read_graft


def component(name: str) -> Any:
    """Return what `archspec.<name>` is: a grafted class, or the identity autoencoder. AttributeError if nothing."""
    if name == "IdentityAutoencoder":
        from archspec.runtime.ecosystem.identity_autoencoder import IdentityAutoencoder

        return IdentityAutoencoder
    if not name.startswith(PREFIX):
        return _base_of_models(name)
    if name.endswith("Config"):
        return _config_class(name)
    for library in sorted(LIBRARIES, key=lambda library: library not in sys.modules):
        try:
            return grafted_class(library, name.removeprefix(PREFIX))
        except ArchspecError:
            continue
    raise AttributeError(f"module 'archspec' has no attribute '{name}': no library has a class of that name")


@cache
def grafted_class(library: str, architecture: str) -> Any:
    """Return `Grafted<architecture>`, a subclass of the host's class."""
    host = host_class(library, architecture)
    return _transformers_class(host) if library == "transformers" else _diffusers_class(host)


def _diffusers_class(host: Any) -> Any:
    def __init__(self: Any, *args: Any, archspec: Any = None, **kwargs: Any) -> None:
        host.__init__(self, *args, **kwargs)
        self.register_to_config(archspec=archspec)
        edit(self, archspec)

    parameters = list(inspect.signature(host.__init__).parameters.values())
    extra = inspect.Parameter(KEY, inspect.Parameter.KEYWORD_ONLY, default=None)
    __init__.__signature__ = inspect.Signature([*parameters, extra])  # type: ignore[attr-defined]
    body = {"__init__": __init__, "__module__": "archspec", "__doc__": document(host)}
    return type(PREFIX + host.__name__, (host,), body | {"_keys_to_ignore_on_load_unexpected": ["."]})


def _transformers_class(host: Any) -> Any:
    """While the host is built, the config says how deep the base was; then, how deep the result is."""
    from archspec.runtime.ecosystem.graft_config import config_class

    def __init__(self: Any, config: Any, *args: Any, **kwargs: Any) -> None:
        entry = getattr(config, KEY, None)
        for name, value in (read_graft(entry).base if entry else {}).items():
            setattr(config, name, value)
        host.__init__(self, config, *args, **kwargs)
        if not any(type(child).__module__ == "archspec" for child in self.children()):  # a head around a grafted body
            edit(self, entry)

    body = {
        "__init__": __init__,
        "__module__": "archspec",
        "__doc__": document(host),
        "config_class": config_class(host.config_class),
        "_keys_to_ignore_on_load_unexpected": ["."],
    }
    return type(PREFIX + host.__name__, (host,), body)


def document(host: Any) -> str:
    return f"{host.__name__} as edited by archspec; the config's `{KEY}` entry holds the instructions."


def edit(model: nn.Module, entry: Any) -> None:
    """Execute the instructions of a config entry on a freshly built host; none for an entry that is absent."""
    if entry is None:
        return
    try:
        apply(model, rebase(model, read_graft(entry).instructions))
    except ValueError as error:
        raise fail("AS645", f"the instructions do not fit {type(model).__name__}: {error}") from error


def rebase(model: nn.Module, program: Iterable[Instruction]) -> tuple[Instruction, ...]:
    """Fit the paths of a program to a class that is the host without its head, or the host with one.

    transformers wraps a base model (attribute `base_model_prefix`) in classes with heads: `model.layers` in one is
    `layers` in the other.
    """
    program, prefix = tuple(program), f"{getattr(model, 'base_model_prefix', '') or '-'}."
    paths = [path for instruction in program for path in _paths(instruction)]
    if all(_has(model, path) for path in paths):
        return program
    if all(_has(model, path.removeprefix(prefix)) for path in paths):
        return tuple(_moved(instruction, lambda path: path.removeprefix(prefix)) for instruction in program)
    if all(_has(model, prefix + path) for path in paths):
        return tuple(_moved(instruction, lambda path: prefix + path) for instruction in program)
    return program


def _paths(instruction: Instruction) -> tuple[str, ...]:
    return (instruction.path, instruction.to) if isinstance(instruction, Share) else (instruction.path,)


def _moved(instruction: Instruction, move: Any) -> Instruction:
    if isinstance(instruction, Share):
        return replace(instruction, path=move(instruction.path), to=move(instruction.to))
    return replace(instruction, path=move(instruction.path))


def _has(model: nn.Module, path: str) -> bool:
    try:
        model.get_submodule(path)
    except AttributeError:
        return False
    return True


def _config_class(name: str) -> Any:
    import transformers

    from archspec.runtime.ecosystem.graft_config import config_class

    host = getattr(transformers, name.removeprefix(PREFIX), None)
    if not (isinstance(host, type) and issubclass(host, transformers.PreTrainedConfig)):
        raise AttributeError(f"module 'archspec' has no attribute '{name}': transformers has no such config")
    return config_class(host)


def _base_of_models(name: str) -> Any:
    """Return diffusers' or transformers' base class of models, once the library is imported; diffusers asks the module
    `archspec` for it to learn how a component is loaded and saved."""
    library = next(library for library, (base, _) in LIBRARIES.items() if base == name)
    if library not in sys.modules:
        raise AttributeError(f"module 'archspec' has no attribute '{name}' until {library} is imported")
    return getattr(import_module(library), name)
