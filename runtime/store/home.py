"""Where a model lives: its own folder, and the pipeline around it if there is one.

A pipeline folder has `model_index.json` and its parts in subfolders; a model folder has `config.json`. Given either,
`home` finds both, and what else of the pipeline a task needs: scheduler, autoencoder, tokenizer, names of the classes.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from archspec.diagnostics import fail
from archspec.families import FAMILIES
from archspec.families.vit import LABELS

COMPONENTS = ("transformer", "unet", "model")
"""Subfolders in which a pipeline keeps the network that denoises."""


@dataclass(frozen=True)
class Home:
    """`model` holds config.json; `pipeline` holds model_index.json."""

    model: Path
    pipeline: Path | None = None

    @cached_property
    def config(self) -> dict[str, Any]:
        return read_json(self.model / "config.json")

    @cached_property
    def index(self) -> dict[str, Any]:
        return read_json(self.pipeline / "model_index.json") if self.pipeline else {}

    @property
    def top(self) -> Path:
        """The folder that a user knows it by: where the lock and the card stand."""
        return self.pipeline or self.model

    @property
    def architecture(self) -> str:
        """Name of the host's class, of a compiled checkpoint too."""
        found = self.config.get("_class_name") or next(iter(self.config.get("architectures") or ()), "")
        return str(found).removeprefix("Grafted")

    @property
    def is_language_model(self) -> bool:
        return self.architecture.endswith(("ForCausalLM", "LMHeadModel"))

    @property
    def is_masked_model(self) -> bool:
        return self.architecture.endswith("ForMaskedLM")

    @property
    def is_classifier(self) -> bool:
        return self.architecture.endswith("ForImageClassification")

    @property
    def is_headless(self) -> bool:
        """Whether it is an encoder that gives features and has no task of its own."""
        return any(self.architecture in family.headless for family in FAMILIES.values())

    @property
    def reads_text(self) -> bool:
        """Whether it is given token ids."""
        return not self.is_diffusion and isinstance(self.config.get("vocab_size"), int)

    @property
    def is_diffusion(self) -> bool:
        return "_class_name" in self.config

    def part(self, name: str) -> Path | None:
        """Return the folder of another part of the pipeline, if it is there."""
        folder = self.pipeline / name if self.pipeline else None
        return folder if folder is not None and folder.is_dir() else None

    @property
    def scheduler(self) -> dict[str, Any] | None:
        folder = self.part("scheduler")
        return read_json(folder / "scheduler_config.json") if folder else None

    @property
    def autoencoder(self) -> Path | None:
        """The VAE's folder. A host that draws pixels has none (or the identity, which has no weights)."""
        return self.part("vae")

    @property
    def folded(self) -> int:
        """How many pixels side by side stand in the channels of one place of what the host denoises: 1, but of the
        identity autoencoder as many as it halves sides."""
        folder = self.autoencoder
        config = read_json(folder / "config.json") if folder and (folder / "config.json").is_file() else {}
        identity = config.get("_class_name") == "IdentityAutoencoder"
        return 1 << (len(config.get("block_out_channels", [1])) - 1) if identity else 1

    @property
    def classes(self) -> int | None:
        """Number of classes that a host draws, or tells apart; the null label, after the last, is not counted."""
        if self.is_classifier:
            return len(self.config.get("id2label") or ()) or self.config.get("num_labels") or LABELS
        return self.config.get("num_embeds_ada_norm") if self.is_class_conditional else None

    @property
    def tokenizer(self) -> Path | None:
        """The folder of its tokenizer."""
        has = any((self.model / name).exists() for name in ("tokenizer.json", "tokenizer_config.json"))
        return self.model if has else None

    @property
    def is_class_conditional(self) -> bool:
        return self.architecture.startswith("DiT")

    @property
    def shape(self) -> tuple[int, int, int] | None:
        """(channels, height, width) of what a diffusion host denoises, or of the images that an encoder is given."""
        names = ("in_channels", "sample_size") if self.is_diffusion else ("num_channels", "image_size")
        channels, size = (self.config.get(name) for name in names)
        if not isinstance(channels, int) or not isinstance(size, int):
            return None
        return (channels, size, size)

    @property
    def names(self) -> dict[str, int]:
        """Class names of the pipeline to their labels."""
        table = self.index.get("id2label") or {}
        return {word.strip(): int(key) for key, words in table.items() for word in str(words).split(",")}


def home(path: Path) -> Home:
    """Return where the model at `path` lives: a pipeline folder or a model folder."""
    if (path / "model_index.json").is_file():
        found = next((path / name for name in COMPONENTS if (path / name / "config.json").is_file()), None)
        if found is None:
            raise fail("AS714", f"the pipeline '{path}' has no {' or '.join(COMPONENTS)} folder")
        return Home(found, path)
    if not (path / "config.json").is_file():
        hint = "give a folder with config.json or model_index.json, such as archspec compile writes"
        raise fail("AS714", f"no model at '{path}'", None, hint)
    return Home(path, path.parent if (path.parent / "model_index.json").is_file() else None)


def read_json(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file. NaN and infinities pass: diffusers writes them into schedulers' configs."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise fail("AS714", f"cannot read '{path}': {error}") from error
    if not isinstance(data, dict):
        raise fail("AS714", f"'{path}' holds no JSON object")
    return data
