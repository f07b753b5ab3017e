"""Reduced hosts: the same blocks, wiring and numbers of heads at a small width, for the numerical half of the proof.

The config of a known family is narrowed (size of a head, vocabulary, classes, side of the input) and the spec is
resolved anew on the structure that it describes. So the reduced model has every block, edit and instruction of the
real one, and costs milliseconds. Settings that a spec states in numbers may not fit a small host (a rank above the
width, a window above the grid); larger reductions are tried then. Sizes differ from one another (36 tokens, width 64
of 16 heads), so that mixed-up axes show.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from archspec.diagnostics import ArchspecError
from archspec.families import FAMILIES, describe, family_of
from archspec.host.structure import Structure
from archspec.semantics.resolve import ResolvedSpec, resolve

SIZES = ((4, 6), (4, 16), (4, 32), (16, 32))
"""(size of a head, most patches along a side) of the reductions, in the order in which they are tried."""


def _dit(config: Mapping[str, Any], head_dim: int, most: int) -> dict[str, Any]:
    patch, side = config.get("patch_size", 2), config.get("sample_size", 32)
    small = min(side, patch * most)
    return {"attention_head_dim": head_dim, "num_embeds_ada_norm": 10, "sample_size": small}


def _pixart(config: Mapping[str, Any], head_dim: int, most: int) -> dict[str, Any]:
    head_dim *= 3  # the embedding of sizes is made of thirds of the width
    width = head_dim * config.get("num_attention_heads", 16)
    patch, side = config.get("patch_size", 2), config.get("sample_size", 128)
    small = min(side, patch * most)
    own = {"attention_head_dim": head_dim, "cross_attention_dim": width, "sample_size": small}
    sized = config.get("use_additional_conditions")
    own["use_additional_conditions"] = side == 128 if sized is None else sized
    return own | ({"caption_channels": 8} if config.get("caption_channels") else {})


def _sana(config: Mapping[str, Any], head_dim: int, most: int) -> dict[str, Any]:
    width = head_dim * config.get("num_attention_heads", 70)
    side = min(config.get("sample_size", 32), config.get("patch_size", 1) * most)
    own = {"attention_head_dim": head_dim, "cross_attention_head_dim": head_dim, "cross_attention_dim": width}
    return own | {"caption_channels": 8, "sample_size": side}


def _sd3(config: Mapping[str, Any], head_dim: int, most: int) -> dict[str, Any]:
    width = head_dim * config.get("num_attention_heads", 18)
    side = min(config.get("sample_size", 128), config.get("patch_size", 2) * most)
    own = {"attention_head_dim": head_dim, "caption_projection_dim": width, "sample_size": side}
    return own | {"pos_embed_max_size": most, "joint_attention_dim": 12, "pooled_projection_dim": 8}


def _flux(config: Mapping[str, Any], head_dim: int, most: int) -> dict[str, Any]:
    head_dim *= 2  # rotary tables of three axes, each of an even size
    axes = [head_dim - 4, 2, 2]
    own = {"attention_head_dim": head_dim, "axes_dims_rope": axes, "in_channels": 4, "out_channels": 4}
    return own | {"joint_attention_dim": 12, "pooled_projection_dim": 8}


def _decoder(config: Mapping[str, Any], head_dim: int, most: int) -> dict[str, Any]:
    width = head_dim * config.get("num_attention_heads", 32)
    own = {"hidden_size": width, "intermediate_size": 2 * width, "vocab_size": 64}
    family = family_of(config)
    sized = {"head_dim": head_dim} if family and "head_dim" in family.handled else {}
    words = {key: None for key in ("bos_token_id", "eos_token_id", "pad_token_id") if key in config}
    return own | sized | words


def _gpt2(config: Mapping[str, Any], head_dim: int, most: int) -> dict[str, Any]:
    width = head_dim * config.get("n_head", 12)
    words = {key: None for key in ("bos_token_id", "eos_token_id", "pad_token_id") if key in config}
    return {"n_embd": width, "n_inner": 2 * width, "vocab_size": 64, **words}


def _bert(config: Mapping[str, Any], head_dim: int, most: int) -> dict[str, Any]:
    width = head_dim * config.get("num_attention_heads", 12)
    return {"hidden_size": width, "intermediate_size": 2 * width, "vocab_size": 64, "pad_token_id": 0}


def _vit(config: Mapping[str, Any], head_dim: int, most: int) -> dict[str, Any]:
    width = head_dim * config.get("num_attention_heads", 12)
    side = min(config.get("image_size", 224), config.get("patch_size", 16) * most)
    return {"hidden_size": width, "intermediate_size": 2 * width, "image_size": side, "pooler_output_size": None}


NARROWED: Mapping[str, Callable[[Mapping[str, Any], int, int], dict[str, Any]]] = {
    "dit": _dit,
    "pixart": _pixart,
    "sana": _sana,
    "sd3": _sd3,
    "flux": _flux,
    **{name: _decoder for name, family in FAMILIES.items() if family.task == "text"},
    "gpt2": _gpt2,
    "bert": _bert,
    "vit": _vit,
}
"""Family -> the config entries of its reduced form."""


def reduced(resolved: ResolvedSpec) -> ResolvedSpec | None:
    """Return the same spec on a reduced host, None where there is no reduction that every edit fits."""
    return next(_candidates(resolved), None)


def _candidates(resolved: ResolvedSpec) -> Iterator[ResolvedSpec]:
    structure = resolved.structure
    narrow = NARROWED.get(structure.family)
    if narrow is None or structure.family not in FAMILIES:
        return
    for size in SIZES:
        try:
            found = resolve(resolved.spec, _described(structure, narrow(structure.config, *size)))
        except ArchspecError:
            continue
        if _fits(found):
            yield found


def _described(structure: Structure, changes: Mapping[str, Any]) -> Structure:
    return replace(describe({**structure.config, **changes}), probe=structure.probe)


def _fits(resolved: ResolvedSpec) -> bool:
    pairs = ((c, s) for e in resolved.edits for c, s in zip(e.configs, e.sites, strict=False))
    return not any(any(config.problems(site.shape)) for config, site in pairs)
