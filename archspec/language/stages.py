"""Data, and the stages that read them: regression, finetuning, measurement.

Units: fractions are floats (10 % is 0.1), bytes are integers, times are diffusion times.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal, get_args

from archspec.language.fields import Node, arg, node
from archspec.language.selectors import Selector

Slot = Literal["attn", "cross_attn", "mlp", "norm", "block"]
Loss = Literal["l1", "l2", "huber"]


@node
class Data(Node):
    """Where training and calibration examples come from."""

    shorthand: ClassVar[str | None] = "from_"
    from_: str = arg(
        "bundled data set (`digits`, `shapes`, `fashion`), hub id, or path relative to the spec",
        example="digits",
        path=True,
    )
    kind: Literal["auto", "bundled", "images", "latents", "parquet", "text", "jsonl", "generated"] = arg(
        "what it is; auto: told from the name", default="auto"
    )
    split: str = arg("split of the data set", default="train")
    column: str | None = arg("column of the image, latent or text", default=None)
    label: str | None = arg("column of the class label", default=None)
    prompts: str | None = arg("generated: file of prompts or class labels, one a line", default=None, path="file")
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
        "slots, or selectors of sites, whose linear maps get one; default: attentions and MLPs",
        default=(),
        example="[attn, mlp]",
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
    milestones: tuple[int, ...] = arg("steps at which the rate is halved", default=(), example="[500, 800]")
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
