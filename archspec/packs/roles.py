"""Roles: what a tensor is for, told from the sites of its host and from its name. Every tensor has exactly one."""

from __future__ import annotations

import re
from collections.abc import Mapping

from archspec.host.structure import Structure, inside

ROLES = ("embed", "head", "attn", "cross_attn", "mlp", "norm", "bias", "other")
NORM = re.compile(r"(^|[._])(norm\w*|\w*layernorm|ln_?\w*|rmsnorm)$", re.IGNORECASE)
"""The last part of the path of a norm's module."""
EMBED = re.compile(r"embed|\bwte\b|\bwpe\b", re.IGNORECASE)
HEAD = re.compile(r"(^|\.)(lm_head|classifier|score|pooler|proj_out\w*|cls|head|decoder)\.", re.IGNORECASE)

SLOTS = {
    "cross_attn": re.compile(r"cross_?attn|encoder_attn|attn2", re.IGNORECASE),
    "attn": re.compile(r"att(n|ention)", re.IGNORECASE),
    "mlp": re.compile(r"mlp|\bff|feed_forward|intermediate|\d\.output\.dense$", re.IGNORECASE),
}
"""Where only names are at hand: the slot that a path of modules inside a block tells."""
_INSIDE = re.compile(r"\.\d+\.(?=.)")


def roles(tensors: Mapping[str, object], structure: Structure) -> dict[str, str]:
    """Return tensor -> role. Biases of norms count as norms; other biases as biases, wherever they stand."""
    slots = {path: site.role for site in structure.sites if site.role in ROLES for path in site.paths}
    owners = {w.tensor: site.role for site in structure.sites if site.role in ROLES for w in site.teacher.values()}
    return {name: _role(name, slots, owners) for name in tensors}


def role_by_name(name: str) -> str:
    """Return a tensor's role where no host is at hand. Where a host's sites are known, `roles` is right more often.

    >>> role_by_name("encoder.layer.0.output.dense.weight"), role_by_name("model.layers.1.self_attn.q_proj.bias")
    ('mlp', 'bias')
    """
    module = name.rpartition(".")[0]
    inside = bool(_INSIDE.search(name))
    slot = next((slot for slot, pattern in SLOTS.items() if inside and pattern.search(module)), None)
    return _role(name, {module: slot} if slot else {}, {})


def _role(name: str, slots: Mapping[str, str], owners: Mapping[str, str]) -> str:
    module = name.rpartition(".")[0]
    slot = owners.get(name) or next((slots[path] for path in slots if inside(module, {path})), "")
    if slot == "norm" or NORM.search(module):
        return "norm"
    if name.endswith("bias"):
        return "bias"
    if slot:
        return slot
    return "embed" if EMBED.search(module) else "head" if HEAD.search(name) else "other"
