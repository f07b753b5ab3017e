"""Execute a program of instructions on a module tree.

    apply(model, program)      the model itself, changed in place: installs, then shares, then new block lists;
                               operators on a grid are told of each call's (`grids`)

It works alike on a model whose weights are real and on one on the meta device, and needs nothing of the compiler. New
modules get the dtype and device of the weights they replace; their values are whatever their constructors draw, for
loading or initialization to overwrite. Where the host counts its layers (transformers: `layer_idx`, for the key/value
cache), every attention of the result gets a number of its own, those of parallel branches and of tied blocks too, and
`config.num_hidden_layers` becomes the number of numbers: so a cache made from the config holds all of them, and code
that runs over `layers[:num_hidden_layers]` sees every block.

A program that does not fit the model raises ValueError, which names the instruction's path.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import nn

from archspec.instructions import Entry, Install, Instruction, Relist, Share, linked
from archspec.runtime.model.grids import follow_grid
from archspec.runtime.model.structures import Inserted, Linked, Parallel, Tied, numbered_modules
from archspec.runtime.operators import build_operator

DEPTH = "num_hidden_layers"
"""The config attribute by which transformers' models and caches count layers."""
PER_LAYER = ("layer_types",)
"""Config attributes that are lists with one entry per layer."""


def apply(model: nn.Module, program: Iterable[Instruction], device: torch.device | str | None = None) -> nn.Module:
    """Change `model` in place and return it. New modules go to `device`, by default to that of what they replace."""
    for instruction in program:
        match instruction:
            case Install():
                _install(model, instruction, device)
            case Share():
                _share(model, instruction)
            case Relist():
                _relist(model, instruction, device)
    _check_ties(model)
    follow_grid(model)
    return model


def _install(model: nn.Module, install: Install, device: torch.device | str | None) -> None:
    home, dtype = _placement(_module(model, install.path), model)
    operator = build_operator(install, device or home, dtype)
    operator.train(model.training)
    _put(model, install.path, operator)


def _share(model: nn.Module, share: Share) -> None:
    layer: Any = next((m.layer_idx for m in numbered_modules(_module(model, share.path))), None)
    _put(model, share.path, Tied(_module(model, share.to), layer))


def _relist(model: nn.Module, relist: Relist, device: torch.device | str | None) -> None:
    old = _module(model, relist.path)
    if not isinstance(old, nn.ModuleList) or len(old) != relist.length:
        raise ValueError(f"'{relist.path}' is not a list of {relist.length} blocks")
    home, dtype = _placement(old, model)
    blocks = [_entry(list(old), entry, relist, device or home, dtype) for entry in relist.entries]
    _link(blocks, relist, device or home, dtype)
    _put(model, relist.path, nn.ModuleList(blocks).train(model.training))
    _renumber(model, blocks, relist.entries)


def _entry(
    old: list[nn.Module], entry: Entry, relist: Relist, device: torch.device | str, dtype: torch.dtype
) -> nn.Module:
    width, streams = relist.width, relist.streams
    match entry.form:
        case "keep":
            return old[entry.members[0]]
        case "copy":
            return _copy(old[entry.members[0]])
        case "tie":
            return Tied(old[entry.members[0]])
        case "parallel":
            branches = (old[i] for i in entry.members)
            return Parallel(branches, entry.merge or "", width, device, dtype, streams, entry.beside)
        case "insert" if entry.operator:
            return Inserted(build_operator(entry.operator, device, dtype), old[entry.members[0]], width, streams)
    raise ValueError(f"unknown form of entry {entry.form!r}")


def _link(blocks: list[nn.Module], relist: Relist, device: torch.device | str, dtype: torch.dtype) -> None:
    """Put every block that a skip leaves from or ends in into a container, sources before what reads them."""
    inside, made = linked(relist), dict[int, Linked]()
    for position, entry in enumerate(relist.entries):
        member = entry.members[0]
        if entry.form == "keep" and member in inside:
            source, merge = (None, None) if entry.skip is None else (made[entry.skip], entry.merge)
            made[member] = Linked(blocks[position], source, merge, relist.width, device, dtype, relist.streams)
            blocks[position] = made[member]


def _copy(block: nn.Module) -> nn.Module:
    """Copy a block with weights of its own; what it merely refers to elsewhere is not copied."""
    inside = set(map(id, block.modules()))
    ties = [m.target for m in block.modules() if isinstance(m, Tied)]
    return copy.deepcopy(block, {id(t): t for t in ties if id(t) not in inside})


def _renumber(model: nn.Module, blocks: list[nn.Module], entries: tuple[Entry, ...]) -> None:
    """Give every place of the new list that is numbered a number of its own, in the order of execution."""
    places = [
        (place, index) for block, entry in zip(blocks, entries, strict=True) for place, index in _places(block, entry)
    ]
    numbered = [(place, index) for place, index in places if _is_numbered(place)]
    for number, (place, _) in enumerate(numbered):
        if isinstance(place, Tied):
            place.layer_idx = number
        else:
            for module in numbered_modules(place):
                module.layer_idx = number  # type: ignore[assignment]
    if numbered:
        _set_depth(model, [index for _, index in numbered])


def _places(block: nn.Module, entry: Entry) -> Iterator[tuple[nn.Module, int]]:
    """Yield the blocks that one entry runs, each with its index in the base's list."""
    parts = list(block.branches) if isinstance(block, Parallel) else [block]
    return zip(parts, entry.members, strict=True)


def _is_numbered(place: nn.Module) -> bool:
    return next(numbered_modules(place.target if isinstance(place, Tied) else place), None) is not None


def _set_depth(model: nn.Module, origin: list[int]) -> None:
    """Write the number of layers to the config; `origin` has, per layer, its index in the base."""
    config: Any = getattr(model, "config", None)
    config = config.get_text_config(decoder=True) if hasattr(config, "get_text_config") else config
    if not hasattr(config, DEPTH):
        return
    for name in PER_LAYER:
        values = getattr(config, name, None)
        if isinstance(values, list):
            setattr(config, name, [values[i] for i in origin])
    setattr(config, DEPTH, len(origin))


def _check_ties(model: nn.Module) -> None:
    """A tie to a module that is no longer in the tree would lose its weights on saving."""
    inside = set(map(id, model.modules()))
    for name, module in model.named_modules():
        if isinstance(module, Tied) and id(module.target) not in inside:
            raise ValueError(f"'{name}' shares the weights of a module that another instruction removes")


def _module(model: nn.Module, path: str) -> nn.Module:
    try:
        return model.get_submodule(path)
    except AttributeError as error:
        raise ValueError(f"the model has no module '{path}'") from error


def _put(model: nn.Module, path: str, module: nn.Module) -> None:
    parent, _, name = path.rpartition(".")
    owner = _module(model, parent)
    if name not in owner._modules:
        raise ValueError(f"the model has no module '{path}'")
    owner._modules[name] = module


def _placement(module: nn.Module, model: nn.Module) -> tuple[torch.device, torch.dtype]:
    """Return device and floating dtype of a module's weights, or of the model's when it has none."""
    for owner in (module, model):
        for tensor in owner.parameters():
            if tensor.is_floating_point():
                return tensor.device, tensor.dtype
    return torch.device("cpu"), torch.get_default_dtype()
