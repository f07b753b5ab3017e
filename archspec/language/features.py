"""The stanza `inject`: features of donors put into a host's attention while it draws.

What stands beside `grafts` is the default of each of them; what a graft states itself counts for it alone. A preset is
such a stanza that archspec brings along (`presets/`), and what is written beside it is laid over it, key by key.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

from archspec.injection import Operation, Position, Query, State, Tap
from archspec.language.fields import Node, arg, node
from archspec.language.selectors import Selector

Preset = Literal["freegraftor", "shared_attention", "style_aligned", "consistory", "masactrl", "personalize_anything"]
Often = Literal["site", "step", "run"]
NAME = r"[A-Za-z_]\w*"


@node
class Donor(Node):
    """Where features come from."""

    called: ClassVar[str | None] = "an entry of `donors`"
    shorthand: ClassVar[str | None] = "image"
    image: str | None = arg(
        "image, path relative to the spec; may be given to `archspec inject`", default=None, path="file"
    )
    mask: str | None = arg("mask of the subject in it: white is inside", default=None, path="file")
    state: State | None = arg(
        "its latents at each time: inverted: along an inversion; noised: mixed with one noise; clean: as they are, at "
        "time 0; batch: another sample that is drawn beside; default: the stanza's",
        default=None,
    )
    prompt: str | None = arg("what its branch is told; null: what the target is told", default="")
    guidance: float = arg("guidance that its branch is told, of hosts that are told it", default=1.0, least=0)
    row: int | None = arg("state batch: its number in the batch, from 0", default=None, least=0)
    phrase: str | None = arg(
        "what a detector looks for, here and in the template; default: the donor's name", default=None
    )
    place: str | None = arg("mask of the place that it is put to in a collage", default=None, path="file")
    erase: bool = arg("of a collage: what the template shows at `place` is removed first", default=True)
    scale: float = arg("of a collage: size, beside that of the place", default=1.0, above=0)
    angle: float = arg("of a collage: turn, degrees counterclockwise", default=0.0)
    flip: bool = arg("of a collage: mirrored left to right", default=False)
    align: Literal["centroid", "top", "bottom", "left", "right"] = arg(
        "of a collage: what is laid on the same of the place", default="centroid"
    )
    shift: tuple[float, ...] = arg("of a collage: then moved right and down, pixels", default=(0.0, 0.0))
    seed: int = arg("state noised: seed of its noise", default=0, least=0)


@node
class Match(Node):
    """Which token of the target each of the donor's stands for: the most similar one by cosine, in float32."""

    tap: Tap = arg("features that are compared: of what attention or the block reads, or q, k, v", default="attn_input")
    threshold: float | None = arg("cosines must be above it", default=None, least=-1, most=1, example=0.2)
    cycle: float | None = arg(
        "farthest that a token's match may be matched back, in `unit`", default=None, least=0, example=1.5
    )
    unit: Literal["token", "normalised"] = arg("of `cycle`; normalised: the grid is 2 wide and high", default="token")
    mutual: bool = arg("only tokens that are each other's most similar", default=False)
    within: Literal["all", "masks"] = arg("masks: nothing outside of both masks is compared", default="all")
    every: Often = arg("how often: at every site, at the first site of a step, once a run", default="site")
    chunk: int = arg("donor tokens compared at a time", default=1024, least=1)


@node
class Gate(Node):
    """Which donor tokens are taken, and which queries see them."""

    donor_mask: bool = arg("only tokens within the donor's mask, where it has one", default=True)
    target_mask: bool = arg(
        "only image tokens within the target's mask, where it has one, see or take anything", default=False
    )
    dropout: float = arg("probability that a token is left out", default=0.0, least=0, most=1)
    law: Literal["constant", "time"] = arg("time: the probability is this times the time, 1 to 0", default="time")
    scope: Often = arg("how often it is drawn", default="site")
    memory: Literal["none", "cumulative"] = arg("cumulative: what was once left out stays out", default="none")
    queries: tuple[Query, ...] = arg("streams whose queries see donors' keys", default=("image", "context"))


