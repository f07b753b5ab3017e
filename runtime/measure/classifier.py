"""An image classifier of transformers as a judge: pooled features for the Frechet distance, answers for the agreement.

Any folder that `AutoModelForImageClassification` loads will do; size, mean and deviation of its inputs are read from
`preprocessor_config.json`. For the bundled digits and Fashion-MNIST the classifiers in `specs/hosts` are found by
themselves.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

import archspec
from archspec.diagnostics import fail
from archspec.runtime.store.home import read_json

BUNDLED: Mapping[str, str] = {"digits": "specs/hosts/digits-classifier", "fashion": "specs/hosts/fashion-classifier"}
"""Bundled data set to its classifier, from the root of the project."""


@dataclass(frozen=True)
class Verdict:
    """`features` (images, width) float64; `classes` (images,)."""

    features: Tensor
    classes: Tensor


class Classifier:
    """Judges pixels (images, channels, height, width) in [-1, 1]."""

    def __init__(self, folder: Path, device: str | torch.device = "cpu") -> None:
        self.folder, self.device = folder, torch.device(device)
        self.model = _load(folder).to(self.device)
        file = folder / "preprocessor_config.json"
        config = read_json(file) if file.is_file() else {}
        self.size = _size(config.get("size"), self.model.config)
        self.mean, self.deviation = (self._moment(config, key) for key in ("image_mean", "image_std"))
        self.channels = int(getattr(self.model.config, "num_channels", 3))

    @property
    def features(self) -> int:
        """How many features it sees in an image."""
        return int(_last_linear(self.model).in_features)

    def _moment(self, config: Mapping[str, Any], key: str) -> Tensor:
        values = torch.tensor(config.get(key) or [0.5], dtype=torch.float32, device=self.device)
        return values.reshape(1, -1, 1, 1)

    @torch.no_grad()
    def judge(self, pixels: Tensor, batch: int = 250) -> Verdict:
        """Return features and answers of all images."""
        parts = [self._judge(part.to(self.device)) for part in torch.split(pixels.float(), batch)]
        return Verdict(torch.cat([p.features for p in parts]), torch.cat([p.classes for p in parts]))

    def _judge(self, pixels: Tensor) -> Verdict:
        """The features are what the last linear layer of the classifier is given, one vector per image."""
        seen: list[Tensor] = []
        hook = _last_linear(self.model).register_forward_pre_hook(lambda _, args: seen.append(args[0].flatten(1)))
        try:
            logits = self.model(pixel_values=self.prepare(pixels)).logits
        finally:
            hook.remove()
        return Verdict(seen[0].double().cpu(), logits.argmax(-1).cpu())

    def prepare(self, pixels: Tensor) -> Tensor:
        """Return the images as the classifier was trained on them."""
        if pixels.shape[1] != self.channels:
            pixels = pixels.expand(-1, self.channels, -1, -1) if pixels.shape[1] == 1 else pixels.mean(1, keepdim=True)
        if self.size is not None and tuple(pixels.shape[2:]) != self.size:
            smaller = self.size[0] < pixels.shape[2]
            pixels = F.interpolate(pixels, self.size, mode="bilinear", antialias=smaller, align_corners=False)
        return ((pixels + 1) / 2 - self.mean) / self.deviation


def _load(folder: Path) -> Any:
    from transformers import AutoModelForImageClassification

    try:
        found = AutoModelForImageClassification.from_pretrained(folder, dtype=torch.float32, local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        first = str(error).partition("\n")[0]
        raise fail("AS711", f"'{folder}' is no image classifier of transformers: {first}") from error
    return found.eval()


def _last_linear(model: Any) -> torch.nn.Linear:
    classes = model.config.num_labels
    linears = [m for m in model.modules() if isinstance(m, torch.nn.Linear) and m.out_features == classes]
    if not linears:
        raise fail("AS711", f"{type(model).__name__} does not end in a linear layer of {classes} classes")
    return linears[-1]


def _size(size: Any, config: Any) -> tuple[int, int] | None:
    """Return (height, width) from the ways in which processors write it, else from the model's config."""
    if isinstance(size, Mapping):
        side = size.get("shortest_edge")
        return (int(size.get("height", side)), int(size.get("width", side)))
    if isinstance(size, int):
        return (size, size)
    side = getattr(config, "image_size", None)
    return (side, side) if isinstance(side, int) else None


def find_classifier(written: str | None, data: str | None, near: Path) -> Path:
    """Return the folder of the classifier that a spec names, or of the one that belongs to bundled data."""
    if written is not None:
        return _named(written, near)
    place = BUNDLED.get(data or "")
    folder = Path(archspec.__file__).resolve().parent.parent / place if place else None
    if folder is None or not folder.is_dir():
        hint = "give one: eval: {classifier: path or hub id}, or --classifier"
        raise fail("AS711", "no classifier to measure fd and agreement with", None, hint)
    return folder


def _named(written: str, near: Path) -> Path:
    folder = (near / Path(written).expanduser()).resolve()
    if folder.is_dir():
        return folder
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(written, allow_patterns=["*.json", "*.safetensors"]))
    except (LocalEntryNotFoundError, HfHubHTTPError, HFValidationError, OSError) as error:
        raise fail("AS711", f"no classifier at '{written}'", None, f"looked for '{folder}', then on the hub") from error
