"""A latent codec that changes nothing, for diffusion hosts that work on pixels.

Pipelines of latent diffusion expect an autoencoder. With this one as `vae`, a plain `DiTPipeline` samples from a host
that was trained on images in [-1, 1] themselves: `model_index.json` names it `["archspec", "IdentityAutoencoder"]`.
"""

from __future__ import annotations

from typing import Any

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from diffusers.models.autoencoders.vae import DecoderOutput
from diffusers.models.modeling_outputs import AutoencoderKLOutput
from torch import Tensor


class Exact:
    """The distribution whose every sample is `value`."""

    def __init__(self, value: Tensor) -> None:
        self.value = value

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        return self.value

    def mode(self) -> Tensor:
        return self.value


class IdentityAutoencoder(ModelMixin, ConfigMixin):  # type: ignore[misc]
    """encode(x) = decode(x) = x, (batch, channels, rows, columns); latents are not scaled."""

    @register_to_config  # type: ignore[untyped-decorator]
    def __init__(self, latent_channels: int = 1, scaling_factor: float = 1.0) -> None:
        super().__init__()
        self.register_buffer("unit", torch.ones(()))

    def encode(self, x: Tensor, return_dict: bool = True) -> Any:
        return AutoencoderKLOutput(latent_dist=Exact(x)) if return_dict else (Exact(x),)

    def decode(self, z: Tensor, return_dict: bool = True, generator: torch.Generator | None = None) -> Any:
        return DecoderOutput(sample=z) if return_dict else (z,)

    def forward(self, sample: Tensor, return_dict: bool = True) -> Any:
        return self.decode(sample, return_dict)


IdentityAutoencoder.__module__ = "archspec"
