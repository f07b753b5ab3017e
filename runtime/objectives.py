"""The loss of a host's task: what it is fed, what it should answer, how far off it is.

An objective turns a batch of data into keyword inputs for the model and a target, so that regression (which wants
noised inputs and no target), finetuning and evaluation all noise in one way:

    inputs(batch, generator) -> (keywords for model(**keywords), target)
    output(what the model returned) -> prediction, shaped as the target
    loss(prediction, target) -> scalar

`flow` is rectified flow (2209.03003): x_t = (1 - t) x + t e, target e - x, timestep 1000 t. `epsilon` is DDPM
(2006.11239) with the pipeline's own scheduler: target e; of a host that also learns its variance the first half of the
channels is the prediction, and the variational term of 2102.09672 is left out, so the variance head gets no gradient.
`lm` is next-token cross entropy, `mlm` cross entropy of masked tokens (1810.04805), `classification` that of labels.
`features` is for encoders without a head: there is no loss but the distance to a teacher. `make_objective` chooses.

Every draw comes from the CPU generator that is passed in, so a batch is the same on every device. Labels are dropped
here, once per example: diffusers' DiT blocks would each drop on their own (every block owns a label embedder), so
`quiet_label_dropout` turns theirs off.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Protocol

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from archspec.diagnostics import fail
from archspec.runtime.packing import Packing
from archspec.runtime.store.home import Home

Batch = Mapping[str, Any]
Times = Literal["uniform", "logit_normal"]
TRAIN_TIMES = 1000
"""Timestep that flow hosts of diffusers are given at t = 1."""


class Objective(Protocol):
    """See the module's text."""

    @property
    def name(self) -> str: ...

    def inputs(self, batch: Batch, generator: Generator) -> tuple[dict[str, Any], Tensor]: ...

    def output(self, answer: Any) -> Tensor: ...

    def loss(self, prediction: Tensor, target: Tensor) -> Tensor: ...


def draw(shape: tuple[int, ...], like: Tensor, generator: Generator) -> Tensor:
    """Standard normal draws, made on the CPU in float32 and moved to where `like` is."""
    return torch.randn(shape, generator=generator).to(like)


def draw_times(count: int, times: Times, generator: Generator) -> Tensor:
    """(count,) diffusion times in (0, 1), float32 on the CPU."""
    if times == "uniform":
        return torch.rand(count, generator=generator)
    return torch.sigmoid(torch.randn(count, generator=generator))


@dataclass(frozen=True)
class Conditioning:
    """How a diffusion host is told what to draw; the condition is left out with probability `dropout`.

    `null`: the label that stands for "any class", of a host of classes. `caption`: (tokens, width) of the embeddings
    that a host of captions takes; the empty caption is zeros. `pooled`: width of the one vector that it takes of the
    caption besides (SD3, FLUX), instead of a mask of its tokens. `asks_size`: the host has arguments for the image's
    size (PixArt); `sized`: it is told one (PixArt-α at 1024), as pixels of a square.
    """

    null: int | None = None
    dropout: float = 0.0
    caption: tuple[int, int] | None = None
    pooled: int | None = None
    asks_size: bool = False
    sized: int | None = None

    def apply(self, batch: Batch, generator: Generator) -> dict[str, Any]:
        """Return the keywords beside sample and timestep."""
        x: Tensor = batch["x"]
        dropped = torch.rand(len(x), generator=generator) < self.dropout
        if self.caption is not None:
            return self._captions(batch, x, dropped.to(x.device))
        if self.null is None:
            return {}
        labels = batch["label"] if "label" in batch else torch.full((len(x),), self.null, device=x.device)
        return {"class_labels": torch.where(dropped.to(labels.device), self.null, labels).to(x.device)}

    def _captions(self, batch: Batch, x: Tensor, dropped: Tensor) -> dict[str, Any]:
        """(batch, tokens, width) embeddings, with the mask of their tokens where the data has one."""
        assert self.caption is not None
        captions = batch["caption"].to(x) if "caption" in batch else x.new_zeros(len(x), *self.caption)
        captions = captions.masked_fill(dropped[:, None, None], 0)
        if self.pooled is not None:
            pooled = batch["pooled"].to(x) if "pooled" in batch else x.new_zeros(len(x), self.pooled)
            return {"encoder_hidden_states": captions, "pooled_projections": pooled.masked_fill(dropped[:, None], 0)}
        mask = batch.get("caption_mask", torch.ones(captions.shape[:2]))
        found = {"encoder_hidden_states": captions, "encoder_attention_mask": mask.to(x)}
        if not self.asks_size:
            return found
        size = None if self.sized is None else x.new_full((len(x), 2), self.sized)
        ratio = None if self.sized is None else x.new_ones(len(x), 1)
        return found | {"added_cond_kwargs": {"resolution": size, "aspect_ratio": ratio}}


