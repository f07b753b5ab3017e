"""Instructions: the compiler's machine code, and the seam between `compiler/` and `runtime/`.

A program is a flat tuple of instructions in a fixed order: installs (paths of the base), then shares, then relists.
`runtime.apply` executes it on a module tree; `tensor_sources` says, without torch, where each tensor of the result
comes from. `lock.json` and the emitted `config.json` hold it as JSON.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from archspec.host.structure import EXIT, Port, SiteShape, Streams


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

    @property
    def is_exit(self) -> bool:
        """Whether it only takes away a site's second module (`Port.exit`): nothing that a reader asked for."""
        return self.slot == EXIT


@dataclass(frozen=True)
class Share:
    """Let the module at `path` use the weights of the module at `to`; it keeps none of its own."""

    path: str
    to: str
    do: Literal["share"] = "share"


@dataclass(frozen=True)
class Entry:
    """One entry of a new block list, by indices of the base's list.

    `keep`: block `members[0]`; with `skip`, on its input merged (by `merge`) with the output of the earlier block
    `skip`. `copy`: a copy of it with weights of its own. `tie`: it again, same weights. `parallel`: all `members` on
    the same input, outputs merged by `merge`. `insert`: `operator` in a residual branch of its own, behind block
    `members[0]`.
    """

    form: Literal["keep", "copy", "tie", "parallel", "insert"]
    members: tuple[int, ...]
    merge: str | None = None
    skip: int | None = None
    operator: Install | None = None
    beside: tuple[str, ...] = ()
    """Of parallel blocks, the streams beside their own that come out of all of them."""

    @property
    def maps(self) -> tuple[str, ...]:
        """The learned maps that merge parallel blocks, by their names in the container: one for each stream."""
        return merge_names(self.beside) if self.form == "parallel" and self.merge_widths else ()

    @property
    def merge_widths(self) -> int:
        """How many widths the learned map of the merge reads; 0 where the merge has no weights, or there is none."""
        if self.merge not in LEARNED_MERGES:
            return 0
        if self.form == "parallel":
            return len(self.members)
        return 2 if self.merge == "linear" else 1


@dataclass(frozen=True)
class Relist:
    """Make the module list at `path` anew. `length` is its length in the base, `width` that of its blocks."""

    path: str
    length: int
    width: int
    entries: tuple[Entry, ...]
    returns: int = 0
    """As `Port.returns`, of a block."""
    streams: Streams = ()
    """As `Port.streams`, of the first block."""
    do: Literal["relist"] = "relist"


def merge_names(beside: Iterable[str]) -> tuple[str, ...]:
    """Return the names of the maps that merge the own stream of parallel blocks and those beside it.

    >>> merge_names(["text"])
    ('merge', 'merge_text')
    """
    return ("merge", *(f"merge_{stream}" for stream in beside))


LEARNED_MERGES = frozenset({"linear", "residual_linear"})
"""Merges with weights: a linear map to one width."""


def linked(relist: Relist) -> frozenset[int]:
    """Return the blocks (by index in the base) that a skip leaves from or ends in: each is within a container."""
    ends = ((entry.skip, entry.members[0]) for entry in relist.entries if entry.skip is not None)
    return frozenset(index for pair in ends for index in pair)


def homes(relist: Relist, *, ties: bool = False) -> Iterator[tuple[str, int]]:
    """Yield (path in the result, index in the base) of every block of the new list; ties only when asked for."""
    inside = linked(relist)
    for position, entry in enumerate(relist.entries):
        path = f"{relist.path}.{position}"
        if entry.form == "parallel":
            yield from ((f"{path}.branches.{k}", member) for k, member in enumerate(entry.members))
        elif entry.form == "keep" and entry.members[0] in inside:
            yield f"{path}.block", entry.members[0]
        elif entry.form != "insert" and (entry.form != "tie" or ties):
            yield path, entry.members[0]


def added(relist: Relist) -> Iterator[tuple[str, str, Entry]]:
    """Yield (place, path in the result, entry) of what a new list has beside blocks and merges of parallel ones.

    A place is no module of the base: `<block>.after` of an inserted operator, `<block>.skip` of the map that merges a
    skip into a block's input.
    """
    for position, entry in enumerate(relist.entries):
        block = f"{relist.path}.{entry.members[0]}"
        if entry.form == "insert":
            yield f"{block}.{AFTER}", f"{relist.path}.{position}.operator", entry
        elif entry.skip is not None and entry.merge_widths:
            yield f"{block}.{SKIP}", f"{relist.path}.{position}.merge", entry


AFTER, SKIP = "after", "skip"
"""Last parts of the places of `added`."""


Instruction = Install | Share | Relist
KINDS: Mapping[str, type[Instruction]] = {"install": Install, "share": Share, "relist": Relist}


def to_json(program: tuple[Instruction, ...]) -> list[dict[str, Any]]:
    """Return the program as plain data, `do` first."""
    return [_plain(i) for i in program]


def _plain(instruction: Instruction) -> dict[str, Any]:
    data = {"do": instruction.do, **{k: v for k, v in asdict(instruction).items() if k != "do"}}
    operators = (entry["operator"] for entry in data.get("entries", ()))
    installs = [item for item in (data, *operators) if item and "port" in item]
    ports, shapes = ([item[name] for item in installs] for name in ("port", "shape"))
    _omit((data, *ports), "streams", ())
    for tables, name, default in (
        (ports, "places", ()),
        (ports, "interleaved", False),
        (ports, "through", None),
        (ports, "foreign", 0),
        (shapes, "foreign", 0),
        (shapes, "beside", None),
        (shapes, "context_first", False),
        (shapes, "out_map", True),
    ):
        _omit(tables, name, default)
    for name, default in (("skip", None), ("operator", None), ("beside", ())):
        _omit(data.get("entries", ()), name, default)
    return data


def _omit(tables: Iterable[dict[str, Any] | None], name: str, default: Any) -> None:
    """Leave an entry out where it says what its absence says."""
    for table in tables:
        if table and name in table and table[name] == default:
            del table[name]


def from_json(data: list[dict[str, Any]]) -> tuple[Instruction, ...]:
    """Read what `to_json` wrote. Raises ValueError that names the first thing it cannot read."""
    return tuple(_instruction(dict(item)) for item in data)


def _instruction(item: dict[str, Any]) -> Instruction:
    kind = item.pop("do", None)
    if kind not in KINDS:
        raise ValueError(f"unknown instruction {kind!r}")
    try:
        if kind == "install":
            return _install(item)
        if kind == "relist":
            entries = tuple(_entry(dict(entry)) for entry in item.pop("entries"))
            return Relist(entries=entries, streams=_streams(item.pop("streams", ())), **item)
        return Share(**item)
    except (KeyError, TypeError) as error:
        raise ValueError(f"malformed {kind} instruction: {error}") from error


def _install(item: dict[str, Any]) -> Install:
    shape = dict(item.pop("shape"))
    shape["grid"] = tuple(shape["grid"]) if shape.get("grid") else None
    port = dict(item.pop("port"))
    streams = _streams(port.pop("streams", ()))
    places = tuple(port.pop("places", ()))
    return Install(shape=SiteShape(**shape), port=Port(streams=streams, places=places, **port), **item)


def _streams(data: Iterable[Any]) -> Streams:
    return tuple((name, index) for name, index in data)


def _entry(item: dict[str, Any]) -> Entry:
    operator = item.pop("operator", None)
    members, beside = tuple(item.pop("members")), tuple(item.pop("beside", ()))
    installed = _install(dict(operator)) if operator else None
    return Entry(members=members, operator=installed, beside=beside, **item)


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
