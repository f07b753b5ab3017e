"""Train the embedded models: small diffusion transformers of images, and the classifiers that judge them.

    python specs/hosts/train.py [NAMES...] [--out specs/hosts]

A host is diffusers' DiTTransformer2DModel trained with rectified flow on a bundled data set, after the recipe of its
name; a classifier is a small residual network on the same images. Same seed, same weights (on one kind of CPU and
torch). A killed run goes on from its last state, kept as `.state.safetensors`. All are written as fp16 safetensors,
hosts as pipeline folders that plain diffusers loads.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import DiTTransformer2DModel, DPMSolverMultistepScheduler
from diffusers.training_utils import EMAModel
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import ResNetConfig, ResNetForImageClassification

from archspec.runtime.data.bundled import load_bundled
from archspec.runtime.ecosystem.identity_autoencoder import IdentityAutoencoder
from archspec.runtime.objectives import Conditioning, Flow, quiet_label_dropout

HERE = Path(__file__).parent
SEED, CLASSES = 0, 10
BATCH, PEAK, WARMUP, CLIP, EMA, DROPOUT = 64, 1e-3, 100, 1.0, 0.999, 0.1
SAVE_EVERY = 200


@dataclass(frozen=True)
class Recipe:
    """A host: 6 blocks of width 32 x `heads`, on (size / patch)^2 tokens of images resized to `size` pixels."""

    data: str
    size: int
    patch: int
    heads: int
    steps: int

    def images(self) -> tuple[Tensor, Tensor]:
        """Return the training split: images (count, 1, size, size) in [-1, 1], and labels."""
        images, labels = map(torch.from_numpy, load_bundled(self.data, "train"))
        if images.shape[-1] != self.size:
            images = F.interpolate(images, size=self.size, mode="area")
        return images, labels


HOSTS: Mapping[str, Recipe] = {
    "digits": Recipe("digits", 8, patch=2, heads=3, steps=2036),
    "digits-64": Recipe("digits", 8, patch=1, heads=3, steps=2036),
    "fashion-64": Recipe("fashion", 16, patch=2, heads=3, steps=6000),
    "fashion-256": Recipe("fashion", 32, patch=2, heads=4, steps=12000),
}


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


def make_host(recipe: Recipe) -> DiTTransformer2DModel:
    """A fresh host: torch's default weights, the modulations and the last layers at zero (adaLN-Zero, 2212.09748)."""
    torch.manual_seed(SEED)
    model = DiTTransformer2DModel(
        num_attention_heads=recipe.heads,
        attention_head_dim=32,
        in_channels=1,
        out_channels=1,
        num_layers=6,
        sample_size=recipe.size,
        patch_size=recipe.patch,
        num_embeds_ada_norm=CLASSES,
    )
    zero = [block.norm1.linear for block in model.transformer_blocks] + [model.proj_out_1, model.proj_out_2]
    for linear in zero:
        nn.init.zeros_(linear.weight)
        nn.init.zeros_(linear.bias)
    quiet_label_dropout(model)
    return model


def rate(step: int, steps: int) -> float:
    """Share of the peak learning rate at a step: linear warm-up, then half a cosine to zero."""
    if step < WARMUP:
        return (step + 1) / WARMUP
    return 0.5 * (1 + math.cos(math.pi * (step - WARMUP) / (steps - WARMUP)))


