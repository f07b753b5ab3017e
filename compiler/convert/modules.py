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


def _conv(target: str, source: str) -> Recipe:
    return {f"{target}.{leaf}": Part(f"{source}.{leaf}") for leaf in ("weight", "bias")}


def _window(path: str) -> Recipe:
    thirds = (linear(role, f"{path}.Wqkv", n, 3) for n, role in enumerate("qkv"))
    return {**{k: p for third in thirds for k, p in third.items()}, **linear("readout", f"{path}.out_proj")}


def _hyena_x(path: str) -> Recipe:
    ends = linear("project", f"{path}.in_proj") | linear("readout", f"{path}.out_proj")
    return {**ends, **_conv("conv", f"{path}.short_filter")}


def _mlp(path: str) -> Recipe:
    return {**linear("up", f"{path}.fc1"), **linear("readout", f"{path}.fc2")}


MODULES: tuple[Published, ...] = (
    Published(
        "swa",
        "attn",
        "local_attention",
        _names("Wqkv", "out_proj"),
        lambda shapes, width: {},
        _window,
        unseen=("window",),
    ),
    Published(
        "hyena_x",
        "attn",
        "hyena_x",
        _names("in_proj", "short_filter", "out_proj"),
        lambda shapes, width: {"kernel": shapes["short_filter.weight"][-1]},
        _hyena_x,
    ),
    Published(
        "mlp",
        "mlp",
        "mlp",
        _names("fc1", "fc2"),
        lambda shapes, width: {"ratio": shapes["fc1.weight"][0] / width},
        _mlp,
    ),
)


def recognise(slot: str, tensors: frozenset[str]) -> Published | None:
    """Return the published module with exactly these tensors."""
    return next((m for m in MODULES if m.slot == slot and m.tensors == tensors), None)
