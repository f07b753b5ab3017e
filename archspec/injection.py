"""An injection as data: what is taken from donors, where it goes, and when. The seam between the language and
`runtime/features`, as instructions are for operator grafts.

A spec's `inject` stanza is resolved to an `Injection`: presets are spelled out, selectors are module paths, no default
is open. It is kept in the lock of a compiled checkpoint and is all that the run time reads.

Times are flow times: 1 is noise, 0 is clean; of hosts that predict noise, the timestep over the number of training
steps. Steps and evaluations are counted from 0.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

VERSION = 1

Operation = Literal["append", "replace", "blend", "adain", "copy"]
Tap = Literal["attn_input", "block_input", "q", "k", "v"]
Position = Literal["matched", "same", "offset", "frame"]
State = Literal["inverted", "noised", "clean", "batch"]
Query = Literal["image", "context"]


@dataclass(frozen=True)
class Match:
    """Which token of the target each token of a donor stands for: the most similar one, by cosine in float32
    (FreeGraftor, https://arxiv.org/abs/2504.15958, Sec. 3.3)."""

    tap: Tap = "attn_input"
    threshold: float | None = None
    """Cosines must be above it."""
    cycle: float | None = None
    """Largest distance of a donor token to the one that its match is matched with in turn."""
    unit: Literal["token", "normalised"] = "token"
    """Of `cycle`; normalised: the grid is 2 wide and 2 high."""
    mutual: bool = False
    """Only pairs that are each other's nearest."""
    within: Literal["all", "masks"] = "all"
    """masks: only tokens within donor mask and target mask are candidates, both ways."""
    every: Literal["site", "step", "run"] = "site"
    """How often it is done: at every site of every evaluation, at the first site of a step, or once."""
    chunk: int = 1024
    """Donor tokens that are compared at a time: the working memory is chunk x tokens x 4 bytes."""


@dataclass(frozen=True)
class Gate:
    """Which donor tokens are taken, and which queries see them."""

    donor_mask: bool = True
    """Only tokens within the donor's mask, if it has one."""
    target_mask: bool = False
    """Only image tokens within the target's mask see them (`copy`, `blend`, `adain`: are changed)."""
    dropout: float = 0.0
    """Each token is left out with this probability (`constant`), or with this times the time (`time`)."""
    law: Literal["constant", "time"] = "time"
    scope: Literal["site", "step", "run"] = "site"
    """How often it is drawn."""
    memory: Literal["none", "cumulative"] = "none"
    """cumulative: a token that was once left out stays out, as in FreeGraftor's code (not in its paper)."""
    queries: tuple[Query, ...] = ("image", "context")
    """Streams whose queries see donors' keys."""


@dataclass(frozen=True)
class Graft:
    """One operation at some attentions. `strength`: added to the logits of donors' keys, nats. `weight`: of the output
    with donors' keys in a mean with that without (append, replace), of the donor's values (blend), of the donor's
    statistics (adain)."""

    op: Operation
    sites: tuple[str, ...]
    donors: tuple[str, ...]
    times: tuple[float, float] = (1.0, 0.0)
    """From and to, both included."""
    steps: tuple[int, int] | None = None
    """First, and the one after the last."""
    evaluations: Literal["all", "first", "last"] = "all"
    """Of solvers that evaluate the host several times a step."""
    rows: Literal["all", "conditional"] = "all"
    """Under classifier-free guidance: both branches or the conditional one."""
    match: Match | None = None
    gate: Gate = Gate()
    position: Position = "same"
    offset: tuple[int, int] = (0, 0)
    """Rows and columns, of position offset."""
    frame: int = 1
    """First place, of position frame (FLUX's leading axis)."""
    strength: float = 0.0
    weight: float = 1.0


@dataclass(frozen=True)
class Layout:
    """How a donor is laid into a collage: see `archspec.runtime.collage`."""

    phrase: str | None = None
    """What a detector looks for; None: the donor's name."""
    place: str | None = None
    """File of the mask of its place; None: where the template's own one is found."""
    erase: bool = True
    """What stands at `place` is removed from the template first."""
    scale: float = 1.0
    angle: float = 0.0
    """Degrees counterclockwise."""
    flip: bool = False
    align: Literal["centroid", "top", "bottom", "left", "right"] = "centroid"
    shift: tuple[float, float] = (0.0, 0.0)
    """Pixels to the right and down."""


@dataclass(frozen=True)
class Collage:
    """What a collage is made with: files and models, by path relative to the spec, or hub ids."""

    template: str | None = None
    detector: str | None = None
    segmenter: str | None = None
    inpainter: str = "opencv"
    box_threshold: float = 0.35
    text_threshold: float = 0.25


@dataclass(frozen=True)
class Donor:
    """Where features come from. `inverted`: its latents along an inversion by the solver; `noised`: mixed with one
    noise up to each time; `clean`: as they are, at time 0; `batch`: another sample of the batch that is drawn."""

    state: State = "inverted"
    image: str | None = None
    mask: str | None = None
    prompt: str | None = ""
    """What it is told; None: what the target is told."""
    guidance: float = 1.0
    """Of hosts that are told their guidance."""
    row: int | None = None
    """Of state batch."""
    seed: int = 0
    """Of state noised."""
    layout: Layout = Layout()


@dataclass(frozen=True)
class Injection:
    """All of it. `own`: a target token is matched with the donor that is most like it alone (`competition: owner`)."""

    grafts: tuple[Graft, ...]
    donors: Mapping[str, Donor] = field(default_factory=dict)
    state: State = "inverted"
    """Of donors that are named only when it is run; none are named here then, and grafts take from all of them."""
    competition: Literal["none", "owner"] = "none"
    cache: int = 0
    """Budget of donors' tokens kept from run to run, bytes; 0: donors run beside the target each time."""
    solver: Literal["fireflow", "euler", "midpoint", "host"] = "host"
    steps: int = 25
    guidance: float = 1.0
    noise: Literal["random", "donor", "collage"] = "random"
    collage: Collage = Collage()
    seed: int = 0
    preset: str | None = None
    version: int = VERSION

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @staticmethod
    def from_json(data: Any) -> Injection:
        """Read what `to_json` wrote; the data may be anyone's. Raises ValueError on anything else."""
        found = _read(Injection, data, "injection")
        assert isinstance(found, Injection)
        if found.version > VERSION:
            raise ValueError(f"version {found.version}; this archspec reads injections up to {VERSION}")
        unknown = [name for graft in found.grafts for name in graft.donors if name not in found.donors]
        if unknown:
            raise ValueError(f"no donor '{unknown[0]}'")
        return found


def _read(hint: Any, data: Any, where: str) -> Any:
    """Return `data` as a value of type `hint`: the dataclasses above, tuples, mappings, literals, plain values."""
    options, origin = get_args(hint), get_origin(hint)
    if origin in (Union, UnionType):
        if data is None and NoneType in options:
            return None
        return _read(next(option for option in options if option is not NoneType), data, where)
    if origin is tuple:
        if not isinstance(data, list | tuple) or (options[-1] is not Ellipsis and len(data) != len(options)):
            raise ValueError(f"{where} is a list")
        inner = options[:1] * len(data) if options[-1] is Ellipsis else options
        return tuple(_read(one, item, where) for one, item in zip(inner, data, strict=True))
    if origin is Literal:
        if data not in options:
            raise ValueError(f"{where} is {data!r}: not one of {options}")
        return data
    if not isinstance(data, Mapping) and (origin is not None or hint not in (int, float, str, bool)):
        raise ValueError(f"{where} is an object")
    if origin is not None:
        return {str(key): _read(options[1], value, f"{where}.{key}") for key, value in data.items()}
    return _plain(hint, data, where) if hint in (int, float, str, bool) else _node(hint, data, where)


def _plain(hint: Any, data: Any, where: str) -> Any:
    if hint is float and type(data) is int:
        return float(data)
    if type(data) is not hint:
        raise ValueError(f"{where} is {data!r}: not of type {hint.__name__}")
    return data


def _node(cls: Any, data: Mapping[str, Any], where: str) -> Any:
    hints = get_type_hints(cls)
    unknown = set(data) - {f.name for f in fields(cls)}
    if unknown:
        raise ValueError(f"{where} has no '{min(unknown)}'")
    try:
        return cls(**{name: _read(hints[name], value, f"{where}.{name}") for name, value in data.items()})
    except TypeError as error:
        raise ValueError(f"{where} is incomplete: {error}") from error
