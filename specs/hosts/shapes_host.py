"""The host of captions: diffusers' FluxTransformer2DModel, trained with rectified flow on the pictures of `shapes`.

Each step draws new pictures (index = step * batch + place), so none is seen twice. Errors at subjects' tokens count
more. Beside the flow, features half way up must tell what is in each token's patch of the clean picture: the drawing
knows, so a linear map (`Reader`) is trained with the host and left behind, as in REPA (2410.06940), where a network of
images gives the features.

A caption is left out with probability DROPOUT, which is the empty prompt. FLUX's pipeline pads captions to any length
and masks nothing; hosts see padding. Tokens of padding that are the same add up like one whose logit is greater by the
logarithm of their number, so training shows one for all of a random number, and the host does not mind how far a
caption is padded.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel
from shapes_read import Reader, labels
from shapes_text import POOLED, TOKENS, WIDTH, make_clip, make_t5, tokenizer
from shapes_vae import CHANNELS, train_vae
from torch import Tensor, nn
from training import SEED, State, adamw, cooled, train

from archspec.runtime.data.shapes import pictures
from archspec.runtime.objectives import Conditioning, Flow
from archspec.runtime.packing import Packing

STEPS, AGAIN, BATCH, PEAK = 9000, 11_000, 16, 2e-3
COOLING = 4 / 9
"""STEPS, whose last part cools, and AGAIN more from there (WSD-S, 2410.05192), warmed up once more and then cooled
throughout."""
DROPOUT, SHIFT = 0.1, 2.0
"""SHIFT: times t become shift * t / (1 + (shift - 1) * t) (2403.03206, Sec. 5.3.2), in the pipeline's scheduler too."""
SIDE = 12
"""Tokens side by side, each a patch of 2 x 2 latents, 4 x 4 pixels."""
HEADS, HEAD, DOUBLE, SINGLE = 3, 32, 2, 4
WEIGHT, READ, POOL = 3.0, 2.0, 6
"""WEIGHT: how much more errors count at subjects' tokens, which have one within the POOL pixels around the middle of
their four. READ: what the reader's error counts."""
LONGEST_CONTEXT = 512
"""Tokens that FLUX's pipeline pads a caption to if it is not told a length."""


def make_host() -> FluxTransformer2DModel:
    """A fresh host: torch's default weights, the modulations and the last layer at zero (adaLN-Zero, 2212.09748)."""
    torch.manual_seed(SEED)
    model = FluxTransformer2DModel(
        patch_size=1,
        in_channels=4 * CHANNELS,
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


def make_pipeline(model: FluxTransformer2DModel, vae: AutoencoderKL) -> FluxPipeline:
    return FluxPipeline(
        transformer=model,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=SHIFT),
        vae=vae,
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


@dataclass(frozen=True)
class Example:
    """A step's batch: the host's `inputs`, its `target`, what errors count (batch, tokens, 1), and what the reader is
    to tell."""

    inputs: Mapping[str, Any]
    target: Tensor
    weights: Tensor
    labels: Tensor


@dataclass(frozen=True)
class Examples:
    """The example of a step, a pure function of it."""

    pipeline: FluxPipeline

    @cached_property
    def flow(self) -> Flow:
        told = Conditioning(caption=(TOKENS, WIDTH), pooled=POOLED)
        return Flow(told, packing=Packing(channels=4 * CHANNELS), shift=SHIFT)

    def __call__(self, step: int) -> Example:
        generator = torch.Generator().manual_seed((SEED << 32) + step)
        drawn = pictures(range(step * BATCH, (step + 1) * BATCH))
        said = torch.rand(BATCH, generator=generator) >= DROPOUT
        prompts = [caption if keep else "" for caption, keep in zip(drawn.captions, said, strict=True)]
        context, pooled, _ = self.pipeline.encode_prompt(prompts, prompts, max_sequence_length=TOKENS)
        latents = {"x": self.latents(torch.from_numpy(drawn.images)), "caption": context, "pooled": pooled}
        inputs, target = self.flow.inputs(latents, generator)
        inputs |= {"joint_attention_kwargs": {"attention_mask": padding(BATCH, generator)}}
        return Example(inputs, target, weights(torch.from_numpy(drawn.masks)), labels(drawn))

    def latents(self, images: Tensor) -> Tensor:
        vae = self.pipeline.vae
        with torch.no_grad():
            mode = vae.encode(images).latent_dist.mode()
        return (mode - vae.config.shift_factor) * vae.config.scaling_factor


def weights(masks: Tensor) -> Tensor:
    """Return (pictures, tokens, 1): what errors count. `masks`: (pictures, subjects, rows, columns)."""
    near = nn.functional.max_pool2d(masks.any(1).float()[:, None], POOL, stride=4, padding=1)
    return 1 + WEIGHT * near.flatten(1)[..., None]


def train_shapes(out: Path) -> None:
    """The autoencoder first, then the host on its latents."""
    vae = train_vae(out / ".vae.safetensors")
    pipeline = make_pipeline(make_host(), vae)
    train_host(pipeline, out / ".state.safetensors")
    write(make_pipeline(pipeline.transformer, vae), out)  # tokenizers as they are before they are used
    for name in (".vae.safetensors", ".state.safetensors"):
        (out / name).unlink()


def train_host(pipeline: FluxPipeline, path: Path) -> None:
    taught = Reader(pipeline.transformer).train()
    state = State(taught, path, adamw(taught, PEAK))
    train(taught, state, STEPS + AGAIN, partial(loss_of, taught, Examples(pipeline)), share)
    pipeline.transformer.eval()


def share(step: int) -> float:
    """Share of the peak learning rate at a step."""
    return cooled(step, STEPS, COOLING) if step < STEPS else cooled(step - STEPS, AGAIN, 1.0)


def loss_of(taught: Reader, examples: Examples, step: int) -> Tensor:
    example = examples(step)
    output, read = taught(example.inputs)
    error = (examples.flow.output(output) - example.target) ** 2
    flow = (example.weights * error).mean() / example.weights.mean()
    return flow + READ * nn.functional.binary_cross_entropy_with_logits(read, example.labels)


def write(pipeline: FluxPipeline, out: Path) -> None:
    """Write the folder of the pipeline: transformer and autoencoder in fp16, which diffusers reads as fp32; the small
    encoders in fp32, since transformers reads weights in the type that they are stored in."""
    pipeline.transformer.half()
    pipeline.vae.half()
    pipeline.save_pretrained(out)
