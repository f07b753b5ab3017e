"""Hosts of no known family: inputs are made from the parameter names of `forward` and the sizes in the config.

A rule is used only where its name has one meaning in the library (`pixel_values`, `hidden_states` of a diffusers
transformer). A required parameter that no rule covers is an error that names it: better than a guess.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from archspec.diagnostics import fail
from archspec.runtime.families.base import TEXT_TOKENS, Example, Family, Objective, Request


def _latent(r: Request) -> Tensor:
    """(batch, channels, side, side), or (batch, tokens, channels) for hosts that are given positions (FLUX)."""
    if r.get("axes_dims_rope") is not None and r.get("sample_size") is None:
        return r.draw.normal(r.batch, r.tokens or 1024, r.get("in_channels", default=4))
    return r.latents()


def _pixels(r: Request) -> Tensor:
    size = r.get("image_size", default=224)
    if r.tokens is not None and r.tokens != (native := (size // r.get("patch_size", default=16)) ** 2):
        raise fail("AS403", f"the host takes {native} tokens, not {r.tokens}", None, "leave out the number of tokens")
    return r.draw.normal(r.batch, r.get("num_channels", default=3), size, size)


def _context(r: Request) -> Tensor:
    width = r.get("joint_attention_dim", "caption_channels", "cross_attention_dim")
    return r.draw.normal(r.batch, TEXT_TOKENS, width)


RULES: Mapping[str, Callable[[Request], Any]] = {
    "input_ids": Request.ids,
    "pixel_values": _pixels,
    "hidden_states": _latent,
    "timestep": Request.times,
    "class_labels": lambda r: r.draw.integers(r.get("num_embeds_ada_norm", "num_classes", default=1), r.batch),
    "encoder_hidden_states": _context,
    "encoder_attention_mask": lambda r: r.draw.ones(r.batch, TEXT_TOKENS),
    "pooled_projections": lambda r: r.draw.normal(r.batch, r.get("pooled_projection_dim")),
    "guidance": lambda r: r.draw.ones(r.batch),
    "img_ids": lambda r: r.draw.ones(r.tokens or 1024, 3),
    "txt_ids": lambda r: r.draw.ones(TEXT_TOKENS, 3),
    "use_cache": lambda r: False,
}
OPTIONAL: Mapping[str, Callable[[Request], bool]] = {
    "timestep": lambda r: True,
    "encoder_hidden_states": lambda r: bool(r.get("joint_attention_dim", "caption_channels", "cross_attention_dim")),
    "pooled_projections": lambda r: bool(r.get("pooled_projection_dim")),
    "guidance": lambda r: bool(r.get("guidance_embeds")),
    "class_labels": lambda r: bool(r.get("num_embeds_ada_norm")),
    "img_ids": lambda r: r.get("axes_dims_rope") is not None,
    "txt_ids": lambda r: r.get("axes_dims_rope") is not None,
    "use_cache": lambda r: True,
}
"""Parameters that have a default in `forward`, and when the host needs them nevertheless."""


class Unknown(Family):
    name = "unknown"
    objective: Objective = "lm"

    def inputs(self, request: Request) -> Example:
        main = getattr(request.module, "main_input_name", "hidden_states")
        names = list(inspect.signature(request.module.forward).parameters.values())
        return {p.name: _make(p.name, request) for p in names if _needed(p, main, request)}


def _needed(parameter: inspect.Parameter, main: str, request: Request) -> bool:
    if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
        return False
    if parameter.default is parameter.empty or parameter.name == main:
        return True
    return parameter.name in OPTIONAL and OPTIONAL[parameter.name](request)


def _make(name: str, request: Request) -> Any:
    if name not in RULES:
        hint = f"known are {', '.join(RULES)}"
        raise fail("AS404", f"cannot make an input '{name}' for {type(request.module).__name__}", None, hint)
    return RULES[name](request)
