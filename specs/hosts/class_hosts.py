"""Hosts of images told by a class: diffusers' DiTTransformer2DModel, trained with rectified flow on bundled data."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from diffusers import DiTTransformer2DModel, DPMSolverMultistepScheduler
from fetch import fetch_fashion
from torch import Tensor, nn
from training import BATCH, SEED, State, adamw, indices, rate, train

from archspec.runtime.data.bundled import load_bundled
from archspec.runtime.data.examples import fit_image
from archspec.runtime.ecosystem.identity_autoencoder import IdentityAutoencoder
from archspec.runtime.objectives import Conditioning, Flow, quiet_label_dropout

CLASSES, DROPOUT = 10, 0.1


@dataclass(frozen=True)
class Recipe:
    """A host: 6 blocks of width 32 x `heads`, on (size / patch)^2 tokens of images resized to `size` pixels, `batch`
    images a step."""

    data: str
    size: int
    patch: int
    heads: int
    steps: int
    batch: int = BATCH

    def images(self) -> tuple[Tensor, Tensor]:
        """Return the training split as a spec's `data` shows it to the host: (count, 1, size, size), and labels."""
        images, labels = map(torch.from_numpy, load_bundled(self.data, "train"))
        return torch.stack([fit_image(image, (1, self.size, self.size)) for image in images]), labels


HOSTS: Mapping[str, Recipe] = {
    "digits": Recipe("digits", 8, patch=2, heads=3, steps=2036),
    "digits-64": Recipe("digits", 8, patch=1, heads=3, steps=2036),
    "fashion-64": Recipe("fashion", 16, patch=2, heads=3, steps=2400),
    "fashion-256": Recipe("fashion", 32, patch=2, heads=3, steps=9000, batch=16),
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


def train_host(recipe: Recipe, out: Path) -> None:
    if recipe.data == "fashion":
        fetch_fashion()
    images, labels = recipe.images()
    model = make_host(recipe).train()
    state = State(model, out / ".state.safetensors", adamw(model))
    objective = Flow(Conditioning(null=CLASSES, dropout=DROPOUT))

    def loss_of(step: int) -> Tensor:
        chosen = indices(step, len(images), recipe.batch)
        generator = torch.Generator().manual_seed((SEED << 32) + step)
        keywords, target = objective.inputs({"x": images[chosen], "label": labels[chosen]}, generator)
        return objective.loss(objective.output(model(**keywords)), target)

    train(model, state, recipe.steps, loss_of, partial(rate, steps=recipe.steps))
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
