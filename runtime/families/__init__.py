"""The table of families, by `Structure.family`. A family is one file here, its language side in `archspec.families`."""

from __future__ import annotations

from archspec.diagnostics import InternalError
from archspec.runtime.families.base import Example, Family
from archspec.runtime.families.bert import Bert
from archspec.runtime.families.decoder import Decoder
from archspec.runtime.families.dit import DiT
from archspec.runtime.families.flux import Flux
from archspec.runtime.families.gpt2 import GPT2
from archspec.runtime.families.pixart import PixArt
from archspec.runtime.families.sana import Sana
from archspec.runtime.families.sd3 import SD3
from archspec.runtime.families.unknown import Unknown
from archspec.runtime.families.vit import ViT

HOSTS: tuple[Family, ...] = (
    DiT(),
    PixArt(),
    Sana(),
    SD3(),
    Flux(),
    Decoder("llama"),
    Decoder("mistral"),
    Decoder("qwen2"),
    Decoder("qwen3"),
    GPT2(),
    Bert(),
    ViT(),
    Unknown(),
)
FAMILIES: dict[str, Family] = {family.name: family for family in HOSTS}

__all__ = ["FAMILIES", "Example", "Family", "family"]


def family(name: str) -> Family:
    """Return the running side of a family, by its name in a `Structure`."""
    if name.lower() not in FAMILIES:
        raise InternalError(f"family '{name}' has no entry in archspec.runtime.families")
    return FAMILIES[name.lower()]
