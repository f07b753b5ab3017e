"""The table of host families. To add one: a file here with its `FAMILY`, a line in the table, its running side in
`archspec.runtime.families`. A host of no family is read by `archspec.families.unknown`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from archspec.diagnostics import fail
from archspec.families import bert, dit, flux, gpt2, llama, mistral, pixart, qwen, sana, sd3, unknown, vit
from archspec.families.base import Family, Shape
from archspec.host.structure import Structure, TensorHeader
from archspec.source import Span

FAMILIES: Mapping[str, Family] = {
    family.name: family
    for family in (
        dit.FAMILY,
        pixart.FAMILY,
        sana.FAMILY,
        sd3.FAMILY,
        flux.FAMILY,
        llama.FAMILY,
        mistral.FAMILY,
        qwen.QWEN2,
        qwen.QWEN3,
        gpt2.FAMILY,
        bert.FAMILY,
        vit.FAMILY,
    )
}

CLASS_KEYS: Mapping[str, str] = {"diffusers": "_class_name", "transformers": "architectures"}
"""Library -> the key under which its configs name the model class."""

GRAFT = "archspec"
"""The key under which the config of a compiled checkpoint holds its instructions."""


def identify(config: Mapping[str, Any], span: Span | None = None) -> tuple[str, str]:
    """Return (library, class name) that a config states.

    >>> identify({"architectures": ["LlamaForCausalLM"]})
    ('transformers', 'LlamaForCausalLM')
    """
    for library, key in CLASS_KEYS.items():
        found = config.get(key)
        name = found[0] if isinstance(found, list) and found else found
        if isinstance(name, str) and name.isidentifier():
            return library, name
    raise fail("AS605", "config.json names no model class", span, "write '_class_name' or 'architectures' in it")


def family_of(config: Mapping[str, Any]) -> Family | None:
    """Return the family of the host that a config describes, None when it is of no known one."""
    library, architecture = identify(config)
    return next((f for f in FAMILIES.values() if f.claims(library, architecture, config)), None)


def describe(
    config: Mapping[str, Any], tensors: Mapping[str, TensorHeader] | None = None, span: Span | None = None
) -> Structure:
    """Return the structure of the host with this config and, when they are at hand, these tensors.

    Whatever the config says that its family does not understand is an error at `span`.
    """
    if config.get(GRAFT):
        hint = "name its base, and inherit its edits with `extends`"
        raise fail("AS609", "the base is itself a compiled checkpoint", span, hint)
    library, architecture = identify(config, span)
    for family in FAMILIES.values():
        if current := family.claims(library, architecture, config):
            return family.structure(current, config, tensors, span)
    return unknown.structure(library, architecture, config, tensors)


def computed_tensors(structure: Structure) -> frozenset[str]:
    """Return the tensors of the host's checkpoint that are no parameters, as far as its family says."""
    family = FAMILIES.get(structure.family)
    return family.computed if family else frozenset()


def keeps_turned(architecture: str, tensor: str) -> bool:
    """Say whether a host's tensor is the weight of a linear map that is kept as (inputs, outputs).

    >>> keeps_turned("GPT2Model", "h.0.attn.c_attn.weight"), keeps_turned("LlamaModel", "layers.0.mlp.up_proj.weight")
    (True, False)
    """
    module, _, part = tensor.rpartition(".")
    family = next((f for f in FAMILIES.values() if architecture in f.architectures), None)
    return family is not None and part == "weight" and module.rpartition(".")[2] in family.turned


def expected_tensors(structure: Structure) -> Mapping[str, Shape] | None:
    """Return name -> shape of every tensor that the config calls for, None for a host of no known family."""
    family = FAMILIES.get(structure.family)
    return family.tensors(structure.architecture, structure.config) if family else None


def tied_tensors(structure: Structure) -> Mapping[str, str]:
    """Return tensor that a checkpoint may repeat -> the tensor whose weights it uses."""
    family = FAMILIES.get(structure.family)
    return family.tied(structure.architecture, structure.config) if family else {}
