"""Knowledge grafts: SkillPacks made, put on a base, and routed."""

from __future__ import annotations

from typing import ClassVar, Literal

from archspec.language.fields import Node, arg, node
from archspec.language.selectors import Selector
from archspec.language.stages import Data
from archspec.packs.terms import LARGEST_SCALE


@node
class Step(Node):
    """One term of what a pack holds of a tensor: of what the terms before it left over."""

    called: ClassVar[str | None] = "a term of `store`"
    shorthand: ClassVar[str | None] = "op"
    op: Literal["none", "dense", "prune", "quantize", "sign", "svd"] = arg("form", example="svd")
    dtype: Literal["F32", "F16", "BF16"] | None = arg("dense: how values are stored; default F16", default=None)
    keep: float | None = arg("prune: part of the entries, the largest", default=None, above=0, most=1, example="2%")
    code: Literal["auto", "gaps", "mask"] | None = arg(
        "prune: places as distances or as a bitmask; default: the smaller", default=None
    )
    rank: int | None = arg("svd: triplets", default=None, least=1, example=16)
    energy: float | None = arg(
        "svd: the fewest triplets with this part of the squared norm", default=None, above=0, most=1, example="90%"
    )
    bytes: int | None = arg(
        "svd: as many triplets as fit into it", default=None, least=1, unit="bytes", example="64KiB"
    )
    bands: tuple[tuple[int, ...], ...] = arg(
        "svd: [triplets, bits] each, in the order of singular values; what follows is left out",
        default=(),
        example="[[16, 8], [48, 4]]",
    )
    bits: int | None = arg(
        "quantize: 1 to 8; svd: of the vectors, 1 to 8 or 16 (the default)", default=None, least=1, most=16, example=4
    )
    group: int | None = arg(
        "values that share a scale, 0: the whole axis; default 128, of sign 0", default=None, least=0, example=128
    )
    axis: Literal["row", "column", "tensor"] | None = arg(
        "quantize, sign: along what values are grouped; default row", default=None
    )
    fit: Literal["search", "max"] | None = arg(
        "range of a group: of least squared error, or to the largest value; default search", default=None
    )
    method: Literal["nearest", "gptq"] | None = arg(
        "quantize, sign, svd: each value to its nearest level (the default), or by GPTQ, which needs `calibrate` "
        "(https://arxiv.org/abs/2210.17323)",
        default=None,
    )
    act_order: bool | None = arg(
        "gptq: inputs of most energy first, not one after the other; default false", default=None
    )


@node
class Rule(Node):
    """How a pack holds the differences of some tensors. The first rule that names a tensor counts."""

    called: ClassVar[str | None] = "an entry of `rules`"
    of: Selector = arg("a role (embed, head, attn, cross_attn, mlp, norm, bias, other), or sites", example="norm")
    weights: tuple[str, ...] = arg(
        "of the sites' weights only these: q, k, v, o of an attention, up, down, gate of an MLP; also where a host "
        "keeps several of them in one tensor",
        default=(),
        example="[v]",
    )
    store: tuple[Step, ...] = arg("chain of terms, each of what the ones before left over", example="[dense]")


@node
class Calibrate(Node):
    """Inputs of the tuned model's linear maps, by which errors of a pack are errors of outputs."""

    data: Data | None = arg("examples that the tuned model is run on; default: the spec's", default=None)
    samples: int = arg("examples", default=128, least=1)
    batch: int = arg("examples at a time", default=8, least=1)
    length: int | None = arg("tokens of an example of text; default: the host's, at most 512", default=None, least=1)
    damp: float = arg(
        "part of the mean energy of inputs that GPTQ and `svd` add in every direction", default=0.01, above=0
    )
    seed: int = arg("seed of the choice of examples and of every draw", default=0, least=0)


@node
class Pack(Node):
    """What `archspec pack` makes: a SkillPack of what tuning changed. Exactly one of tuned, lora, delta, bitdelta."""

    tuned: str | None = arg("tuned checkpoint", default=None, path=True)
    lora: str | None = arg("folder of a LoRA of peft", default=None, path="folder")
    delta: str | None = arg("safetensors file of differences, named as the base's tensors", default=None, path="file")
    bitdelta: str | None = arg("file of BitDelta (https://arxiv.org/abs/2402.10193)", default=None, path="file")
    budget: float | None = arg(
        "at most this part of the bytes of what differs (`6%`), or bytes (`12MB`); shared out by error among tensors "
        "that no rule names",
        default=None,
        above=0,
        unit="bytes",
        example="6%",
    )
    rules: tuple[Rule, ...] = arg("what is fixed by hand", default=())
    calibrate: Calibrate | None = arg("errors are those of outputs on these data; absent: of weights", default=None)
    licence: str | None = arg("licence of the pack", default=None)


@node
class PackUse(Node):
    """A pack that is put on the base."""

    called: ClassVar[str | None] = "an entry of `packs`"
    shorthand: ClassVar[str | None] = "from_"
    from_: str = arg("file of the pack, path relative to the spec", path=True, example="sql.skillpack.safetensors")
    scale: float = arg("factor of its differences", default=1.0, least=-LARGEST_SCALE, most=LARGEST_SCALE)


@node
class Attach(Node):
    """SkillPacks on the base: added to its weights before any edit reads them."""

    packs: tuple[PackUse, ...] = arg("packs; of several the differences add up", example="[sql.skillpack.safetensors]")


@node
class Task(Node):
    """A task that requests are sent to: the packs that are active for it."""

    called: ClassVar[str | None] = "an entry of `tasks`"
    name: str = arg(
        "what callers and routers call it", example="sql", pattern=r"[A-Za-z0-9][A-Za-z0-9_-]*(\.[A-Za-z0-9_-]+)*"
    )
    packs: tuple[PackUse, ...] = arg("active packs, whose differences add up; `[]`: the base alone", default=())
    examples: str | None = arg("prototypes, classifier: file of prompts, one a line", default=None, path=True)


@node
class Route(Node):
    """What `archspec route` makes: a router, which says for each request which packs are active."""

    by: Literal["map", "prototypes", "classifier"] = arg(
        "map: the caller names the task; prototypes: the nearest mean of examples, by cosine; classifier: a logistic "
        "regression on examples"
    )
    tasks: tuple[Task, ...] = arg("in the order in which they were learnt", example="[{name: sql, packs: [sql]}]")
    threshold: float | None = arg(
        "least score of the best task, below it the base answers (prototypes: cosine, -1 to 1; classifier: "
        "probability, 0 to 1); default: from `reject`",
        default=None,
    )
    reject: float = arg(
        "part of the examples, each held out, that may score below the threshold", default=0.01, least=0, most=0.5
    )
    top: int = arg("tasks whose outputs are averaged, weighted by the router", default=1, least=1)
    layer: int | None = arg(
        "hidden states of the base whose mean is the embedding of a prompt; default: the last", default=None
    )
    length: int = arg("tokens of a prompt that are read, the first", default=512, least=1)
    seed: int = arg("seed of what is held out when", default=0, least=0)
