"""The table of published operator modules (arXiv 2506.05340): how each is told from others, and where its tensors go.

A module is known by the names of its tensors alone; its parameters are read off their shapes. What no shape shows (how
wide a window is) comes from the published config, or from the command line. To add a module: one line in `MODULES`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from archspec.compiler.convert.recipe import Part, Recipe, Shapes, linear

Parameters = Mapping[str, Any]


@dataclass(frozen=True)
class Published:
    """One kind of module. `name` is the published one; `operator` is ours."""

    name: str
    slot: str
    operator: str
    tensors: frozenset[str]
    parameters: Callable[[Shapes, int], dict[str, Any]]
    """Shapes of its tensors by local name, and the host's width, to the operator's parameters."""
    recipe: Callable[[str], Recipe]
    """Path of the module in the state to the operator's tensors."""
    unseen: tuple[str, ...] = ()
    """Parameters that no shape shows."""


def _names(*modules: str) -> frozenset[str]:
    return frozenset(f"{module}.{leaf}" for module in modules for leaf in ("weight", "bias"))


def _window(path: str) -> Recipe:
    thirds = (linear(role, f"{path}.Wqkv", n, 3) for n, role in enumerate("qkv"))
    return {**{k: p for third in thirds for k, p in third.items()}, **linear("readout", f"{path}.out_proj")}


def _gated(path: str, **filters: str) -> Recipe:
    """Return the recipe of a gated convolution; `filters`: our name of a convolution, theirs."""
    ends = linear("project", f"{path}.in_proj") | linear("readout", f"{path}.out_proj")
    return {**ends, **{k: p for ours, theirs in filters.items() for k, p in linear(ours, f"{path}.{theirs}").items()}}


def _mamba(path: str) -> Recipe:
    names = {"project": "in_proj", "norm": "norm", "readout": "out_proj"}
    maps = {f"{ours}.weight": Part(f"{path}.{theirs}.weight") for ours, theirs in names.items()}
    own = {"dt_bias": "dt_bias", "a_log": "A_log", "skip": "D"}
    return {**maps, **linear("conv", f"{path}.conv1d"), **{k: Part(f"{path}.{name}") for k, name in own.items()}}


def _mamba_sizes(shapes: Shapes, width: int) -> dict[str, Any]:
    """One group, as the published ones: the convolution runs over the inner width and twice the state."""
    inner, heads = shapes["norm.weight"][0], shapes["dt_bias"][0]
    channels, _, taps = shapes["conv1d.weight"]
    state = (channels - inner) // 2
    return {"state": state, "conv": taps, "expand": inner / width, "head_dim": inner // heads}


def _taps(**names: str) -> Callable[[Shapes, int], dict[str, Any]]:
    """Return what reads kernel sizes off convolutions."""
    return lambda shapes, width: {ours: shapes[f"{theirs}.weight"][-1] for ours, theirs in names.items()}


def _ratio(shapes: Shapes, width: int) -> dict[str, Any]:
    return {"ratio": shapes["fc1.weight"][0] / width}


def _hyena_mlp(shapes: Shapes, width: int) -> dict[str, Any]:
    return {"kernel": shapes["short_filter.weight"][-1], "ratio": shapes["out_proj.weight"][1] / width}


def _mlp(path: str) -> Recipe:
    return {**linear("up", f"{path}.fc1"), **linear("readout", f"{path}.fc2")}


MAMBA = frozenset({"in_proj.weight", "dt_bias", "A_log", "D", "norm.weight", "out_proj.weight"})
WINDOW = _names("Wqkv", "out_proj")
SHORT, INNER = _names("in_proj", "short_filter", "out_proj"), _names("in_proj", "inner_filter", "out_proj")
MODULES: tuple[Published, ...] = (
    Published("swa", "attn", "local_attention", WINDOW, lambda shapes, width: {}, _window, unseen=("window",)),
    Published(
        "hyena_se",
        "attn",
        "hyena_se",
        SHORT | INNER,
        _taps(kernel="short_filter", inner_kernel="inner_filter"),
        lambda path: _gated(path, conv="short_filter", inner_conv="inner_filter"),
    ),
    Published(
        "hyena_x", "attn", "hyena_x", SHORT, _taps(kernel="short_filter"), lambda p: _gated(p, conv="short_filter")
    ),
    Published(
        "hyena_y",
        "attn",
        "hyena_y",
        INNER,
        _taps(kernel="inner_filter"),
        lambda p: _gated(p, inner_conv="inner_filter"),
    ),
    Published("mamba2", "attn", "mamba2", MAMBA | _names("conv1d"), _mamba_sizes, _mamba),
    Published("mlp", "mlp", "mlp", _names("fc1", "fc2"), _ratio, _mlp),
    Published("mlp_hyena_x", "mlp", "hyena_mlp", SHORT, _hyena_mlp, lambda p: _gated(p, conv="short_filter")),
)


def recognise(slot: str, tensors: frozenset[str]) -> Published | None:
    """Return the published module with exactly these tensors."""
    return next((m for m in MODULES if m.slot == slot and m.tensors == tensors), None)
