"""The classifiers that judge what hosts draw: small residual networks on the images of a bundled data set."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from fetch import fetch_fashion
from torch import Tensor
from torch.nn import functional as F
from training import BATCH, SEED, indices
from transformers import ResNetConfig, ResNetForImageClassification

from archspec.runtime.data.bundled import load_bundled
from archspec.runtime.data.examples import fit_image

CLASSES = 10


@dataclass(frozen=True)
class Judge:
    """A classifier. `size`: images are enlarged to it, in pixels, and shifted by up to `reach` of these. `hosts`: what
    the hosts that it judges draw, in pixels; examples are brought to each in turn before they are enlarged (none: the
    data's own size)."""

    data: str
    size: int
    epochs: int
    reach: int
    hosts: tuple[int, ...] = ()

    def images(self, split: str) -> list[Tensor]:
        """Return a split as the classifier sees it, (count, 1, size, size), once for each size of its hosts."""
        images = torch.from_numpy(load_bundled(self.data, split)[0])
        sizes = self.hosts or (images.shape[-1],)
        return [enlarge(torch.stack([fit_image(x, (1, size, size)) for x in images]), self.size) for size in sizes]

    def labels(self, split: str) -> Tensor:
        return torch.from_numpy(load_bundled(self.data, split)[1])


JUDGES: Mapping[str, Judge] = {
    "digits-classifier": Judge("digits", 32, epochs=40, reach=4),
    "fashion-classifier": Judge("fashion", 32, epochs=8, reach=2, hosts=(16, 32)),
}


def train_classifier(judge: Judge, out: Path) -> None:
    """A residual network on enlarged images that are shifted a little."""
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
    if judge.data == "fashion":
        fetch_fashion()
    sizes, labels = judge.images("train"), judge.labels("train")
    steps = judge.epochs * (len(labels) // BATCH)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps)
    generator = torch.Generator().manual_seed(SEED)
    for step in range(steps):
        images, chosen = sizes[step % len(sizes)], indices(step, len(labels))
        logits = model(pixel_values=shifted(images[chosen], generator, judge.reach)).logits
        torch.autograd.backward(F.cross_entropy(logits, labels[chosen]))
        optimizer.step()
        schedule.step()
        optimizer.zero_grad(set_to_none=True)
    model.eval().half().save_pretrained(out)
    size = {"height": judge.size, "width": judge.size}
    processor = {"do_resize": True, "size": size, "resample": 2, "image_mean": [0.5], "image_std": [0.5]}
    (out / "preprocessor_config.json").write_text(json.dumps(processor, indent=2) + "\n")
    right = ", ".join(f"{part:.4f}" for part in accuracy(judge, out, "test"))
    print(f"classifier: {right} of the test split right", flush=True)


def enlarge(images: Tensor, size: int) -> Tensor:
    return F.interpolate(images, size=size, mode="bilinear", align_corners=False)


def shifted(images: Tensor, generator: torch.Generator, reach: int) -> Tensor:
    """Each image moved by up to `reach` pixels; the uncovered border takes the background, -1."""
    padded = F.pad(images, (reach,) * 4, value=-1.0)
    corners = torch.randint(0, 2 * reach + 1, (len(images), 2), generator=generator).tolist()
    size = images.shape[-1]
    return torch.stack([image[:, y : y + size, x : x + size] for image, (y, x) in zip(padded, corners, strict=True)])


@torch.no_grad()
def accuracy(judge: Judge, folder: Path, split: str) -> list[float]:
    """Return the part of a split that is read right, for each size of the judge's hosts."""
    model = ResNetForImageClassification.from_pretrained(folder, dtype=torch.float32).eval()
    labels = judge.labels(split)
    return [float((_answers(model, images) == labels).float().mean()) for images in judge.images(split)]


def _answers(model: ResNetForImageClassification, images: Tensor) -> Tensor:
    return torch.cat([model(pixel_values=part).logits.argmax(-1) for part in torch.split(images, 500)])
