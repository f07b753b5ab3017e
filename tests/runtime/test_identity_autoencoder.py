"""The codec that halves the sides: nothing is lost, and FLUX's own packing makes 4 x 4 patches of its latents."""

from __future__ import annotations

from pathlib import Path

import torch

import archspec
from archspec.runtime.packing import Packing


def test_folding_keeps_every_number(tmp_path: Path) -> None:
    codec, x = archspec.IdentityAutoencoder(latent_channels=12, block_out_channels=(3, 12)), torch.randn(2, 3, 8, 6)
    z = codec.encode(x).latent_dist.mode()
    assert z.shape == (2, 12, 4, 3)
    assert torch.equal(codec.decode(z).sample, x)
    assert torch.equal(codec(x).sample, x)
    assert torch.equal(z[0, :4, 1, 2], x[0, 0, 2:4, 4:6].flatten())
    codec.save_pretrained(tmp_path)
    assert archspec.IdentityAutoencoder.from_pretrained(tmp_path).reduction == 2


def test_a_token_is_a_patch_of_pixels() -> None:
    codec, x = archspec.IdentityAutoencoder(latent_channels=12, block_out_channels=(3, 12)), torch.randn(1, 3, 8, 8)
    tokens = Packing(48).pack(codec.encode(x).latent_dist.mode())
    assert tokens.shape == (1, 4, 48)
    assert torch.equal(tokens[0, 1].sort().values, x[0, :, :4, 4:].flatten().sort().values)