@node
class Graft(Node):
    """One operation on the attention of its sites."""

    called: ClassVar[str | None] = "an entry of `grafts`"
    shorthand: ClassVar[str | None] = "op"
    op: Operation = arg(
        "append: donors' keys and values beside the image's own; replace: in their place; blend: outputs at paired "
        "tokens mixed; adain: queries and keys get the donor's mean and deviation; copy: tokens before the block",
        example="append",
    )
    donors: tuple[str, ...] = arg("of these donors; default: all", default=())
    into: Selector | None = arg("attentions; default: the stanza's", default=None)
    times: tuple[float, ...] | None = arg("from and to, 1 is noise, 0 clean; default: the stanza's", default=None)
    steps: tuple[int, ...] | None = arg("first step, and the one after the last; default: the stanza's", default=None)
    evaluations: Literal["all", "first", "last"] | None = arg(
        "of solvers that evaluate the host several times a step; default: the stanza's", default=None
    )
    rows: Literal["all", "conditional"] | None = arg(
        "under guidance: both branches, or the conditional one; default: the stanza's", default=None
    )
    match: Match | None = arg("default: the stanza's; none: each token stands for the one at its place", default=None)
    gate: Gate | None = arg("default: the stanza's", default=None)
    position: Position | None = arg(
        "where donors' keys stand: at their matches, their own places, moved, in another frame; default: the stanza's",
        default=None,
    )
    offset: tuple[int, ...] = arg("position offset: rows and columns", default=(0, 0))
    frame: int = arg("position frame: the first place of FLUX's three", default=1)
    strength: float | None = arg("added to the logits of donors' keys; default: the stanza's", default=None)
    weight: float = arg("of what is mixed in: 1 is all of it", default=1.0, least=0, most=1)


@node
class Sampler(Node):
    """How a target is drawn."""

    solver: Literal["host", "fireflow", "midpoint", "euler"] = arg(
        "of the flow or of the noise; host: the pipeline's own scheduler", default="host"
    )
    steps: int = arg("steps", default=25, least=1)
    guidance: float = arg("guidance scale of the target; 1: none", default=1.0, least=0)


@node
class Collage(Node):
    """How the first noise is made of donors: pasted into a template in the place of their like, then inverted."""

    template: str | None = arg("image; default: drawn from the prompt without any donor", default=None, path="file")
    detector: str | None = arg(
        "folder or hub id of a zero-shot detector of transformers (Grounding DINO)", default=None, path=True
    )
    segmenter: str | None = arg("folder or hub id of a SAM of transformers", default=None, path=True)
    inpainter: str = arg(
        "what fills the places: opencv, or an inpainting pipeline of diffusers", default="opencv", path=True
    )
    box_threshold: float = arg("least score of a box", default=0.35, least=0, most=1)
    text_threshold: float = arg("least score of a phrase", default=0.25, least=0, most=1)


@node
class Inject(Node):
    """Features of donors, put into the host's attention while it draws. Nothing is trained and no weight changes."""

    shorthand: ClassVar[str | None] = "preset"
    preset: Preset | None = arg("a known method; what is written beside it counts", default=None)
    donors: Mapping[str, Donor] = arg("name -> donor", default_factory=dict, pattern=NAME)
    state: State = arg("of donors that state none", default="inverted")
    grafts: tuple[Graft, ...] = arg("operations, in order", default=(), example="[append]")
    into: Selector | None = arg("attentions; default: all that the spec leaves as they are", default=None)
    times: tuple[float, ...] = arg("from and to, 1 is noise, 0 clean", default=(1.0, 0.0))
    steps: tuple[int, ...] | None = arg("first step, and the one after the last; default: all", default=None)
    evaluations: Literal["all", "first", "last"] = arg("of each step", default="all")
    rows: Literal["all", "conditional"] = arg("under guidance", default="all")
    match: Match | None = arg("absent: each token stands for the one at its place", default=None)
    gate: Gate = arg("what is taken and seen", default_factory=Gate)
    position: Position | None = arg(
        "default: matched, of hosts with rotary positions and a match; else same", default=None
    )
    strength: float = arg("added to the logits of donors' keys", default=0.0)
    competition: Literal["none", "owner"] = arg(
        "owner: a target's token is matched with the donor most like it alone", default="none"
    )
    cache: int = arg(
        "budget of donors' tokens kept from run to run, bytes; 0: they run beside", default=0, least=0, unit="bytes"
    )
    sampler: Sampler = arg("how targets are drawn", default_factory=Sampler)
    noise: Literal["random", "donor", "collage"] = arg(
        "first noise: drawn; that of the donor's inversion; that of a collage of donors", default="random"
    )
    collage: Collage = arg("of noise collage", default_factory=Collage)
    seed: int = arg("seed of noise and dropout", default=0, least=0)
