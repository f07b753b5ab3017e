"""Sites of a host of no known family, as a run of it shows them.

The headers of such a host give module paths alone (`archspec.families.unknown`). Here the captured calls fill in what
is certain, and nothing else:

* the contract, where a module is given a (batch, tokens, width) tensor and gives one of that shape back
* the port: by which parameter, and whether the tensor comes alone or at the head of a tuple
* the slot `norm` of torch's own norms, `attn` of the innermost such module around attention kernels over its own
  tokens, `mlp` of one that holds exactly two linear maps, width to hidden to width
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from archspec.compiler.capture import capture
from archspec.compiler.capture.model import base_tensors, build_structure
from archspec.compiler.capture.tracer import Call
from archspec.compiler.rewrite.graph import HostGraph
from archspec.host.excerpt import Excerpt
from archspec.host.structure import Port, Site, SiteShape, Structure
from archspec.runtime.families import family

NORMS = (nn.LayerNorm, nn.RMSNorm)
CAUSAL = ("ForCausalLM", "LMHeadModel")
"""Ends of transformers' class names whose models are causal by definition."""
MASK, ROTARY, CACHE = "attention_mask", "position_embeddings", "past_key_values"
"""The names that transformers gives these parameters throughout."""


def complete(structure: Structure) -> Structure:
    """Return the structure with what a run of the host shows; that of a known family is complete as it is."""
    if structure.family != "unknown":
        return structure
    model = build_structure(structure)
    base_tensors(structure, model)
    structure = _without_old_buffers(structure, model)
    return infer_structure(capture(model, family("unknown").example(model, device="meta")), structure)


def _without_old_buffers(structure: Structure, model: nn.Module) -> Structure:
    """Leave out what older versions of a host stored and this one computes (BERT's `position_ids`)."""
    computed = {name for name, _ in model.named_buffers()} - set(model.state_dict())
    tensors = {name: header for name, header in (structure.tensors or {}).items() if name not in computed}
    return replace(structure, tensors=tensors or None)


def infer_structure(graph: HostGraph, structure: Structure) -> Structure:
    """Fill the sites of `structure` from a captured run."""
    seen = _Seen(graph, structure)
    return replace(structure, sites=tuple(map(seen.site, structure.sites)))


class _Seen:
    """Reads sites off the calls of one run."""

    def __init__(self, graph: HostGraph, structure: Structure) -> None:
        self.graph, self.calls = graph, graph.calls
        self.causal = structure.architecture.endswith(CAUSAL)
        self.any_length = "input_ids" in graph.example
        self.contracts = {path: found for path, call in graph.calls.items() if (found := self._contract(path, call))}

    def site(self, site: Site) -> Site:
        """Return the site with its contract, if it has one."""
        found = self.contracts.get(site.path)
        if found is None:
            return site
        shape, port = found
        slot, more = ("block", {}) if site.slot == "block" else self._slot(site.path, shape)
        teacher = more.pop("teacher", {})
        return replace(site, slot=slot, shape=replace(shape, **more), port=port, teacher=teacher)

    def _contract(self, path: str, call: Call) -> tuple[SiteShape, Port] | None:
        """Return shape and port of a module that maps tokens to tokens."""
        if not path:
            return None
        first, returns = (call.result[0], len(call.result)) if isinstance(call.result, tuple) else (call.result, 0)
        if not isinstance(first, Tensor) or first.dim() != 3 or not first.is_floating_point():
            return None
        named = _named(self.graph.model.get_submodule(path), call)
        name = next((n for n, v in named.items() if isinstance(v, Tensor) and v.shape == first.shape), None)
        if name is None:
            return None
        tokens = None if self.any_length else first.shape[1]
        port = Port(
            name,
            returns,
            rotary=ROTARY if isinstance(named.get(ROTARY), tuple) else None,
            mask=MASK if MASK in named else None,
            cache=CACHE if CACHE in named else None,
        )
        return SiteShape(first.shape[2], tokens, causal=self.causal, rotary=port.rotary is not None), port

    def _slot(self, path: str, shape: SiteShape) -> tuple[str, dict[str, Any]]:
        module = self.graph.model.get_submodule(path)
        if isinstance(module, NORMS):
            return "norm", {}
        if attention := self._self_attention(path):
            heads, size, keys = attention
            return "attn", {"heads": heads, "head_dim": size, "kv_heads": keys}
        return self._mlp(path, module, shape)

    def _self_attention(self, path: str) -> tuple[int, int, int] | None:
        """Return (heads, size, key heads) of an attention over its own tokens that has no part which is one too."""
        call = self.calls[path]
        inner = any(p.startswith(f"{path}.") and self.calls[p].attention for p in self.contracts)
        others = [v for v in (*call.args, *call.kwargs.values()) if isinstance(v, Tensor) and v.dim() == 3]
        return call.attention if not inner and len(others) == 1 else None

    def _mlp(self, path: str, module: nn.Module, shape: SiteShape) -> tuple[str, dict[str, Any]]:
        parts = {
            name: part for name, part in module.named_modules() if any(True for _ in part.parameters(recurse=False))
        }
        maps = [(name, part) for name, part in parts.items() if isinstance(part, nn.Linear)]
        if len(maps) != 2 or len(parts) != 2:
            return "module", {}
        (up, first), (down, second) = maps
        sizes = first.in_features, first.out_features, second.in_features, second.out_features
        if sizes != (shape.width, second.in_features, first.out_features, shape.width):
            return "module", {}
        teacher = dict(_weights(path, {"up": (up, first), "down": (down, second)}))
        biases = {"bias": first.bias is not None, "out_bias": second.bias is not None}
        return "mlp", {"hidden": first.out_features, "teacher": teacher, **biases}


def _weights(path: str, maps: Mapping[str, tuple[str, nn.Linear]]) -> Iterator[tuple[str, Excerpt]]:
    """Yield canonical name, where the base has it."""
    for role, (name, module) in maps.items():
        for part, _ in module.named_parameters():
            yield f"{role}.{part}", Excerpt(f"{path}.{name}.{part}")


def _named(module: nn.Module, call: Call) -> dict[str, Any]:
    """Return the arguments of a call by parameter name."""
    names = list(inspect.signature(module.forward).parameters)
    return {**dict(zip(names, call.args, strict=False)), **call.kwargs}
