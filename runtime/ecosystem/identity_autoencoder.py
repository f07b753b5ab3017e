"""A latent codec that changes nothing, for diffusion hosts that work on pixels.

Pipelines of latent diffusion expect an autoencoder. With this one as `vae`, a plain `DiTPipeline` samples from a host
that was trained on images in [-1, 1] themselves: `model_index.json` names it `["archspec", "IdentityAutoencoder"]`.
With more than one entry in `block_out_channels` it halves the sides as often as such an autoencoder of diffusers does,
and loses nothing: what stood side by side stands in channels (`pixel_unshuffle`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from diffusers.models.autoencoders.vae import DecoderOutput
from diffusers.models.modeling_outputs import AutoencoderKLOutput
from torch import Tensor
from torch.nn import functional as F


class Exact:
    """The distribution whose every sample is `value`."""

    def __init__(self, value: Tensor) -> None:
        self.value = value

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        return self.value

    def mode(self) -> Tensor:
        return self.value


class IdentityAutoencoder(ModelMixin, ConfigMixin):  # type: ignore[misc]
    """decode(encode(x)) = x, (batch, channels, rows, columns); latents are neither scaled nor shifted. With n entries
    in `block_out_channels` latents are (batch, channels * 4^(n - 1), rows / 2^(n - 1), columns / 2^(n - 1))."""

    @register_to_config  # type: ignore[untyped-decorator]
    def __init__(
        self,
        latent_channels: int = 1,
        scaling_factor: float = 1.0,
        shift_factor: float = 0.0,
        block_out_channels: Sequence[int] = (1,),
    ) -> None:
        super().__init__()
        self.register_buffer("unit", torch.ones(()))

    @property
    def reduction(self) -> int:
        """How many pixels stand side by side for one of a latent."""
        return 1 << (len(self.config.block_out_channels) - 1)

    def encode(self, x: Tensor, return_dict: bool = True) -> Any:
        latent = Exact(F.pixel_unshuffle(x, self.reduction) if self.reduction > 1 else x)
        return AutoencoderKLOutput(latent_dist=latent) if return_dict else (latent,)

    def decode(self, z: Tensor, return_dict: bool = True, generator: torch.Generator | None = None) -> Any:
        sample = F.pixel_shuffle(z, self.reduction) if self.reduction > 1 else z
        return DecoderOutput(sample=sample) if return_dict else (sample,)

    def forward(self, sample: Tensor, return_dict: bool = True) -> Any:
        return self.decode(self.encode(sample).latent_dist.mode(), return_dict)


IdentityAutoencoder.__module__ = "archspec"
