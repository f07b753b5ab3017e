"""Inpainting by pipelines of diffusers, on tiny random ones of the real classes."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import load_file, save_file

from archspec.diagnostics import ArchspecError
from archspec.runtime.collage import DiffusersInpainter
from archspec.runtime.collage.making import erase
from archspec.runtime.collage.masks import Mask, Pixels, dilated

DIGITS = Path(__file__).parents[3] / "specs" / "hosts" / "digits"


@pytest.mark.parametrize("kind", ["inpaint", "plain"])
def test_a_pipeline_paints_the_hole(stable_diffusion: Path, kind: str, picture: Pixels, letter: Mask) -> None:
    inpainter = DiffusersInpainter(stable_diffusion / kind, "grass", steps=2)
    assert type(inpainter.pipe).__name__ == "StableDiffusionInpaintPipeline"
    painted, hole = erase(picture, [letter], inpainter), dilated(letter)
    assert np.array_equal(painted[~hole], picture[~hole])
    assert np.abs(painted[hole].astype(int) - picture[hole]).mean() > 10
    assert np.array_equal(painted, erase(picture, [letter], inpainter))  # it draws from its seed
    inpainter.seed = 1
    assert not np.array_equal(painted[hole], erase(picture, [letter], inpainter)[hole])


class Recording:
    """Stands for a pipeline: keeps what it is asked for and paints white, at twice the size."""

    def __init__(self, flagged: bool = False) -> None:
        self.flagged = flagged

    def __call__(
        self, image: Image.Image, mask_image: Image.Image, generator: object, height: int, width: int, strength: float
    ) -> SimpleNamespace:
        self.image, self.mask, self.size, self.strength = image, mask_image, (width, height), strength
        white = Image.new("RGB", (2 * width, 2 * height), "white")
        return SimpleNamespace(images=[white], nsfw_content_detected=[self.flagged])


def recorded(stable_diffusion: Path, flagged: bool = False) -> tuple[DiffusersInpainter, Recording]:
    inpainter, pipe = DiffusersInpainter(stable_diffusion / "inpaint"), Recording(flagged)
    inpainter.pipe = pipe
    return inpainter, pipe


def test_the_pipeline_is_given_padded_pictures(stable_diffusion: Path, picture: Pixels, letter: Mask) -> None:
    inpainter, pipe = recorded(stable_diffusion)
    painted = inpainter(picture[:59, :75], letter[:59, :75])
    assert painted.shape == (59, 75, 3)
    assert (painted == 255).all()
    assert pipe.image.size == pipe.mask.size == pipe.size == (80, 64)
    assert np.array_equal(np.asarray(pipe.image)[:59, :75], picture[:59, :75])
    assert np.array_equal(np.asarray(pipe.mask) > 0, np.pad(letter[:59, :75], ((0, 5), (0, 5))))
    assert pipe.strength == 1


def test_a_blackened_picture_is_no_background(stable_diffusion: Path, picture: Pixels, letter: Mask) -> None:
    with pytest.raises(ArchspecError, match=r"AS779.*safety checker"):
        recorded(stable_diffusion, flagged=True)[0](picture, letter)


def test_a_pipeline_that_fails(stable_diffusion: Path, picture: Pixels, letter: Mask) -> None:
    with pytest.raises(ArchspecError, match=r"AS779.*StableDiffusionInpaintPipeline failed"):
        DiffusersInpainter(stable_diffusion / "inpaint", steps=2000)(picture, letter)


def test_weights_that_are_not_there(stable_diffusion: Path, tmp_path: Path) -> None:
    shutil.copytree(stable_diffusion / "inpaint", tmp_path / "part")
    file = tmp_path / "part" / "unet" / "diffusion_pytorch_model.safetensors"
    weights = load_file(file)
    weights.pop("conv_in.weight")
    save_file(weights, file, {"format": "pt"})
    with pytest.raises(ArchspecError, match=r"AS773.*lacks 1 of its tensors, 'unet/conv_in.weight'"):
        DiffusersInpainter(tmp_path / "part")


def test_no_inpainting_pipeline(tmp_path: Path) -> None:
    with pytest.raises(ArchspecError, match=r"AS773.*no folder"):
        DiffusersInpainter(tmp_path / "none")
    with pytest.raises(ArchspecError, match=r"AS773.*is no inpainting pipeline"):
        DiffusersInpainter(tmp_path)
    with pytest.raises(ArchspecError, match=r"AS773.*is no inpainting pipeline"):
        DiffusersInpainter(DIGITS)
