"""How often the host of shapes draws what it is told: the table of its card.

    python -m benchmarks.shapes_host [--host specs/hosts/shapes] [--samples 96] [--steps 20] [--guidance 1 2 3]

Captions are those of scenes that the host was not trained on, with everything said. The rules of `shapes_measures` read
the pictures; what they say of the scenes' own pictures is the first row, the most that a host can reach. A subject of
two is looked for by its colour on its side of the picture, so shape and texture are of those whose colour is there.
"two: no third" is of pictures in which nothing else is seen when both are covered.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from archspec.runtime.data.scenes import PLACES, SIDE, Scene, draw_scene
from archspec.runtime.data.shapes import render
from benchmarks.shapes_measures import Array, find_subject, nearest_background, nearest_place, without

TOKENS, SEED = 22, 3
"""SEED: of the scenes; the host was trained on those of seed 0."""
COLUMNS = ("colour", "shape", "texture", "place", "background", "all five")
OF_TWO = ("two: colours", "two: shapes", "two: textures", "two: no third")


def scenes(count: int, subjects: int) -> list[Scene]:
    """Return scenes of one subject, or of two of different colours, whose captions leave nothing out."""
    found: list[Scene] = []
    for index in range(100 * count):
        scene = draw_scene(index, SEED)
        if len({subject.colour for subject in scene.subjects}) == len(scene.subjects) == subjects:
            found.append(replace(scene, said=((True, True, True),) * subjects, background_said=True))
        if len(found) == count:
            break
    return found


def load(folder: Path) -> Any:
    """Return the host's pipeline, as plain diffusers loads it."""
    from diffusers import FluxPipeline

    pipeline = FluxPipeline.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def draw(pipeline: Any, prompts: Sequence[str], steps: int, guidance: float, seed: int = 0) -> Array:
    """Return (prompts, 3, side, side) in 0..1. Guidance above 1 runs the empty prompt beside each."""
    found: list[Array] = []
    for start in range(0, len(prompts), 32):
        some = list(prompts[start : start + 32])
        drawn = pipeline(
            prompt=some, negative_prompt=[""] * len(some), true_cfg_scale=guidance, height=SIDE, width=SIDE,
            num_inference_steps=steps, max_sequence_length=TOKENS, output_type="pt",
            generator=torch.Generator().manual_seed(1000 * seed + start),
        )  # fmt: skip
        found.append(drawn.images.float().numpy())
    return np.concatenate(found)


def read_one(image: Array, scene: Scene) -> list[bool]:
    """Return whether colour, shape, texture, place and background are as the scene's, and all of these."""
    found, told = find_subject(image), scene.subjects[0]
    if found is None:
        return [False] * len(COLUMNS)
    looks = [found.colour == told.colour, found.shape == told.shape, found.texture == told.texture]
    right = [*looks, nearest_place(found.mask) == told.place, nearest_background(image, found.mask) == scene.background]
    return [*right, all(right)]


def read_two(image: Array, scene: Scene) -> list[list[float]]:
    """Return, for each subject, whether its colour is on its side, whether its shape and texture are right (nan where
    its colour is not), and whether nothing is there beside both (nan where one is missing)."""
    sides = [only(image, subject.place) for subject in scene.subjects]
    found = [find_subject(side, told.colour) for side, told in zip(sides, scene.subjects, strict=True)]
    rest = float(find_subject(without(image, [one.mask for one in found if one])) is None) if all(found) else np.nan
    rows = []
    for told, one in zip(scene.subjects, found, strict=True):
        right = (one.shape == told.shape, one.texture == told.texture) if one else (np.nan, np.nan)
        rows.append([float(one is not None), *map(float, right), rest])
    return rows


def only(image: Array, place: str) -> Array:
    """Return a picture whose other half is grey."""
    across, down = PLACES[place]
    y, x = np.mgrid[:SIDE, :SIDE] + 0.5 - SIDE / 2
    return np.where(across * x + down * y >= 0, image, 0.5)


def table(one: Array, ones: Sequence[Scene], two: Array, twos: Sequence[Scene]) -> list[float]:
    """Return the row of COLUMNS and OF_TWO, as parts of 1."""
    first = np.mean([read_one(image, scene) for image, scene in zip(one, ones, strict=True)], axis=0)
    second = [row for image, scene in zip(two, twos, strict=True) for row in read_two(image, scene)]
    return [*first.tolist(), *np.nanmean(second, axis=0).tolist()]


def sheet(images: Array, path: Path, across: int = 8, zoom: int = 2) -> None:
    """Write pictures side by side."""
    rows = len(images) // across
    whole = images[: rows * across].reshape(rows, across, 3, SIDE, SIDE).transpose(0, 3, 1, 4, 2)
    pixels = np.rint(255 * whole.clip(0, 1)).astype(np.uint8).reshape(rows * SIDE, across * SIDE, 3)
    size = (across * SIDE * zoom, rows * SIDE * zoom)
    drawn = Image.fromarray(pixels).resize(size, Image.Resampling.NEAREST)
    drawn.quantize(256, dither=Image.Dither.NONE).save(path, optimize=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--host", type=Path, default=Path("specs/hosts/shapes"))
    parser.add_argument("--samples", type=int, default=96, help="of each kind: one subject, two subjects")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--guidance", type=float, nargs="+", default=[1.0, 2.0, 3.0])
    parser.add_argument("--sheet", type=Path, help="folder that receives a sheet of samples for each guidance")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    ones, twos = scenes(asked.samples, 1), scenes(asked.samples, 2)
    pipeline = load(asked.host)
    print(f"| | {' | '.join(COLUMNS + OF_TWO)} |\n|---|{'---|' * len(COLUMNS + OF_TWO)}")
    real = [(render(some).images + 1) / 2 for some in (ones, twos)]
    show("the scenes' own pictures", table(real[0], ones, real[1], twos))
    for guidance in asked.guidance:
        one, two = (draw(pipeline, [s.caption for s in some], asked.steps, guidance) for some in (ones, twos))
        show(f"host, guidance {guidance:g}", table(one, ones, two, twos))
        if asked.sheet:
            sheet(np.concatenate([one[:24], two[:24]]), asked.sheet / f"guidance-{guidance:g}.png")


def show(name: str, row: Sequence[float]) -> None:
    print(f"| {name} | {' | '.join(f'{100 * part:.0f} %' for part in row)} |", flush=True)


if __name__ == "__main__":
    main()