@dataclass(frozen=True)
class Flow:
    """Rectified flow. With `packing`, prediction and target are in the form of tokens too. `shift` moves times towards
    noise as a scheduler's of that name does (2403.03206, Sec. 5.3.2)."""

    conditioning: Conditioning = Conditioning()
    times: Times = "logit_normal"
    packing: Packing | None = None
    shift: float = 1.0
    name: str = "flow"

    def inputs(self, batch: Batch, generator: Generator) -> tuple[dict[str, Any], Tensor]:
        x: Tensor = batch["x"]
        t = draw_times(len(x), self.times, generator).to(x.device)
        t = self.shift * t / (1 + (self.shift - 1) * t)
        noise = draw(tuple(x.shape), x, generator)
        mix = t.to(x.dtype).reshape(-1, *(1,) * (x.ndim - 1))
        noised, condition = (1 - mix) * x + mix * noise, self.conditioning.apply(batch, generator)
        if self.packing is not None:
            return self.packing.keywords(noised, t, condition), self.packing.pack(noise - x)
        return {"hidden_states": noised, "timestep": t * TRAIN_TIMES, **condition}, noise - x

    def output(self, answer: Any) -> Tensor:
        return first_tensor(answer)

    def loss(self, prediction: Tensor, target: Tensor) -> Tensor:
        return F.mse_loss(prediction.float(), target.float())


@dataclass(frozen=True)
class Epsilon:
    """Denoising diffusion; `alphas` (steps,) is the scheduler's running product of 1 - beta."""

    alphas: Tensor
    channels: int
    conditioning: Conditioning = Conditioning()
    times: Times = "uniform"
    name: str = "epsilon"

    def inputs(self, batch: Batch, generator: Generator) -> tuple[dict[str, Any], Tensor]:
        x: Tensor = batch["x"]
        steps = (draw_times(len(x), self.times, generator) * len(self.alphas)).long().clamp(max=len(self.alphas) - 1)
        noise = draw(tuple(x.shape), x, generator)
        kept = self.alphas[steps].to(x).reshape(-1, *(1,) * (x.ndim - 1))
        keywords = {"hidden_states": kept.sqrt() * x + (1 - kept).sqrt() * noise, "timestep": steps.to(x.device)}
        return keywords | self.conditioning.apply(batch, generator), noise

    def output(self, answer: Any) -> Tensor:
        return first_tensor(answer)[:, : self.channels]

    def loss(self, prediction: Tensor, target: Tensor) -> Tensor:
        return F.mse_loss(prediction.float(), target.float())


@dataclass(frozen=True)
class NextToken:
    """Causal language modelling; the prediction is (batch, tokens, vocabulary), the target (batch, tokens) ids."""

    name: str = "lm"
    ignored: ClassVar[int] = -100

    def inputs(self, batch: Batch, generator: Generator) -> tuple[dict[str, Any], Tensor]:
        ids: Tensor = batch["input_ids"]
        mask = batch.get("attention_mask")
        keywords: dict[str, Any] = {"input_ids": ids, "use_cache": False}
        if mask is None:
            return keywords, ids
        return keywords | {"attention_mask": mask}, ids.masked_fill(mask == 0, self.ignored)

    def output(self, answer: Any) -> Tensor:
        return first_tensor(answer)

    def loss(self, prediction: Tensor, target: Tensor) -> Tensor:
        """Mean negative log-likelihood per token, nats: what is said at a place is held against the next token."""
        logits = prediction[:, :-1].float().flatten(0, 1)
        return F.cross_entropy(logits, target[:, 1:].flatten(), ignore_index=self.ignored)


