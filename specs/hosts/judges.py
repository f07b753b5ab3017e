"""The classifiers that judge what hosts draw: small residual networks on the images of a bundled data set."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F
from training import BATCH, SEED, indices
from transformers import ResNetConfig, ResNetForImageClassification

from archspec.runtime.data.bundled import load_bundled

CLASSES = 10


@dataclass(frozen=True)
class Judge:
    """A classifier. `size`: images are enlarged to it, in pixels, and shifted by up to `reach` of their own."""

    data: str
    size: int
    epochs: int
    reach: int


JUDGES: Mapping[str, Judge] = {
    "digits-classifier": Judge("digits", 32, epochs=40, reach=4),
}


def train_classifier(judge: Judge, out: Path) -> None:
    """A residual network on the images at four times their size, shifted by up to four of the large pixels."""
    torch.manual_seed(SEED)
    config = ResNetConfig(
        num_channels=1,
        embedding_size=32,
        hidden_sizes=[32, 64],
        depths=[1, 1],
        layer_type="basic",
        id2label={i: str(i) for i in range(CLASSES)},
        label2id={str(i): i for i in range(CLASSES)},
    )
    model = ResNetForImageClassification(config).train()
    arrays = load_bundled(judge.data, "train")
    images, labels = enlarge(torch.from_numpy(arrays[0]), judge.size), torch.from_numpy(arrays[1])
    steps = judge.epochs * (len(images) // BATCH)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps)
    generator = torch.Generator().manual_seed(SEED)
    for step in range(steps):
        chosen = indices(step, len(images))
        logits = model(pixel_values=shifted(images[chosen], generator, judge.reach)).logits
        torch.autograd.backward(F.cross_entropy(logits, labels[chosen]))
        optimizer.step()
        schedule.step()
        optimizer.zero_grad(set_to_none=True)
    model.eval().half().save_pretrained(out)
    size = {"height": judge.size, "width": judge.size}
    processor = {"do_resize": True, "size": size, "resample": 2, "image_mean": [0.5], "image_std": [0.5]}
    (out / "preprocessor_config.json").write_text(json.dumps(processor, indent=2) + "\n")
    print(f"classifier: {accuracy(judge, out, 'test'):.4f} of the test split right", flush=True)


def enlarge(images: Tensor, size: int) -> Tensor:
    return F.interpolate(images, size=size, mode="bilinear", align_corners=False)


def shifted(images: Tensor, generator: torch.Generator, reach: int) -> Tensor:
    """Each image moved by up to `reach` pixels; the uncovered border takes the background, -1."""
    padded = F.pad(images, (reach,) * 4, value=-1.0)
    corners = torch.randint(0, 2 * reach + 1, (len(images), 2), generator=generator).tolist()
    size = images.shape[-1]
    return torch.stack([image[:, y : y + size, x : x + size] for image, (y, x) in zip(padded, corners, strict=True)])


def accuracy(judge: Judge, folder: Path, split: str) -> float:
    model = ResNetForImageClassification.from_pretrained(folder, dtype=torch.float32).eval()
    images, labels = load_bundled(judge.data, split)
    with torch.no_grad():
        found = model(pixel_values=enlarge(torch.from_numpy(images), judge.size)).logits.argmax(-1)
    return float((found == torch.from_numpy(labels)).float().mean())
