"""Hosts as the compiler needs them: built from a structure, with random weights, with the names of their tensors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import nn

from archspec.diagnostics import fail
from archspec.host.structure import Structure, TensorHeader
from archspec.language.edits import Freeze, Replace, Share
from archspec.runtime.model.hosts import build
from archspec.semantics.layout import base_shapes
from archspec.semantics.resolve import ResolvedSpec


def build_structure(structure: Structure, device: str = "meta") -> nn.Module:
    """Build the host of a structure; torch's global random state is left as it was."""
    with torch.random.fork_rng(devices=[]):
        return build(structure.config, structure.library, structure.architecture, device)


def edited_paths(resolved: ResolvedSpec) -> tuple[str, ...]:
    """Return the sites within blocks that edits name: they must be single nodes of the graphs."""
    verbs = (Replace, Share, Freeze)
    sites = (site for edit in resolved.edits if isinstance(edit.edit, verbs) for site in edit.sites)
    return tuple(dict.fromkeys(path for site in sites if site.slot != "block" for path in site.paths))


@dataclass(frozen=True)
class BaseTensors:
    """Name -> shape of the base's tensors, and a structure that knows them."""

    structure: Structure
    shapes: Mapping[str, tuple[int, ...]]


def base_tensors(structure: Structure, model: nn.Module) -> BaseTensors:
    """Return the base's tensors: of its headers or config, else of the built host.

    A checkpoint whose tensors are not named as the host's modules is refused: paths would mean two things.
    """
    shapes = base_shapes(structure)
    if shapes is None:
        headers = {name: TensorHeader("F32", tuple(p.shape), "", 0, 0) for name, p in model.named_parameters()}
        return BaseTensors(replace(structure, tensors=headers), {n: h.shape for n, h in headers.items()})
    known = {name for name, _ in (*model.named_parameters(remove_duplicate=False), *model.named_buffers())}
    stray = next((name for name in shapes if name not in known), None)
    if stray is not None:
        hint = "load it and save it again with save_pretrained(folder, save_original_format=False)"
        raise fail(
            "AS407", f"tensor '{stray}' of the base is named after no module of {structure.architecture}", None, hint
        )
    return BaseTensors(structure, shapes)


def randomize(model: nn.Module, seed: int) -> None:
    """Draw every parameter anew: gates that start from zero would hide what is behind them."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.is_floating_point():
                fan = parameter[0].numel() if parameter.dim() > 1 else 1
                scale = fan**-0.5 if parameter.dim() > 1 else 0.1
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * scale)
