"""The Spec: what a person wrote, as frozen dataclasses. One class per construct, one field per key.

Both spellings build this (through `build.py`); the JSON Schema, `docs/language.md`'s tables and the validator read
the same declarations. Units: fractions are floats (10 % is 0.1), bytes are integers, times are diffusion times.
Selectors always name sites of the *base*, so the order of edits never renumbers anything.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from typing import Any, ClassVar, Literal, get_args

from archspec.language.expectations import Expectation
from archspec.language.features import Inject
from archspec.language.fields import Node, arg, node
from archspec.language.selectors import Selector

Slot = Literal["attn", "cross_attn", "mlp", "norm", "block"]
Loss = Literal["l1", "l2", "huber"]
InitKind = Literal["random", "identity", "inherit", "least_squares", "artifact"]
Merge = Literal["linear", "residual_linear", "sum", "average"]
SkipMerge = Literal["linear", "residual_linear", "sum"]


@node
class Base(Node):
    """The host."""

    shorthand: ClassVar[str | None] = "from_"
    from_: str = arg(
        "hub id, or path of a folder or file relative to the spec", example="facebook/DiT-XL-2-256", path=True
    )
    subfolder: str | None = arg("folder of the model inside a pipeline", default=None, example="transformer")
    revision: str | None = arg("hub revision", default=None)
    fingerprint: str | None = arg(
        "refuse a base whose content has another fingerprint (as the lock prints it)", default=None
    )
    weights: Literal["stored", "random"] = arg(
        "random: drawn anew by the host's own class, in float32; of the base only its config is read", default="stored"
    )
    seed: int = arg("seed of random weights", default=0, least=0)
    teacher: str | None = arg(
        "of random weights: the trained model of the same sites that is imitated and measured beside the result, hub "
        "id or path of a folder (and the same subfolder); default: none",
        default=None,
        path=True,
    )


@node
class OperatorCall(Node):
    """An operator by name, with its parameters. `op` is its name; every other key is a field of its config."""

    shorthand: ClassVar[str | None] = "op"
    op: str = arg("operator", example="hyena_x")
    params: Mapping[str, Any] = field(default_factory=dict, metadata={"hidden": True})


@node
class Init(Node):
    """How the new part gets its first weights."""

    shorthand: ClassVar[str | None] = "kind"
    kind: InitKind | None = arg("how; default: the best that the operator supports without data", default=None)
    from_: str | None = arg("artifact to read (kind artifact)", default=None, path=True)
    neurons: Literal["auto", "strongest", "nearest", "clusters", "greedy"] = arg(
        "of a narrower MLP: strongest: those of large weights stay; nearest, clusters: those that are alike are "
        "merged; greedy: those that data miss least (least_squares); auto: greedy, without data strongest",
        default="auto",
    )
    ridge: float = arg("least_squares: ridge, as a fraction of the mean Gram diagonal", default=1e-4, least=0)
    samples: int = arg("least_squares: calibration samples", default=1024, least=1)
    sequential: bool = arg("least_squares: fit on the activations of the already edited model", default=False)
    grams: int = arg(
        "least_squares: budget of the Gram matrices held at once, bytes (`4GiB`; the least of all edits counts): sites "
        "that do not fit together take turns",
        default=4 * 1024**3,
        least=0,
        unit="bytes",
    )
    seed: int = arg("seed of random weights and of calibration", default=0, least=0)


@node
class Replace(Node):
    """Put another operator in place of each selected site."""

    verb: ClassVar[str] = "replace"
    target: Selector = arg("sites")
    with_: OperatorCall = arg("operator")
    init: Init = arg("first weights", default_factory=Init)


@node
class Parallelize(Node):
    """Run groups of consecutive selected blocks side by side on the same input and merge their outputs."""

    verb: ClassVar[str] = "parallelize"
    target: Selector = arg("blocks")
    by: int = arg("blocks per group", default=2, least=2)
    merge: Merge = arg("how outputs are merged", default="residual_linear")
    init: Init = arg("first weights of the merge", default_factory=Init)


@node
class Drop(Node):
    """Remove blocks."""

    verb: ClassVar[str] = "drop"
    target: Selector = arg("blocks")


@node
class Repeat(Node):
    """Apply each selected block several times in a row."""

    verb: ClassVar[str] = "repeat"
    target: Selector = arg("blocks")
    times: int = arg("applications in all", default=2, least=2, most=64)
    tie: bool = arg("every application uses the same weights; else copies", default=False)


@node
class Share(Node):
    """Let all selected sites use the weights of the first."""

    verb: ClassVar[str] = "share"
    target: Selector = arg("sites of one slot, or blocks")


@node
class Insert(Node):
    """Put an operator behind each selected block, in a residual branch of its own: y = x + op(norm(x))."""

    verb: ClassVar[str] = "insert"
    target: Selector = arg("blocks that it stands behind")
    with_: OperatorCall = arg("operator")
    init: Init = arg("first weights; default identity: at first the model computes what it did", default_factory=Init)


@node
class Skip(Node):
    """Lead outputs of early blocks to inputs of later ones: the first selected block to the last of `to`, and so on
    inwards, as in U-ViT (https://arxiv.org/abs/2209.12152, Sec. 3)."""

    verb: ClassVar[str] = "skip"
    target: Selector = arg("blocks whose outputs are led on")
    to: Selector = arg("as many later blocks, whose inputs they are merged into")
    merge: SkipMerge = arg("how an input and what skips to it are merged", default="residual_linear")
    init: Init = arg(
        "first weights of the merge; default identity: at first the model computes what it did", default_factory=Init
    )


@node
class Freeze(Node):
    """Keep the weights of the selected sites fixed in finetuning."""

    verb: ClassVar[str] = "freeze"
    target: Selector = arg("sites")


Edit = Replace | Parallelize | Drop | Repeat | Share | Insert | Skip | Freeze
EDITS: tuple[type[Edit], ...] = (Replace, Parallelize, Drop, Repeat, Share, Insert, Skip, Freeze)
"""One line per verb: all that the grammar, the builder and the schema know of edits."""


def selectors(edit: Edit) -> tuple[Selector, ...]:
    """Return every selector of an edit."""
    return (edit.target, edit.to) if isinstance(edit, Skip) else (edit.target,)


@node
class Data(Node):
    """Where training and calibration examples come from."""

    shorthand: ClassVar[str | None] = "from_"
    from_: str = arg(
        "bundled data set (`digits`, `shapes`), hub id, or path relative to the spec", example="digits", path=True
    )
    kind: Literal["auto", "bundled", "images", "latents", "parquet", "text", "jsonl", "generated"] = arg(
        "what it is; auto: told from the name", default="auto"
    )
    split: str = arg("split of the data set", default="train")
    column: str | None = arg("column of the image, latent or text", default=None)
    label: str | None = arg("column of the class label", default=None)
    prompts: str | None = arg("generated: file of prompts or class labels, one a line", default=None, path=True)
    samples: int | None = arg("generated: examples, going round the prompts; default 4096", default=None, least=1)
    fraction: float = arg(
        "part of the data, stratified by class, nested for a fixed seed", default=1.0, above=0, most=1
    )
    seed: int = arg("seed of the subset", default=0, least=0)


@node
class Distill(Node):
    """Regression of every new part to the teacher's activations (stage 1 of 2506.05340, Eq. 2)."""

    samples: int = arg("examples, each with its own noise and time", default=8192, least=1)
    epochs: int = arg("passes over the examples", default=200, least=1)
    batch: int = arg("examples per step", default=64, least=1)
    lr: float = arg("peak learning rate (AdamW)", default=1e-4, above=0, most=1000)
    warmup: int = arg("linear warm-up steps", default=0, least=0)
    schedule: Literal["constant", "cosine", "linear"] = arg("after the warm-up", default="cosine")
    weight_decay: float = arg("AdamW weight decay", default=0.0, least=0)
    clip: float | None = arg("largest gradient norm", default=10.0, above=0)
    loss: Loss | Mapping[str, Loss] | None = arg(
        "one loss, or one per slot; default l1 for attn and block, l2 for mlp", default=None, keys=get_args(Slot)
    )
    huber_delta: float = arg("delta of huber", default=1.0, above=0)
    gate_weighted: bool = arg("weigh errors by the gate that the host applies behind the site", default=False)
    times: Literal["uniform", "logit_normal"] = arg("distribution of diffusion times", default="uniform")
    label_dropout: float = arg("part of examples with the null label", default=0.0, least=0, most=1)
    cache: int = arg(
        "budget of the activation cache, bytes (`2GiB`): a site that does not fit has the teacher run along; 0: none",
        default=2 * 1024**3,
        least=0,
        unit="bytes",
    )
    seed: int = arg("seed of every draw", default=0, least=0)


@node
class Lora(Node):
    """Low-rank additions to old weights, W + alpha / rank B A (https://arxiv.org/abs/2106.09685), by peft."""

    shorthand: ClassVar[str | None] = "rank"
    rank: int = arg("rank of each addition", least=1, example=64)
    alpha: float | None = arg("scale times the rank; default: the rank", default=None, above=0)
    dropout: float = arg("part of the inputs that is dropped", default=0.0, least=0, most=0.9)
    targets: tuple[Selector, ...] = arg(
        "slots, or selectors of sites, whose linear maps get one; default: attentions and MLPs", default=()
    )


@node
class Keep(Node):
    """Which weights of a finetuning stay (moving averages, where there are)."""

    shorthand: ClassVar[str | None] = "which"
    which: Literal["last", "best"] = arg(
        "last: those after the last step; best: those that did best on held-out examples, those before the first step "
        "among them",
        default="last",
    )
    by: Literal["loss", "teacher"] = arg(
        "best: what is measured on them: loss, all that is minimised; teacher, the distance to its output alone",
        default="loss",
    )
    every: int | None = arg(
        "best: steps between two measurements; start and end are measured besides; default: a tenth of all",
        default=None,
        least=1,
    )
    samples: int = arg("best: held-out examples of a measurement, the same each time", default=256, least=1)


@node
class Finetune(Node):
    """Training of the whole model on its task (stage 2 of 2506.05340, Eq. 1)."""

    data: Data | None = arg("data of this stage; default: the spec's", default=None)
    fraction: float = arg("part of the data", default=1.0, above=0, most=1)
    steps: int = arg("optimizer steps", default=1000, least=1)
    batch: int = arg("examples per step", default=256, least=1)
    lr: float = arg("peak learning rate (AdamW)", default=1e-4, above=0, most=1000)
    warmup: int = arg("linear warm-up steps", default=0, least=0)
    schedule: Literal["constant", "cosine", "linear"] = arg("after the warm-up", default="constant")
    milestones: tuple[int, ...] = arg("steps at which the rate is halved", default=())
    weight_decay: float = arg("AdamW weight decay", default=0.0, least=0)
    clip: float | None = arg("largest gradient norm", default=1.0, above=0)
    ema: float | None = arg("decay of the weights' moving average; null: none", default=0.999, above=0, most=1)
    objective: Literal["auto", "flow", "epsilon", "lm", "mlm", "classification", "features"] = arg(
        "loss of the task; auto: the family's, from the scheduler", default="auto"
    )
    times: Literal["uniform", "logit_normal"] = arg("distribution of diffusion times", default="logit_normal")
    label_dropout: float = arg("part of examples with the null label", default=0.1, least=0, most=1)
    distill_weight: float = arg("weight of an added loss to the teacher's output; 0: none", default=0.0, least=0)
    keep: Keep = arg("which weights stay", default_factory=Keep)
    train: Literal["all", "new"] = arg("which weights train", default="all")
    lora: Lora | None = arg(
        "train additions to old weights in their place; new parts train whole; merged at the end", default=None
    )
    precision: Literal["no", "bf16", "fp16"] = arg("mixed precision of accelerate", default="no")
    checkpoint: int = arg("steps between resumable checkpoints", default=200, least=1)
    seed: int = arg("seed of every draw", default=0, least=0)


@node
class Eval(Node):
    """How the result is measured."""

    samples: int = arg("samples to draw", default=1000, least=1)
    steps: int = arg("sampler steps", default=25, least=1)
    guidance: float = arg("classifier-free guidance scale; 1: none", default=1.0, least=1)
    batch: int = arg("samples at a time", default=250, least=1)
    metrics: tuple[Literal["fd", "agreement", "paired", "latency", "perplexity"], ...] = arg(
        "what to measure; default: all that fit the host", default=()
    )
    classifier: str | None = arg(
        "image classifier whose features fd and agreement use: folder or hub id", default=None, path=True
    )
    data: Data | None = arg("data to compare with; default: the spec's", default=None)
    seed: int = arg("seed of the noise", default=0, least=0)


@node
class Search(Node):
    """What `archspec search` chooses from: an operator for each site, at a price (Puzzle,
    https://arxiv.org/abs/2411.19146, Sec. 3)."""

    sites: Selector = arg("sites to choose for")
    candidates: tuple[OperatorCall, ...] = arg("operators; beside them every site may stay as it is")
    budget: tuple[Expectation, ...] = arg("upper bounds on params, flops, weights or latency of the result")
    samples: int = arg("calibration samples of the fits that scores are of", default=256, least=1)
    ridge: float = arg("ridge of these fits, as a fraction of the mean Gram diagonal", default=1e-4, least=0)
    seed: int = arg("seed of random weights and of calibration", default=0, least=0)


@node
class Step(Node):
    """One term of what a pack holds of a tensor: of what the terms before it left over."""

    shorthand: ClassVar[str | None] = "op"
    op: Literal["none", "dense", "prune", "quantize", "sign", "svd"] = arg("form", example="svd")
    dtype: Literal["F32", "F16", "BF16"] | None = arg("dense: how values are stored; default F16", default=None)
    keep: float | None = arg("prune: part of the entries, the largest", default=None, above=0, most=1, example="2%")
    code: Literal["auto", "gaps", "mask"] | None = arg(
        "prune: places as distances or as a bitmask; default: the smaller", default=None
    )
    rank: int | None = arg("svd: triplets", default=None, least=1)
    energy: float | None = arg(
        "svd: the fewest triplets with this part of the squared norm", default=None, above=0, most=1
    )
    bytes: int | None = arg("svd: as many triplets as fit into it", default=None, least=1, unit="bytes")
    bands: tuple[tuple[int, ...], ...] = arg(
        "svd: [triplets, bits] each, in the order of singular values; what follows is left out", default=()
    )
    bits: int | None = arg(
        "quantize: 1 to 8; svd: of the vectors, 1 to 8 or 16 (the default)", default=None, least=1, most=16
    )
    group: int | None = arg(
        "values that share a scale, 0: the whole axis; default 128, of sign 0", default=None, least=0
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

    of: Selector = arg("a role (embed, head, attn, cross_attn, mlp, norm, bias, other), or sites", example="norm")
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
    lora: str | None = arg("folder of a LoRA of peft", default=None, path=True)
    delta: str | None = arg("safetensors file of differences, named as the base's tensors", default=None, path=True)
    bitdelta: str | None = arg("file of BitDelta (https://arxiv.org/abs/2402.10193)", default=None, path=True)
    budget: float | None = arg(
        "at most this part of the bytes of what differs (`6%`), or bytes (`12MB`); shared out by error among tensors "
        "that no rule names",
        default=None,
        above=0,
        unit="bytes",
    )
    rules: tuple[Rule, ...] = arg("what is fixed by hand", default=())
    calibrate: Calibrate | None = arg("errors are those of outputs on these data; absent: of weights", default=None)
    licence: str | None = arg("licence of the pack", default=None)


@node
class PackUse(Node):
    """A pack that is put on the base."""

    shorthand: ClassVar[str | None] = "from_"
    from_: str = arg("file of the pack, path relative to the spec", path=True, example="sql.skillpack.safetensors")
    scale: float = arg("factor of its differences", default=1.0)


@node
class Attach(Node):
    """SkillPacks on the base: added to its weights before any edit reads them."""

    packs: tuple[PackUse, ...] = arg("packs; of several the differences add up", example="[sql.skillpack.safetensors]")


@node
class Task(Node):
    """A task that requests are sent to: the packs that are active for it."""

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


@node
class Spec(Node):
    """A whole spec file. Of a member of a matrix, `matrix` and `arms` are empty (`archspec.language.matrix`)."""

    archspec: Literal[1] = arg("version of the language", default=1)
    name: str = arg(
        "name of the result: letters, digits, `.`, `_`, `-`",
        example="dit-xl2-hyena-x-50",
        pattern=r"[A-Za-z0-9][A-Za-z0-9_-]*(\.[A-Za-z0-9_-]+)*",
    )
    description: str | None = arg("one paragraph for the model card", default=None)
    extends: str | None = arg("spec to inherit from, path relative to this file", default=None)
    base: Base | None = arg("the host; may come from `extends`", default=None)
    probe: str | None = arg(
        "file that `archspec probe` wrote of the host, by which `top` and `bottom` rank sites", default=None, path=True
    )
    seed: int | None = arg("seed of every init and stage that states none", default=None, least=0)
    matrix: Mapping[str, Any] = arg("axes: `$axis` stands for one of its values", default_factory=dict)
    arms: Mapping[str, Any] = arg("variants, each told by what it changes of the spec", default_factory=dict)
    let: Mapping[str, Selector] = arg("named selectors", default_factory=dict, pattern=r"[A-Za-z_]\w*")
    edits: tuple[Edit, ...] = arg("edits", default=())
    data: Data | None = arg("default data of all stages", default=None)
    distill: Distill | None = arg("regression; absent or `none`: none", default=None)
    finetune: Finetune | None = arg("finetuning; absent or `none`: none", default=None)
    eval: Eval | None = arg("measurement; absent or `none`: none", default=None)
    search: Search | None = arg("what `archspec search` chooses edits from; absent or `none`: nothing", default=None)
    pack: Pack | None = arg("what `archspec pack` makes; absent or `none`: nothing", default=None)
    attach: Attach | None = arg("packs on the base; absent or `none`: none", default=None)
    route: Route | None = arg("what `archspec route` makes; absent or `none`: nothing", default=None)
    inject: Inject | None = arg("features of donors, while it draws; absent or `none`: none", default=None)
    expect: tuple[Expectation, ...] = arg("assertions about the result", default=())