@dataclass(frozen=True)
class MaskedToken:
    """Masked language modelling (BERT, 1810.04805, Sec. 3.1): of each text a part of the tokens is to be told, of which
    four in five are masked, one in ten is another token and one in ten is left. Prediction (batch, tokens, vocabulary);
    target (batch, tokens) ids, `ignored` where nothing is asked. `special`: ids that are never asked for."""

    mask: int
    vocabulary: int
    special: tuple[int, ...] = ()
    part: float = 0.15
    name: str = "mlm"
    ignored: ClassVar[int] = NextToken.ignored

    def inputs(self, batch: Batch, generator: Generator) -> tuple[dict[str, Any], Tensor]:
        ids: Tensor = batch["input_ids"]
        keywords = text_keywords(batch)
        chance, fate = (torch.rand(ids.shape, generator=generator).to(ids.device) for _ in range(2))
        other = torch.randint(0, self.vocabulary, ids.shape, generator=generator).to(ids.device)
        asked = chance < self.part
        if self.special:
            asked &= ~torch.isin(ids, torch.tensor(self.special, device=ids.device))
        if "attention_mask" in keywords:
            asked &= keywords["attention_mask"].bool()
        shown = torch.where(asked & (fate < 0.8), self.mask, ids)
        shown = torch.where(asked & (fate >= 0.9), other, shown)
        return keywords | {"input_ids": shown}, ids.masked_fill(~asked, self.ignored)

    def output(self, answer: Any) -> Tensor:
        return first_tensor(answer)

    def loss(self, prediction: Tensor, target: Tensor) -> Tensor:
        """Mean negative log-likelihood per asked token, nats; 0 where none is asked."""
        losses = F.cross_entropy(
            prediction.float().flatten(0, 1), target.flatten(), ignore_index=self.ignored, reduction="sum"
        )
        return losses / (target != self.ignored).sum().clamp(min=1)


@dataclass(frozen=True)
class Classification:
    """Labels of images; prediction (batch, classes), target (batch,)."""

    name: str = "classification"

    def inputs(self, batch: Batch, generator: Generator) -> tuple[dict[str, Any], Tensor]:
        x: Tensor = batch["x"]
        if "label" not in batch:
            raise fail("AS712", "the objective 'classification' needs labels, and the data has none")
        return {"pixel_values": x}, batch["label"].to(x.device)

    def output(self, answer: Any) -> Tensor:
        return first_tensor(answer)

    def loss(self, prediction: Tensor, target: Tensor) -> Tensor:
        return F.cross_entropy(prediction.float(), target)


@dataclass(frozen=True)
class Features:
    """Of an encoder without a head, the features of its last layer (batch, tokens, width). It has no task."""

    name: str = "features"

    def inputs(self, batch: Batch, generator: Generator) -> tuple[dict[str, Any], Tensor]:
        keywords = text_keywords(batch) if "input_ids" in batch else {"pixel_values": batch["x"]}
        return keywords, torch.zeros(())

    def output(self, answer: Any) -> Tensor:
        return first_tensor(answer)

    def loss(self, prediction: Tensor, target: Tensor) -> Tensor:
        return 0.0 * prediction.float().sum()


def text_keywords(batch: Batch) -> dict[str, Any]:
    """Return what an encoder of text is given: ids, and the mask of what is no padding if the data has one."""
    return {name: batch[name] for name in ("input_ids", "attention_mask") if name in batch}


def first_tensor(answer: Any) -> Tensor:
    """Return the tensor of a model's answer: itself, `.sample`, or the first entry."""
    if isinstance(answer, Tensor):
        return answer
    found = answer[0]
    assert isinstance(found, Tensor)
    return found


def quiet_label_dropout(model: nn.Module) -> None:
    """Turn off the label dropout that diffusers' label embedders do by themselves in training mode."""
    embedders: list[Any] = [m for m in model.modules() if hasattr(m, "embedding_table") and hasattr(m, "dropout_prob")]
    for embedder in embedders:
        embedder.dropout_prob = 0.0


def make_objective(
    place: Home, kind: str = "auto", times: Times | None = None, label_dropout: float = 0.0
) -> Objective:
    """Return the objective of a host; `auto` is told from its class and the pipeline's scheduler.

    `times`: by default logit-normal for flow (2403.03206) and uniform for epsilon (2006.11239).
    """
    kind = told(place) if kind == "auto" else kind
    fits = place.is_diffusion if kind in DIFFUSION else not place.is_diffusion and kind == told(place)
    if not fits:
        hints = ("leave objective out, or write objective: auto",)
        raise fail("AS712", f"objective '{kind}' does not fit {place.architecture or 'the host'}", None, *hints)
    if kind not in DIFFUSION:
        return masked(place) if kind == "mlm" else SIMPLE[kind]()
    condition = conditioning(place, label_dropout)
    if kind == "flow":
        return Flow(condition, times or "logit_normal", packing(place))
    channels = place.config["in_channels"]
    return Epsilon(_alphas(place), channels, condition, times or "uniform")


