"""Where a difference comes from: a tuned checkpoint, a LoRA of peft, a file of differences or of BitDelta. Read tensor
by tensor.

Differences are float32 of float32 values, whatever the files hold: the difference of two bfloat16 numbers taken in
bfloat16 has lost most of what tuning did.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import safe_open
from torch import Tensor

from archspec.diagnostics import Collector, fail
from archspec.host.fingerprint import same_data
from archspec.host.headers import read_header
from archspec.host.strict_json import read_json
from archspec.host.structure import TensorHeader
from archspec.runtime.packs.export import CONFIG, PREFIX
from archspec.source import Span

Headers = Mapping[str, TensorHeader]
FLOATS = frozenset({"F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2"})


class Source(Protocol):
    """Gives differences to a base."""

    def names(self) -> Iterator[str]:
        """Yield the base's tensors that may differ, in the order of the base."""

    def delta(self, name: str) -> Tensor:
        """Return the difference, in the tensor's shape, float32."""


def read(header: TensorHeader, name: str) -> Tensor:
    """Return a tensor of a file, as it is stored."""
    with safe_open(header.file, framework="pt") as file:
        found: Tensor = file.get_tensor(name)
    return found


@dataclass(frozen=True)
class Tuned:
    """Tuned weights less the base's."""

    base: Headers
    tuned: Headers

    def names(self) -> Iterator[str]:
        return (name for name, header in self.base.items() if header.dtype in FLOATS and name in self.tuned)

    def delta(self, name: str) -> Tensor:
        return read(self.tuned[name], name).float() - read(self.base[name], name).float()


def check_tuned(
    base: Headers,
    tuned: Headers,
    spare: Collection[str],
    ties: Mapping[str, str],
    problems: Collector,
    span: Span | None,
) -> None:
    """Report what keeps the two from being one model before and after tuning: AS682. `spare`: names that either may
    hold beside the model's own (old buffers, repeats of tied tensors); `ties`: repeat -> what it repeats."""
    wrong = (
        *(
            f"unties '{name}', which repeats '{owner}' in the base"
            for name, owner in ties.items()
            if name in tuned and name not in base and owner in tuned and not same_data(tuned[name], tuned[owner])
        ),
        *(f"lacks '{n}' of the base" for n, h in base.items() if n not in tuned and h.dtype in FLOATS),
        *(f"has '{name}', which the base has not" for name in tuned if name not in base and name not in spare),
        *(
            f"has '{name}' of shape {header.shape}, the base of {base[name].shape}"
            for name, header in tuned.items()
            if name in base and header.shape != base[name].shape
        ),
        *(f"holds other whole numbers in '{name}', which no pack can change" for name in _counts_apart(base, tuned)),
    )
    hint = "a pack holds what tuning changed: give the base that this model was tuned from"
    told = (f"the tuned model {message}" for message in wrong)
    problems.report_few("AS682", told, "tensors are not the base's", span, hint)


def _counts_apart(base: Headers, tuned: Headers) -> Iterator[str]:
    """Yield the tensors of whole numbers that differ."""
    for name, header in base.items():
        other = tuned.get(name)
        if other and header.dtype not in FLOATS and header.shape == other.shape and not same_data(header, other):
            yield name


@dataclass(frozen=True)
class Vector:
    """A file whose tensors are the differences themselves, under the base's names."""

    base: Headers
    vector: Headers

    def names(self) -> Iterator[str]:
        return (name for name in self.base if name in self.vector)

    def delta(self, name: str) -> Tensor:
        return read(self.vector[name], name).float()


def check_vector(base: Headers, vector: Headers, problems: Collector, span: Span | None) -> None:
    """Report differences of what the base has not, or of another shape: AS682."""
    wrong = (
        *(f"'{name}' is of no tensor of the base" for name in vector if name not in base),
        *(
            f"'{name}' is of shape {h.shape}, the base's {base[name].shape}"
            for name, h in vector.items()
            if name in base and h.shape != base[name].shape
        ),
    )
    told, hint = (f"the difference {message}" for message in wrong), "its tensors are named as the base's"
    problems.report_few("AS682", told, "tensors are not the base's", span, hint)


