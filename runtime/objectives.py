"""The loss of a host's task: what it is fed, what it should answer, how far off it is.

An objective turns a batch of data into keyword inputs for the model and a target, so that regression (which wants noised
inputs and no target), finetuning and evaluation all noise in one way:

    inputs(batch, generator) -> (keywords for model(**keywords), target)
    output(what the model returned) -> prediction, shaped as the target
    loss(prediction, target) -> scalar

`flow` is rectified flow (2209.03003): x_t = (1 - t) x + t e, target e - x, timestep 1000 t. `epsilon` is DDPM (2006.11239)
with the pipeline's own scheduler: target e; of a host that also learns its variance the first half of the channels is
the prediction, and the variational term of 2102.09672 is left out (the variance head keeps what it learned). `lm` is
next-token cross entropy.

Every draw comes from the CPU generator that is passed in, so a batch is the same on every device. Labels are dropped
here, once per example: diffusers' DiT blocks would each drop on their own (every block owns a label embedder), so
`quiet_label_dropout` turns theirs off.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

Batch = Mapping[str, Any]
Times = Literal["uniform", "logit_normal"]
TRAIN_TIMES = 1000
"""Timestep that flow hosts of diffusers are given at t = 1."""


class Objective(Protocol):
    """See the module's text."""

    name: str

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
    """How a diffusion host is told what to draw.

    `null` is the label that stands for "any class"; labels (or captions) are replaced by it with probability `dropout`.
    """

    null: int | None = None
    dropout: float = 0.0

    def apply(self, batch: Batch, count: int, generator: Generator) -> dict[str, Any]:
        """Return the keywords beside sample and timestep: of a class label, or of caption embeddings."""
        if "caption" in batch:
            return self._captions(batch, count, generator)
        if self.null is None and "label" not in batch:
            return {}
        labels = batch.get("label")
        if labels is None:
            labels = torch.full((count,), self.null or 0)
        if self.dropout and self.null is not None:
            drop = torch.rand(count, generator=generator) < self.dropout
            labels = torch.where(drop.to(labels.device), self.null, labels)
        return {"class_labels": labels}

    def _captions(self, batch: Batch, count: int, generator: Generator) -> dict[str, Any]:
        """(batch, tokens, caption width) embeddings; a dropped one is the null caption's, zeros where none is given."""
        captions: Tensor = batch["caption"]
        mask = batch.get("caption_mask")
        if self.dropout:
            drop = (torch.rand(count, generator=generator) < self.dropout).to(captions.device)
            null = batch.get("null_caption", torch.zeros_like(captions))
            captions = torch.where(drop[:, None, None], null, captions)
        found = {"encoder_hidden_states": captions}
        return found if mask is None else found | {"encoder_attention_mask": mask}


@dataclass(frozen=True)
class Flow:
    """Rectified flow."""

    conditioning: Conditioning = Conditioning()
    times: Times = "logit_normal"
    name: str = "flow"

    def inputs(self, batch: Batch, generator: Generator) -> tuple[dict[str, Any], Tensor]:
        x: Tensor = batch["x"]
        t = draw_times(len(x), self.times, generator).to(x.device)
        noise = draw(tuple(x.shape), x, generator)
        mix = t.to(x.dtype).reshape(-1, *(1,) * (x.ndim - 1))
        keywords = {"hidden_states": (1 - mix) * x + mix * noise, "timestep": t * TRAIN_TIMES}
        return keywords | self.conditioning.apply(batch, len(x), generator), noise - x

    def output(self, answer: Any) -> Tensor:
        return first_tensor(answer)

    def loss(self, prediction: Tensor, target: Tensor) -> Tensor:
        return F.mse_loss(prediction.float(), target.float())


def first_tensor(answer: Any) -> Tensor:
    """Return the tensor of a model's answer: itself, `.sample`, or the first entry."""
    if isinstance(answer, Tensor):
        return answer
    found = answer[0]
    assert isinstance(found, Tensor)
    return found


def quiet_label_dropout(model: nn.Module) -> None:
    """Turn off the label dropout that diffusers' label embedders do by themselves in training mode."""
    for module in model.modules():
        if hasattr(module, "embedding_table") and hasattr(module, "dropout_prob"):
            module.dropout_prob = 0.0
