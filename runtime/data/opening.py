"""From a `data` stanza to examples: one opener per kind, then the checks and the fraction."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from archspec.diagnostics import fail
from archspec.runtime.data.describe import Description, describe, setting
from archspec.runtime.data.examples import Arrays, Examples, Part, check_labels
from archspec.runtime.data.needs import Needs
from archspec.runtime.data.sizes import shortage, size_of
from archspec.runtime.data.subset import stratified

Opener = Callable[[Description, Mapping[str, Any], Needs], Examples]


def open_examples(data: Mapping[str, Any], near: Path, needs: Needs | None) -> Examples:
    needs = needs or Needs()
    found = describe(data, near)
    examples = (
        _generated(data, near, needs) if found.kind == "generated" else _openers()[found.kind](found, data, needs)
    )
    if not len(examples):
        hints = [f"of text, an example has {needs.length} tokens: write a smaller `length`"] if needs.tokenizer else []
        raise fail("AS706", f"'{found.name}' holds no example", None, *hints)
    check_labels(examples, needs.classes, found.name)
    fraction = float(setting(data, "fraction", 1.0))
    if fraction >= 1:
        return examples
    short = shortage(size_of(examples), fraction, found.name)
    if short:
        raise fail("AS715", short.message, None, short.hint)
    seed = int(setting(data, "seed", 0))
    return Part(examples, stratified(len(examples), fraction, seed, examples.labels))


def _openers() -> Mapping[str, Opener]:
    from archspec.runtime.data import folder, latents, tables

    return {
        "bundled": _bundled,
        "images": folder.open_images,
        "latents": latents.open_latents,
        "parquet": tables.open_table,
        "jsonl": tables.open_table,
        "text": tables.open_table,
        "hub": tables.open_table,
    }


def _bundled(found: Description, data: Mapping[str, Any], needs: Needs) -> Examples:
    from archspec.runtime.data.bundled import load_bundled
    from archspec.runtime.data.encoded import pixels_of, through_autoencoder

    images, labels = load_bundled(found.name, str(setting(data, "split", "train")))
    examples = Arrays({"x": images, "label": labels}, found.identity, pixels_of(needs))
    return through_autoencoder(examples, needs)


def _generated(data: Mapping[str, Any], near: Path, needs: Needs) -> Examples:
    from archspec.runtime.data.generated import open_generated

    return open_generated(data, near, needs)
