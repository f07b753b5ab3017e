"""The autoencoder of the host of shapes: diffusers' AutoencoderKL, trained on the same pictures before the host is.

It halves each side and keeps four numbers of the twelve of 2 x 2 pixels, so that the host need not draw edges and
textures pixel by pixel, as FLUX need not. The loss is that of a Gaussian decoder (1312.6114, Eq. 3) up to a factor.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from torch import Tensor
from training import SEED, State, adamw, cooled, train

from archspec.runtime.data.shapes import pictures

STEPS, BATCH, PEAK = 2000, 16, 2e-3
FIRST = 20_000_000
"""Index of the first picture; the host's are others."""
NATS = 5e-4
"""What a nat for each latent number costs, in squared error for each number of a picture in [-1, 1]."""
CHANNELS, MEASURED = 4, 1024


def make_vae() -> AutoencoderKL:
    torch.manual_seed(SEED)
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(16, 32),
        layers_per_block=1,
        latent_channels=CHANNELS,
        norm_num_groups=8,
        sample_size=48,
        mid_block_add_attention=False,
        use_quant_conv=False,
        use_post_quant_conv=False,
        scaling_factor=1.0,
        shift_factor=0.0,
    )


def loss_of(vae: AutoencoderKL, step: int) -> Tensor:
    images = torch.from_numpy(pictures(range(FIRST + step * BATCH, FIRST + (step + 1) * BATCH)).images)
    posterior = vae.encode(images).latent_dist
    drawn = posterior.sample(torch.Generator().manual_seed((SEED << 32) + step))
    error = (vae.decode(drawn).sample - images) ** 2
    return error.mean() + NATS * posterior.kl().sum() / drawn.numel()


def train_vae(path: Path) -> AutoencoderKL:
    """Return the trained autoencoder, frozen; its latents have mean zero and deviation one, as the host sees them."""
    vae = make_vae().train()
    train(vae, State(vae, path, adamw(vae, PEAK)), STEPS, partial(loss_of, vae), partial(cooled, steps=STEPS))
    vae.half().float().eval().requires_grad_(False)
    some = torch.from_numpy(pictures(range(FIRST - MEASURED, FIRST)).images)
    latents = torch.cat([vae.encode(images).latent_dist.mode() for images in some.split(64)])
    vae.register_to_config(shift_factor=float(latents.mean()), scaling_factor=float(1 / latents.std()))
    return vae
