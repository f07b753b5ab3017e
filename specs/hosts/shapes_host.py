"""The host of captions: diffusers' FluxTransformer2DModel, trained with rectified flow on the pictures of `shapes`.

Each step draws new pictures (index = step * batch + place), so none is seen twice; lessons (`shapes_lessons`) follow. A
caption is left out with probability DROPOUT, which is the empty prompt. FLUX's pipeline pads captions to any length and
masks nothing; hosts see padding. Tokens of padding that are the same add up like one whose logit is greater by the
logarithm of their number, so training shows one for all of a random number, and the host does not mind how far a
caption is padded.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel
from safetensors.torch import load_model, save_model
from shapes_lessons import LESSONS, Lesson
from shapes_text import POOLED, TOKENS, WIDTH, make_clip, make_t5, tokenizer
from torch import Tensor, nn
from training import SEED, Optimizers, State, adamw, cooled, muon, train

from archspec.runtime.data.shapes import Pictures, pictures, render
from archspec.runtime.ecosystem.identity_autoencoder import IdentityAutoencoder
from archspec.runtime.objectives import Conditioning, Flow
from archspec.runtime.packing import Packing

BATCH, DROPOUT = 16, 0.1
STEPS = 12600
STAGES = ((6000, "adamw", 2.0), (8000, "muon", 2.0), (STEPS, "muon", 4.0))
"""Until which step, by which optimizer, and with which shift of times: t becomes shift * t / (1 + (shift - 1) * t)
(2403.03206, Sec. 5.3.2). The pipeline's scheduler has the last shift. docs/log.md tells why they change."""
SIDE, CHANNELS = 12, 48
"""Tokens side by side, each a patch of 4 x 4 pixels in three colours."""
HEADS, HEAD, DOUBLE, SINGLE = 3, 32, 2, 4
LONGEST_CONTEXT = 512
"""Tokens that FLUX's pipeline pads a caption to if it is not told a length."""


def make_host() -> FluxTransformer2DModel:
    """A fresh host: torch's default weights, the modulations and the last layer at zero (adaLN-Zero, 2212.09748)."""
    torch.manual_seed(SEED)
    model = FluxTransformer2DModel(
        patch_size=1,
        in_channels=CHANNELS,
        num_layers=DOUBLE,
        num_single_layers=SINGLE,
        attention_head_dim=HEAD,
        num_attention_heads=HEADS,
        joint_attention_dim=WIDTH,
        pooled_projection_dim=POOLED,
        guidance_embeds=False,
        axes_dims_rope=(4, 14, 14),
    )
    zero = [m.linear for m in model.modules() if type(m).__name__.startswith("AdaLayerNorm")] + [model.proj_out]
    for linear in zero:
        nn.init.zeros_(linear.weight)
        nn.init.zeros_(linear.bias)
    return model


def make_pipeline(model: FluxTransformer2DModel) -> FluxPipeline:
    return FluxPipeline(
        transformer=model,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=STAGES[-1][2]),
        vae=IdentityAutoencoder(latent_channels=12, block_out_channels=(3, 12)),
        text_encoder=make_clip(),
        tokenizer=tokenizer("<s> $A </s>"),
        text_encoder_2=make_t5(),
        tokenizer_2=tokenizer("$A </s>"),
    )


def padding(count: int, generator: torch.Generator) -> Tensor:
    """(count, 1, 1, tokens) for the logits: the last token of the context stands for a random number of tokens."""
    most = math.log(LONGEST_CONTEXT - TOKENS + 1)
    bias = torch.zeros(count, 1, 1, TOKENS + SIDE * SIDE)
    bias[..., TOKENS - 1] = (most * torch.rand(count, 1, 1, generator=generator)).exp().round().log()
    return bias


Pictured = Callable[[Sequence[int]], Pictures]


