"""How many examples of how many classes a `data` stanza stands for, where names and headers tell: no example is read.

Known are bundled sets, images by their files and folders, latents by their headers and labels, and of what the host
draws the number. A table's rows become examples only through a tokenizer or a decoder, and a hub's may not be here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from archspec.runtime.data.bundled import SIZES
from archspec.runtime.data.describe import Description, describe, setting
from archspec.runtime.data.examples import Examples
from archspec.runtime.data.needs import Needs


@dataclass(frozen=True)
class Size:
    """Of data without classes, and of data whose classes are not known, `classes` is 1."""

    count: int
    classes: int = 1


@dataclass(frozen=True)
class Shortage:
    """What to say of a fraction that is too small."""

    message: str
    hint: str


def shortage(size: Size, fraction: float, name: str, of: float = 1.0) -> Shortage | None:
    """Return what is wrong with a fraction, of the part `of` of the data, in which some class would have no example.

    >>> shortage(Size(1437, 10), 0.001, "digits").hint
    'write at least 0.7%, or take more data'
    """
    chosen = round(fraction * of * size.count)
    if chosen >= size.classes:
        return None
    each = "" if size.classes == 1 else f" for each of its {size.classes} classes"
    message = f"{100 * fraction * of:.4g}% of the {size.count} examples of '{name}' is {chosen}: not one{each}"
    least = math.ceil(1e4 * size.classes / (of * size.count)) / 100
    return Shortage(message, f"write at least {least:g}%, or take more data" if least <= 100 else "take more data")


def size_of(examples: Examples) -> Size:
    """Return the size of data that were opened."""
    labels = examples.labels
    return Size(len(examples), 1 if labels is None else len(set(labels.tolist())))


def told_size(data: Mapping[str, Any], near: Path) -> Size | None:
    """Return the size of the whole of a stanza's data, None where only opening them tells. Raises ArchspecError on
    missing or damaged data."""
    found = describe(data, near)
    tell = TELLERS.get(found.kind)
    return tell(found, data) if tell else None


def _bundled(found: Description, data: Mapping[str, Any]) -> Size | None:
    size = SIZES[found.name].get(str(setting(data, "split", "train")))
    return Size(*size) if size else None


def _images(found: Description, data: Mapping[str, Any]) -> Size:
    from archspec.runtime.data.folder import open_images

    return size_of(open_images(found, data, Needs()))


def _latents(found: Description, data: Mapping[str, Any]) -> Size:
    from archspec.runtime.data.latents import open_latents

    return size_of(open_latents(found, data, Needs()))


def _generated(found: Description, data: Mapping[str, Any]) -> Size | None:
    samples = setting(data, "samples")
    return Size(int(samples)) if samples else None


TELLERS: Mapping[str, Callable[[Description, Mapping[str, Any]], Size | None]] = {
    "bundled": _bundled,
    "images": _images,
    "latents": _latents,
    "generated": _generated,
}