@dataclass(frozen=True)
class Lora:
    """alpha / r B A of a LoRA in peft's form (https://arxiv.org/abs/2106.09685); `pairs`: tensor -> (A, B, scale).
    `turned`: tensors that are kept as (inputs, outputs), so that it is their transposed form that B A is added to."""

    base: Headers
    weights: Headers
    pairs: Mapping[str, tuple[str, str, float]]
    turned: Collection[str] = ()

    def names(self) -> Iterator[str]:
        return (name for name in self.base if name in self.pairs)

    def delta(self, name: str) -> Tensor:
        a, b, scale = self.pairs[name]
        product = read(self.weights[b], b).float() @ read(self.weights[a], a).float()
        return (scale * (product.T if name in self.turned else product)).reshape(self.base[name].shape)


def read_lora(
    folder: Path, base: Headers, is_turned: Callable[[str], bool], problems: Collector, span: Span | None
) -> Lora:
    """Read adapter_config.json and adapter_model.safetensors; what cannot be taken over is AS682. `is_turned`: whether
    a tensor of the base is kept as (inputs, outputs); peft goes by that as well, whatever its `fan_in_fan_out` says."""
    config = read_json(folder / CONFIG, "AS682", span)
    if kind := _other_kind(config):
        raise fail("AS682", f"'{folder}' is {kind}, not a plain LoRA", span, MERGED)
    alphas = _alphas(config, span)
    weights = read_header(folder / "adapter_model.safetensors", span)
    pairs: dict[str, tuple[str, str, float]] = {}
    more = sorted({_module(name) for name in weights if not PAIRED.search(name)})
    told = (f"the LoRA holds more of '{path}' than a low-rank pair of its weight" for path in more)
    problems.report_few("AS682", told, "modules of the LoRA", span, MERGED)
    refused = []
    for name in filter(PAIRED.search, weights):
        if name.endswith(".lora_B.weight") and name.replace(".lora_B.", ".lora_A.") in weights:
            continue
        module = name.removesuffix(".lora_A.weight")
        partner, path = f"{module}.lora_B.weight", module.removeprefix(PREFIX)
        if wrong := _no_pair(name, partner, base.get(f"{path}.weight"), weights, is_turned(f"{path}.weight")):
            refused.append(f"'{name}' of the LoRA {wrong}")
            continue
        pairs[f"{path}.weight"] = (name, partner, alphas.scale(path, weights[name].shape[0]))
    problems.report_few("AS682", refused, "tensors of the LoRA", span)
    return Lora(base, weights, pairs, frozenset(filter(is_turned, pairs)))


def _module(name: str) -> str:
    """Return the module of the base that a tensor of peft belongs to."""
    return name.removeprefix(PREFIX).rpartition(".")[0].removesuffix(".base_layer")


PAIRED = re.compile(r"\.lora_[AB]\.weight$")
MERGED = "merge it, and pack the tuned model"
PLAIN_STARTS = (None, True, False, "gaussian", "orthogonal", "eva")
"""Ways to begin a LoRA that leave the base as it is. PiSSA, OLoRA, CorDA, LoftQ and others take a part out of it."""
MORE_THAN_LORA = ("use_dora", "use_qalora", "use_bdlora", "alora_invocation_tokens", "layer_replication")


def _other_kind(config: Mapping[str, Any]) -> str | None:
    """Say what an adapter is if adding alpha / r B A to the base is not all that it does."""
    if config.get("peft_type") != "LORA":
        return repr(config.get("peft_type"))
    if key := next((key for key in MORE_THAN_LORA if config.get(key)), None):
        return f"a LoRA with '{key}'"
    start = config.get("init_lora_weights")
    return None if start in PLAIN_STARTS else f"a LoRA that began as {start!r}, which takes a part out of the base"


def _no_pair(name: str, partner: str, target: TensorHeader | None, weights: Headers, turned: bool) -> str | None:
    """Say what keeps a tensor and its partner from being A and B of an addition to `target`."""
    if not name.endswith(".lora_A.weight"):
        return "has no lora_A"
    if partner not in weights:
        return "has no lora_B"
    if target is None:
        return "adds to no tensor of the base"
    a, b = weights[name].shape, weights[partner].shape
    if len(a) != 2 or len(b) != 2 or a[0] != b[1] or (b[0], a[1]) != target.shape[:: -1 if turned else 1]:
        return f"and its lora_B are {a} and {b}; the base's tensor is {target.shape}"
    return None