@dataclass(frozen=True)
class Examples:
    """The inputs of a step, what the host should answer, and what errors count: pure functions of the step. `pictures`:
    of indices; `weights`: of their masks."""

    pipeline: FluxPipeline
    shift: float
    pictures: Pictured = pictures
    weights: Callable[[Any], Tensor] = lambda masks: torch.ones(())

    @cached_property
    def flow(self) -> Flow:
        told = Conditioning(caption=(TOKENS, WIDTH), pooled=POOLED)
        return Flow(told, packing=Packing(channels=CHANNELS), shift=self.shift)

    def __call__(self, step: int) -> tuple[dict[str, Any], Tensor, Tensor]:
        generator = torch.Generator().manual_seed((SEED << 32) + step)
        drawn = self.pictures(range(step * BATCH, (step + 1) * BATCH))
        said = torch.rand(BATCH, generator=generator) >= DROPOUT
        prompts = [caption if keep else "" for caption, keep in zip(drawn.captions, said, strict=True)]
        x = self.pipeline.vae.encode(torch.from_numpy(drawn.images)).latent_dist.mode()
        context, pooled, _ = self.pipeline.encode_prompt(prompts, prompts, max_sequence_length=TOKENS)
        keywords, target = self.flow.inputs({"x": x, "caption": context, "pooled": pooled}, generator)
        keywords |= {"joint_attention_kwargs": {"attention_mask": padding(BATCH, generator)}}
        return keywords, target, self.weights(drawn.masks)


def train_shapes(out: Path) -> None:
    """All pictures first, then the lessons, each from the average of what was before it, with fresh moments."""
    model = make_host().train()
    pipeline = make_pipeline(model)
    parts = [partial(train_whole, pipeline), *(partial(train_lesson, pipeline, lesson) for lesson in LESSONS)]
    for number, part in enumerate(parts):
        done, path = out / f".part-{number}.safetensors", out / ".state.safetensors"
        if done.exists():
            load_model(model, done)
            continue
        part(path)
        save_model(model, done)
        path.unlink(missing_ok=True)
    write(pipeline, out)
    for number in range(len(parts)):
        (out / f".part-{number}.safetensors").unlink()


def train_whole(pipeline: FluxPipeline, path: Path) -> None:
    model = pipeline.transformer
    for until, optimizer, shift in STAGES:
        state = State(model, path, OPTIMIZERS[optimizer](model))
        train(model, state, until, partial(loss_of, model, Examples(pipeline, shift)), partial(cooled, steps=STEPS))


def train_lesson(pipeline: FluxPipeline, lesson: Lesson, path: Path) -> None:
    def shown(indices: Sequence[int]) -> Pictures:
        return render([lesson.scene(lesson.first + index) for index in indices])

    model = pipeline.transformer
    examples = Examples(pipeline, lesson.shift, shown, lesson.weights)
    state = State(model, path, adamw(model, lesson.peak), ema=0.995)
    train(model, state, lesson.steps, partial(loss_of, model, examples), partial(cooled, steps=lesson.steps, warmup=50))


def matrices(model: FluxTransformer2DModel) -> list[nn.Parameter]:
    """The maps inside the blocks, without those of the modulations."""
    blocks = [*model.transformer_blocks, *model.single_transformer_blocks]
    found = [named for block in blocks for named in block.named_modules() if isinstance(named[1], nn.Linear)]
    return [module.weight for name, module in found if "norm" not in name]


def loss_of(model: FluxTransformer2DModel, examples: Examples, step: int) -> Tensor:
    keywords, target, weights = examples(step)
    error = (examples.flow.output(model(**keywords)) - target) ** 2
    return (weights * error).mean() / weights.mean()


OPTIMIZERS: Mapping[str, Callable[[FluxTransformer2DModel], Optimizers]] = {
    "adamw": adamw,
    "muon": lambda model: muon(matrices(model), model),
}


def write(pipeline: FluxPipeline, out: Path) -> None:
    """Write the folder of the pipeline: the transformer in fp16, which diffusers reads as fp32; the small encoders in
    fp32, since transformers reads weights in the type that they are stored in."""
    pipeline.transformer.half()
    pipeline.save_pretrained(out)