def indices(step: int, count: int) -> Tensor:
    """Examples of a step: a permutation per pass, a pure function of the step."""
    per_pass = count // BATCH
    generator = torch.Generator().manual_seed(SEED * 7919 + step // per_pass)
    start = step % per_pass * BATCH
    return torch.randperm(count, generator=generator)[start : start + BATCH]


class State:
    """Everything that a killed run needs: model, average and AdamW's moments in one safetensors file."""

    def __init__(self, model: nn.Module, path: Path) -> None:
        self.model, self.path = model, path
        self.ema = EMAModel(model.parameters(), decay=EMA)
        self.optimizer = torch.optim.AdamW(model.parameters(), lr=PEAK, betas=(0.9, 0.99))

    def save(self, step: int) -> None:
        tensors = {f"model.{k}": v for k, v in self.model.state_dict().items()}
        for i, (shadow, parameter) in enumerate(zip(self.ema.shadow_params, self.model.parameters(), strict=True)):
            moments = self.optimizer.state[parameter]
            tensors |= {f"ema.{i}": shadow, f"m.{i}": moments["exp_avg"], f"v.{i}": moments["exp_avg_sq"]}
        partial = self.path.with_suffix(".partial")
        save_file({k: v.contiguous() for k, v in tensors.items()}, partial, {"step": str(step)})
        os.replace(partial, self.path)

    def restore(self) -> int:
        """Load the last state if there is one; return the next step."""
        if not self.path.exists():
            return 0
        from safetensors import safe_open

        with safe_open(self.path, "pt") as file:
            step = int(file.metadata()["step"])
        tensors = load_file(self.path)
        self.model.load_state_dict({k.removeprefix("model."): v for k, v in tensors.items() if k.startswith("model.")})
        for i, parameter in enumerate(self.model.parameters()):
            self.ema.shadow_params[i].copy_(tensors[f"ema.{i}"])
            self.optimizer.state[parameter] = {
                "step": torch.tensor(float(step)),
                "exp_avg": tensors[f"m.{i}"],
                "exp_avg_sq": tensors[f"v.{i}"],
            }
        self.ema.optimization_step = step
        return step


def train_host(recipe: Recipe, out: Path) -> None:
    images, labels = recipe.images()
    model = make_host(recipe).train()
    state = State(model, out / ".state.safetensors")
    objective = Flow(Conditioning(null=CLASSES, dropout=DROPOUT))
    first = state.restore()
    began = time.process_time()
    for step in range(first, recipe.steps):
        chosen = indices(step, len(images))
        generator = torch.Generator().manual_seed((SEED << 32) + step)
        keywords, target = objective.inputs({"x": images[chosen], "label": labels[chosen]}, generator)
        loss = objective.loss(objective.output(model(**keywords)), target)
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        state.optimizer.param_groups[0]["lr"] = PEAK * rate(step, recipe.steps)
        state.optimizer.step()
        state.optimizer.zero_grad(set_to_none=True)
        state.ema.step(model.parameters())
        if (step + 1) % SAVE_EVERY == 0:
            state.save(step + 1)
            spent = f"{time.process_time() - began:.0f} CPU s"
            print(f"step {step + 1}/{recipe.steps}  loss {loss.item():.4f}  {spent}", flush=True)
    state.ema.copy_to(model.parameters())
    write_pipeline(model.eval(), out)
    state.path.unlink(missing_ok=True)


def write_pipeline(model: DiTTransformer2DModel, out: Path) -> None:
    """Write the host as diffusers' DiTPipeline folder, weights in fp16."""
    model.half().save_pretrained(out / "transformer")
    scheduler = DPMSolverMultistepScheduler(
        use_flow_sigmas=True, prediction_type="flow_prediction", solver_order=1, flow_shift=1.0
    )
    scheduler.save_pretrained(out / "scheduler")
    IdentityAutoencoder().save_pretrained(out / "vae")
    index = {
        "_class_name": "DiTPipeline",
        "_diffusers_version": "0.35.0",
        "id2label": {str(i): str(i) for i in range(CLASSES)},
        "scheduler": ["diffusers", "DPMSolverMultistepScheduler"],
        "transformer": ["diffusers", "DiTTransformer2DModel"],
        "vae": ["archspec", "IdentityAutoencoder"],
    }
    (out / "model_index.json").write_text(json.dumps(index, indent=2) + "\n")


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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAMES", help=f"of {', '.join([*JUDGES, *HOSTS])}; default: digits")
    parser.add_argument("--out", type=Path, default=HERE, help="folder that receives a folder for each")
    arguments = parser.parse_args()
    names = arguments.names or ["digits-classifier", "digits"]
    if unknown := [name for name in names if name not in JUDGES and name not in HOSTS]:
        parser.error(f"no recipe is called {', '.join(unknown)}")
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    for name in names:
        folder = arguments.out / name
        folder.mkdir(parents=True, exist_ok=True)
        if name in JUDGES:
            train_classifier(JUDGES[name], folder)
        else:
            train_host(HOSTS[name], folder)


if __name__ == "__main__":
    main()
