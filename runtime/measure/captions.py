"""Captions to sample by: the embeddings that a text encoder made, from a file, a row for each sample in turn.

The file is one of safetensors with `caption` (rows, tokens, width) and, where the host takes them, `pooled` (rows,
width) or `caption_mask` (rows, tokens): named as in data of latents.
"""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from archspec.diagnostics import fail
from archspec.host.headers import read_header
from archspec.runtime.objectives import Conditioning, conditioning
from archspec.runtime.store.home import Home

NAMES = ("caption", "caption_mask", "pooled")


def read_captions(path: Path, place: Home, samples: int) -> dict[str, Tensor]:
    """Return what the host is told of each sample, as `Request.texts` has it. AS353 where the file is not of its
    kind."""
    condition = conditioning(place)
    if condition.caption is None:
        raise fail("AS713", f"{place.architecture or 'the host'} takes no caption")
    shapes = {name: header.shape for name, header in read_header(path).items() if name in NAMES}
    problem = _problem(shapes, condition)
    if problem is not None:
        hint = "write one with safetensors: `caption`, and `pooled` or `caption_mask` beside it"
        raise fail("AS353", f"'{path}' does not fit {place.architecture}: {problem}", None, hint)
    tensors = load_file(path)
    rows = torch.arange(samples) % shapes["caption"][0]
    return {name: tensors[name][rows] for name in shapes}


def _problem(shapes: dict[str, tuple[int, ...]], condition: Conditioning) -> str | None:
    """Return what is wrong with tensors of these shapes."""
    width = condition.caption[1] if condition.caption else 0
    found = shapes.get("caption", ())
    if len(found) != 3 or found[2] != width or 0 in found:
        return f"'caption' is {found or 'missing'}, and it takes (rows, tokens, {width})"
    wanted = {"caption_mask": found[:2]}
    if condition.pooled is not None:
        wanted = {"pooled": (found[0], condition.pooled)}
        if "pooled" not in shapes:
            return f"'pooled' is missing, and it takes {wanted['pooled']}"
    wrong = next((name for name in shapes if name != "caption" and shapes[name] != wanted.get(name)), None)
    return f"'{wrong}' is {shapes[wrong]}, and it takes {wanted.get(wrong, 'none')}" if wrong else None
