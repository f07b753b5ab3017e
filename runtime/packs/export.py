"""A pack as a LoRA of peft (https://arxiv.org/abs/2106.09685): B = U sqrt(S), A = sqrt(S) V^T, alpha = rank.

Terms of low rank go over as they are. Matrices with other terms are decomposed to a rank that is asked for. What has no
matrix (norms, biases), and embeddings, which peft treats otherwise, has no place in a LoRA of linear maps.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import sqrt
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from archspec.diagnostics import Collector
from archspec.families import keeps_turned
from archspec.packs.roles import EMBED
from archspec.packs.terms import LowRank, Term, Within, matrix_shape
from archspec.runtime.model.excerpts import add_to
from archspec.runtime.packs.decode import Parts, factors, inside
from archspec.runtime.packs.reading import Pack
from archspec.runtime.store.files import check_replaceable, publish

PREFIX, CONFIG = "base_model.model.", "adapter_config.json"
"""Of peft: what names of modules begin with, and the file of a LoRA's settings."""
Pair = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Exported:
    """`ranks`: module -> rank; `left_out`: tensors that are not in the LoRA; `error`: relative to the pack."""

    ranks: dict[str, int]
    left_out: tuple[str, ...]
    error: float

    def to_json(self) -> dict[str, Any]:
        return {"ranks": self.ranks, "left_out": list(self.left_out), "error": self.error}


def export_lora(pack: Pack, out: Path, rank: int | None = None, partial: bool = False) -> Exported:
    """Write a pack as a LoRA folder. AS630 where something else stands there, AS676 for terms that are not of low rank,
    unless `rank` approximates them, and for tensors that no LoRA holds, unless `partial` leaves them out."""
    check_replaceable(out, CONFIG, "LoRA")
    names = [name for name, change in pack.header.tensors.items() if change.terms]
    left_out = [name for name in names if not _is_linear(name, pack)]
    _check(pack, names, left_out, rank, partial)
    tensors: dict[str, Tensor] = {}
    ranks: dict[str, int] = {}
    lost = whole = 0.0
    for name in (name for name in names if name not in left_out):
        down, up = _pair(pack, name, rank)
        delta, module = pack.delta(name), name.removesuffix(".weight")
        lost += float((delta - up @ down).double().square().sum())
        whole += float(delta.double().square().sum())
        if _is_turned(pack, name):
            down, up = up.T.contiguous(), down.T.contiguous()
        tensors[f"{PREFIX}{module}.lora_A.weight"], tensors[f"{PREFIX}{module}.lora_B.weight"] = down, up
        ranks[module] = len(down)
    with publish(out) as folder:
        save_file(tensors, folder / "adapter_model.safetensors", {"format": "pt"})
        (folder / CONFIG).write_text(json.dumps(_config(pack, ranks), indent=2) + "\n", "utf-8")
    return Exported(ranks, tuple(left_out), sqrt(lost / whole) if whole else 0.0)


def _is_linear(name: str, pack: Pack) -> bool:
    return len(pack.change(name).shape) == 2 and name.endswith(".weight") and not EMBED.search(name)


def _is_turned(pack: Pack, name: str) -> bool:
    """Whether peft takes the map's matrix as the transposed tensor (`fan_in_fan_out`)."""
    return keeps_turned(pack.header.base.get("architecture", ""), name)


def _is_low_rank(name: str, pack: Pack) -> bool:
    terms = pack.change(name).terms
    return all(isinstance(t, LowRank) for term in terms for t in (term.terms if isinstance(term, Within) else (term,)))


def _check(pack: Pack, names: list[str], left_out: list[str], rank: int | None, partial: bool) -> None:
    problems = Collector()
    if left_out and not partial:
        message = f"{len(left_out)} tensors have no place in a LoRA, such as '{left_out[0]}'"
        problems.report("AS676", message, None, "leave them out with `--partial`")
    other = [name for name in names if name not in left_out and not _is_low_rank(name, pack)]
    if other and rank is None:
        message = f"{len(other)} matrices are not held by low rank alone, such as '{other[0]}'"
        problems.report("AS676", message, None, "approximate them with `--rank 32`")
    problems.raise_if_errors()


def _pair(pack: Pack, name: str, rank: int | None) -> Pair:
    """Return A (rank, columns) and B (rows, rank), float32, of the matrix as it is kept."""
    if _is_low_rank(name, pack):
        return _joined(list(_balanced(pack, name)))
    u, s, v = torch.linalg.svd(pack.delta(name), full_matrices=False)
    root = s[:rank].sqrt()
    return (root[:, None] * v[:rank]).contiguous(), (u[:, :rank] * root).contiguous()


def _balanced(pack: Pack, name: str) -> Iterator[Pair]:
    """Yield the factors of each term, its singular values shared out by their roots."""
    shape = matrix_shape(pack.change(name).shape)
    for up, down in (pair for term, parts in pack.terms(name) for pair in _factors(term, parts, shape)):
        root = (up.norm(dim=0) / down.norm(dim=1).clamp(min=1e-30)).clamp(min=1e-30).sqrt()
        yield down * root[:, None], up / root


def _factors(term: Term, parts: Parts, shape: tuple[int, ...]) -> Iterator[Pair]:
    """Yield U S and V^T of the terms in a term, for the whole matrix: zero where an excerpt is not."""
    if isinstance(term, LowRank):
        yield factors(term, parts, shape)
        return
    assert isinstance(term, Within)
    rows, columns = shape[::-1] if term.of.transposed else shape
    of = replace(term.of, transposed=False)
    for inner, stored in inside(term, parts):
        for up, down in _factors(inner, stored, term.of.shape(shape)):
            if of.axis == 0:
                add_to(of, wide := torch.zeros(rows, up.shape[1]), up)
                up = wide
            else:
                add_to(of, wide := torch.zeros(len(down), columns), down)
                down = wide
            yield (down.T, up.T) if term.of.transposed else (up, down)


def _joined(pairs: list[Pair]) -> Pair:
    return torch.cat([down for down, _ in pairs]).contiguous(), torch.cat([up for _, up in pairs], 1).contiguous()


def _config(pack: Pack, ranks: dict[str, int]) -> dict[str, Any]:
    most = max(ranks.values(), default=1)
    return {
        "peft_type": "LORA",
        "base_model_name_or_path": pack.header.base.get("from"),
        "r": most,
        "lora_alpha": most,
        "rank_pattern": {module: rank for module, rank in sorted(ranks.items()) if rank != most},
        "alpha_pattern": {module: rank for module, rank in sorted(ranks.items()) if rank != most},
        "target_modules": sorted(ranks),
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": any(_is_turned(pack, f"{module}.weight") for module in ranks),
        "inference_mode": True,
        "task_type": None,
    }
