"""What tests of packs share: a tuned model beside a tiny base, and a spec that packs it."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from archspec.compiler.packing.make import Made
from archspec.compiler.packing.pack import pack_spec
from archspec.host.locate import Located, structure_of
from archspec.packs.roles import roles

WEIGHTS = "model.safetensors"


def tuned_from(base: Path, out: Path, size: float = 0.02, rank: int = 4, dtype: torch.dtype | None = None) -> Path:
    """Write a model whose matrices differ from the base's by about `rank` triplets and some noise, the rest by noise.

    `dtype`: of both; the base is then copied beside it, as `<out>-base`."""
    if dtype is not None:
        base = _copied(base, out.with_name(f"{out.name}-base"), lambda name, value: value.to(dtype))
    generator = torch.Generator().manual_seed(0)

    def change(name: str, value: Tensor) -> Tensor:
        delta = 0.1 * size * torch.randn(value.shape, generator=generator)
        if value.dim() == 2:
            u = torch.randn(value.shape[0], rank, generator=generator)
            delta += size * u @ torch.randn(rank, value.shape[1], generator=generator) / rank
        return (value.float() + delta).to(value.dtype)

    return _copied(base, out, change)


def _copied(base: Path, out: Path, change: object) -> Path:
    shutil.copytree(base, out)
    tensors = load_file(base / WEIGHTS)
    assert callable(change)
    changed = {n: change(n, v) if v.is_floating_point() else v for n, v in tensors.items()}
    save_file(changed, out / WEIGHTS, {"format": "pt"})
    return out


def weights(folder: Path) -> dict[str, Tensor]:
    found: dict[str, Tensor] = load_file(folder / WEIGHTS)
    return found


def packed(folder: Path, base: Path, stanza: str, name: str = "skill") -> tuple[Made, Path]:
    """Make the pack of a stanza (a YAML flow map) and return it with its file."""
    folder.mkdir(parents=True, exist_ok=True)
    spec = folder / f"{name}.yaml"
    spec.write_text(f"name: {name}\nbase: {base}\npack: {stanza}\n", "utf-8")
    return pack_spec(spec, folder / f"{name}.skillpack.safetensors")


def rules(base: Path, default: str = "[dense]", **special: str) -> str:
    """Return rules for every role that a base has, so that nothing is left to a budget."""
    structure = structure_of(Located(base))
    present = sorted(set(roles(structure.tensors or {}, structure).values()))
    return f"rules: [{', '.join(f'{{of: {role}, store: {special.get(role, default)}}}' for role in present)}]"