@dataclass(frozen=True)
class Alphas:
    """`alpha` of all modules (None: the rank), and patterns of the end of a module's path, as peft has them."""

    alpha: float | None
    patterns: tuple[tuple[re.Pattern[str], float], ...]
    stabilized: bool

    def scale(self, module: str, rank: int) -> float:
        """Return alpha / r, or alpha / sqrt(r) for rank-stabilized LoRA (https://arxiv.org/abs/2312.03732)."""
        found = next((value for pattern, value in self.patterns if pattern.fullmatch(module)), self.alpha)
        return (rank if found is None else found) / (rank**0.5 if self.stabilized else rank)


def _alphas(config: Mapping[str, Any], span: Span | None) -> Alphas:
    alpha, patterns = config.get("lora_alpha"), config.get("alpha_pattern") or {}
    try:
        compiled = tuple((re.compile(rf"(?:.*\.)?(?:{key})"), float(value)) for key, value in patterns.items())
        return Alphas(None if alpha is None else float(alpha), compiled, bool(config.get("use_rslora")))
    except (AttributeError, TypeError, ValueError, re.error) as error:
        raise fail("AS682", f"alphas of the LoRA cannot be read: {error}", span) from error


@dataclass(frozen=True)
class BitDelta:
    """coeff (2 mask - 1) of a file of BitDelta (https://arxiv.org/abs/2402.10193, Eq. 1), and what it holds of whole
    tensors less the base's. `state`: the file's tensors."""

    base: Headers
    state: Mapping[str, Tensor]

    def names(self) -> Iterator[str]:
        return (n for n in self.base if n in self.state or f"{n.removesuffix('.weight')}.mask" in self.state)

    def delta(self, name: str) -> Tensor:
        if name in self.state:
            return self.state[name].float() - read(self.base[name], name).float()
        module = name.removesuffix(".weight")
        mask, coeff = self.state[f"{module}.mask"], self.state[f"{module}.coeff"]
        bits = (mask[:, None, :] >> torch.arange(32)[None, :, None]) & 1  # (in / 32, 32, out), low bit first
        return (2.0 * bits.reshape(-1, mask.shape[1]).T - 1) * coeff.float()


def check_bitdelta(base: Headers, state: Mapping[str, Tensor], problems: Collector, span: Span | None) -> None:
    """Report what is no part of a file of BitDelta for this base: AS682."""
    if not any(name.endswith(".mask") for name in state):
        problems.report("AS682", "the file has no mask of BitDelta", span, "of a tuned checkpoint write `tuned`")
        return
    refused = []
    for name, value in state.items():
        module, _, part = name.rpartition(".")
        target = base.get(f"{module}.weight")
        if part == "coeff" and f"{module}.mask" in state:
            wrong = value.numel() != 1
        elif part == "mask" and f"{module}.coeff" in state:
            wrong = target is None or value.dtype != torch.int32 or _unpacked(value) != target.shape
        else:
            wrong = name not in base or tuple(value.shape) != base[name].shape
        if wrong:
            refused.append(f"'{name}' of the file, {tuple(value.shape)}, fits no tensor of the base")
    problems.report_few("AS682", refused, "tensors of the file", span, "is it BitDelta's file of this base?")


def _unpacked(mask: Tensor) -> tuple[int, ...]:
    return (mask.shape[1], 32 * mask.shape[0]) if mask.dim() == 2 else ()


def finite(delta: Tensor, name: str, problems: Collector, span: Span | None) -> bool:
    """Report a difference that is no number somewhere: AS683."""
    good = bool(torch.isfinite(delta).all())
    if not good:
        count = int((~torch.isfinite(delta)).sum())
        message = f"the difference of '{name}' is not finite in {count} of {delta.numel()} places"
        problems.report("AS683", message, span, "one of the two models is damaged, or overflowed when it was saved")
    return good
