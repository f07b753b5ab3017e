"""Instructions: the compiler's machine code, and the seam between `compiler/` and `runtime/`.

A program is a flat tuple of instructions in a fixed order: installs (paths of the base), then shares, then relists.
`runtime.apply` executes it on a module tree; `tensor_sources` says, without torch, where each tensor of the result
comes from. `lock.json` and the emitted `config.json` hold it as JSON.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from archspec.host.structure import Port, SiteShape


@dataclass(frozen=True)
class Install:
    """Put operator `operator` with `config` (complete: no None left open) in place of the module at `path`."""

    path: str
    slot: str
    operator: str
    version: int
    config: Mapping[str, Any]
    shape: SiteShape
    port: Port
    layer: int | None = None
    """Index that the host's cache knows the site by (transformers)."""
    do: Literal["install"] = "install"


@dataclass(frozen=True)
class Share:
    """Let the module at `path` use the weights of the module at `to`; it keeps none of its own."""

    path: str
    to: str
    do: Literal["share"] = "share"


@dataclass(frozen=True)
class Entry:
    """One entry of a new block list, by indices of the base's list.

    `keep`: block `members[0]`. `copy`: a copy of it with weights of its own. `tie`: it again, same weights.
    `parallel`: all `members` on the same input, outputs merged by `merge`.
    """

    form: Literal["keep", "copy", "tie", "parallel"]
    members: tuple[int, ...]
    merge: str | None = None


@dataclass(frozen=True)
class Relist:
    """Make the module list at `path` anew. `length` is its length in the base, `width` that of its blocks."""

    path: str
    length: int
    width: int
    entries: tuple[Entry, ...]
    returns: int = 0
    """As `Port.returns`, of a block."""
    do: Literal["relist"] = "relist"


Instruction = Install | Share | Relist
KINDS: Mapping[str, type[Instruction]] = {"install": Install, "share": Share, "relist": Relist}


def to_json(program: tuple[Instruction, ...]) -> list[dict[str, Any]]:
    """Return the program as plain data, `do` first."""
    return [{"do": i.do, **{k: v for k, v in asdict(i).items() if k != "do"}} for i in program]


def from_json(data: list[dict[str, Any]]) -> tuple[Instruction, ...]:
    """Read what `to_json` wrote. Raises ValueError that names the first thing it cannot read."""
    return tuple(_instruction(dict(item)) for item in data)


def _instruction(item: dict[str, Any]) -> Instruction:
    kind = item.pop("do", None)
    if kind not in KINDS:
        raise ValueError(f"unknown instruction {kind!r}")
    try:
        if kind == "install":
            shape = dict(item.pop("shape"))
            shape["grid"] = tuple(shape["grid"]) if shape.get("grid") else None
            return Install(shape=SiteShape(**shape), port=Port(**item.pop("port")), **item)
        if kind == "relist":
            entries = tuple(Entry(e["form"], tuple(e["members"]), e.get("merge")) for e in item.pop("entries"))
            return Relist(entries=entries, **item)
        return Share(**item)
    except (KeyError, TypeError) as error:
        raise ValueError(f"malformed {kind} instruction: {error}") from error


@dataclass(frozen=True)
class TensorSource:
    """Where a tensor of the result comes from: `base` names the base tensor (kept or copied), or it is new."""

    base: str | None = None
    shape: tuple[int, ...] | None = None
    """Of a new tensor; a kept one has the base's."""
    site: str | None = None
    """Path (in the base) of the site or list that a new tensor belongs to."""
    local: str = field(default="")
    """Name of a new tensor within its operator or merge."""
