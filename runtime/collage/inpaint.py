"""Painting over the subjects that are removed from a template."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image
from torch import nn

from archspec.diagnostics import fail
from archspec.runtime.collage.masks import Mask, Pixels
from archspec.runtime.collage.opening import check_whole, opened

EXTRA = "features"
SIDE = 16
"""Pictures are padded to a multiple of this, which autoencoders and patches divide."""


class Inpainter(Protocol):
    """Anything that paints the hole (H, W) of a picture (H, W, 3) uint8 and returns the whole, of the same size.

    What it changes outside of the hole is dropped.
    """

    def __call__(self, image: Pixels, hole: Mask) -> Pixels: ...


class TeleaInpainter:
    """OpenCV's fast marching (Telea 2004): smooth surroundings grow into the hole. Needs nothing but OpenCV."""

    def __init__(self, radius: float = 3.0) -> None:
        """`radius`: pixels around each one painted that it is made of. Raises AS777 without OpenCV."""
        try:
            import cv2
        except ImportError as error:
            hints = (f'pip install "archspec-compiler[{EXTRA}]"', "or give an inpainting pipeline of diffusers")
            raise fail(
                "AS777", "removing a template's subjects takes OpenCV, which is missing", None, *hints
            ) from error
        self._cv2: Any = cv2
        self.radius = radius

    def __call__(self, image: Pixels, hole: Mask) -> Pixels:
        found: Pixels = self._cv2.inpaint(
            np.ascontiguousarray(image), hole.astype(np.uint8), self.radius, self._cv2.INPAINT_TELEA
        )
        return found


class DiffusersInpainter:
    """A pipeline of diffusers: an inpainting one, or one that diffusers knows an inpainting pipeline of."""

    def __init__(
        self, source: Path | str, prompt: str = "", steps: int = 50, seed: int = 0, device: str | torch.device = "cpu"
    ) -> None:
        """Load the pipeline of a folder or a hub id; AS773 where there is none. `prompt` says what to paint."""
        self.pipe, self.prompt, self.steps, self.seed = _open(source).to(device), prompt, steps, seed
        self.pipe.set_progress_bar_config(disable=True)

    def __call__(self, image: Pixels, hole: Mask) -> Pixels:
        """Raises AS779 where the pipeline fails on the picture, or its safety checker blackens what it painted."""
        height, width = hole.shape
        spare = ((0, -height % SIDE), (0, -width % SIDE))
        picture = Image.fromarray(np.pad(image, (*spare, (0, 0)), mode="edge"))
        mask = Image.fromarray(np.pad(hole, spare).astype(np.uint8) * 255)
        generator = torch.Generator("cpu").manual_seed(self.seed)
        try:
            found = self.pipe(image=picture, mask_image=mask, generator=generator, **self._settings(picture))
        except (ValueError, TypeError, RuntimeError) as error:
            first = str(error).partition("\n")[0]
            raise fail("AS779", f"{type(self.pipe).__name__} failed: {first}") from error
        if any(getattr(found, "nsfw_content_detected", None) or ()):
            hint = "write another prompt, or paint with OpenCV"
            raise fail("AS779", "the pipeline's safety checker blackened what it painted", None, hint)
        painted = found.images[0].convert("RGB").resize(picture.size, Image.Resampling.LANCZOS)
        return np.asarray(painted)[:height, :width]

    def _settings(self, picture: Image.Image) -> dict[str, Any]:
        """Return what is asked of the pipeline, as far as it can be asked."""
        wanted = {
            "prompt": self.prompt,
            "num_inference_steps": self.steps,
            "height": picture.height,
            "width": picture.width,
            "strength": 1.0,  # nothing of the subject is to be left
            "output_type": "pil",
        }
        known = inspect.signature(self.pipe.__call__).parameters
        return {name: value for name, value in wanted.items() if name in known}


def _open(source: Path | str) -> Any:
    """Return the pipeline; of a folder with another one, the inpainting pipeline that is made of the same parts."""
    from diffusers import AutoPipelineForInpainting, DiffusionPipeline

    what = "inpainting pipeline of diffusers"
    pipe = opened(what, source, lambda: DiffusionPipeline.from_pretrained(source))
    modules = {name: part for name, part in pipe.components.items() if isinstance(part, nn.Module)}
    tensors = {f"{name}/{path}": p for name, part in modules.items() for path, p in part.named_parameters()}
    check_whole(source, [name for name, p in tensors.items() if p.is_meta])
    if "mask_image" in inspect.signature(pipe.__call__).parameters:
        return pipe
    return opened(what, source, lambda: AutoPipelineForInpainting.from_pipe(pipe))