def told(place: Home) -> str:
    """Return which objective a host was trained with: from its class, or of a diffusion host from the pipeline's
    scheduler."""
    for kind, fits in (
        ("lm", place.is_language_model),
        ("mlm", place.is_masked_model),
        ("classification", place.is_classifier),
        ("features", place.is_headless),
    ):
        if fits:
            return kind
    if not place.is_diffusion:
        raise fail("AS712", f"no objective is known for {place.architecture or 'the host'}")
    scheduler = place.scheduler
    if scheduler is None:
        return _own(place)
    kind = scheduler.get("prediction_type", "epsilon")
    if str(scheduler.get("_class_name", "")).startswith("FlowMatch") or kind == "flow_prediction":
        return "flow"
    if kind != "epsilon":
        raise fail("AS712", f"the scheduler predicts '{kind}'; known are epsilon and flow_prediction")
    return "epsilon"


def _own(place: Home) -> str:
    """Return the objective of a diffusion host's family, for a host without a pipeline around it."""
    from archspec.families import family_of
    from archspec.runtime.families import family

    known = family_of({**place.config, "_class_name": place.architecture})
    return family(known.name).objective if known else "epsilon"


DIFFUSION = ("flow", "epsilon")
SIMPLE: Mapping[str, type[NextToken | Classification | Features]] = {
    "lm": NextToken,
    "classification": Classification,
    "features": Features,
}


def masked(place: Home) -> MaskedToken:
    """Return the objective of a masked language model; its tokenizer says which token is the mask."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(place.tokenizer, local_files_only=True) if place.tokenizer else None
    if tokenizer is None or tokenizer.mask_token_id is None:
        hint = "put the tokenizer's files beside config.json"
        raise fail("AS708", f"no tokenizer says which token of {place.architecture} is the mask", None, hint)
    special = tuple(i for i in tokenizer.all_special_ids if i != tokenizer.mask_token_id)
    return MaskedToken(tokenizer.mask_token_id, int(place.config["vocab_size"]), special)


CAPTION_TOKENS = 120
CAPTION_WIDTHS = ("caption_channels", "joint_attention_dim", "cross_attention_dim")
"""Config attributes that tell how wide a caption's embeddings are, the first that is set."""


def conditioning(place: Home, dropout: float = 0.0) -> Conditioning:
    """Return how a diffusion host is told what to draw, from its config."""
    config = place.config
    if place.classes is not None:
        return Conditioning(null=place.classes, dropout=dropout)
    width = next((w for w in map(config.get, CAPTION_WIDTHS) if w), None)
    if width is None:
        return Conditioning(dropout=dropout)
    caption = CAPTION_TOKENS, int(width)
    if config.get("pooled_projection_dim"):
        return Conditioning(dropout=dropout, caption=caption, pooled=int(config["pooled_projection_dim"]))
    if not place.architecture.startswith("PixArt"):
        return Conditioning(dropout=dropout, caption=caption)
    size = config.get("sample_size", 0)
    flag = config.get("use_additional_conditions")
    sized = size == 128 if flag is None else flag  # as diffusers' PixArt decides
    return Conditioning(dropout=dropout, caption=caption, asks_size=True, sized=8 * size if sized else None)


def packing(place: Home) -> Packing | None:
    """Return how a host takes samples as tokens, None for one that takes them as they are."""
    config = place.config
    if config.get("axes_dims_rope") is None or place.shape is not None:
        return None
    return Packing(int(config["in_channels"]), bool(config.get("guidance_embeds")))


def _alphas(place: Home) -> Tensor:
    """(steps,) running product of 1 - beta of the pipeline's scheduler; without one, DDPM's own linear betas."""
    from diffusers import DDPMScheduler

    known = ("num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "trained_betas")
    given = {k: v for k, v in (place.scheduler or {}).items() if k in (*known, "rescale_betas_zero_snr")}
    alphas: Tensor = DDPMScheduler(**given).alphas_cumprod
    return alphas
