"""The study of feature grafts: a case drawn by each arm of a spec, and what is measured of the pictures.

    arms(spec)                      name -> Injection, and the host
    Bench(...).draw(case, arm)      the picture of one arm
    measures(case, image, ...)      what is seen in it

All arms of a case start from one noise, that of the host's own picture, or from the collage that is laid into it.
Everything is measured at one place in all of them: inside, where the host's own subject and the pasted one overlap.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from archspec.diagnostics import Collector
from archspec.host.locate import find_base, folder_of, structure_of
from archspec.injection import Injection
from archspec.language.parse import load, load_members
from archspec.runtime.features.collages import lay
from archspec.runtime.features.donors import DonorInput
from archspec.runtime.features.draw import Picture, draw, pixels, prepare, solver_of
from archspec.runtime.features.runners import Ask, Runner, open_runner
from archspec.runtime.store.home import Home
from archspec.runtime.store.opening import open_model
from archspec.semantics.check import check
from archspec.semantics.resolve import resolve
from benchmarks.repro_features_cases import Case, find_all
from benchmarks.shapes_measures import (
    Array,
    Mask,
    colour_distance,
    nearest_background,
    outside_distance,
    texture_distance,
)

SIZE = (48, 48)
NAMES = {1: ("donor",), 2: ("left", "right")}
"""Names of donors in the specs, from left to right."""
Row = dict[str, Any]


def arms(spec: Path) -> tuple[dict[str, Injection], Home]:
    """Return the injection of every arm of a spec, and its host."""
    found, place = {}, None
    for member in load_members(spec, Collector()):
        one = load(spec, member.id)
        located = find_base(one, spec.parent)
        resolved = resolve(one, structure_of(located, whole=True))
        check(resolved).raise_if_errors()
        assert resolved.injection is not None
        found[member.labels["arm"]] = resolved.injection
        place = Home(folder_of(located), located.pipeline)
    assert place is not None
    return found, place


def fingerprint(place: Home, injection: Injection) -> str:
    """Return what a finished row is known by: the host's weights and what the injection states beside defaults."""
    weights = hashlib.sha256((place.model / "diffusion_pytorch_model.safetensors").read_bytes())
    told = json.dumps(stated(injection), sort_keys=True)
    return hashlib.sha256(weights.digest() + told.encode()).hexdigest()[:12]


def stated(value: Any) -> Any:
    """Return data of a dataclass without what is as by default, so that a new field changes nothing."""
    if is_dataclass(value):
        own = {f.name: getattr(value, f.name) for f in fields(value)}
        usual = {f.name: f.default_factory() if callable(f.default_factory) else f.default for f in fields(value)}
        return {name: stated(one) for name, one in own.items() if one != usual[name]}
    if isinstance(value, Mapping):
        return {str(key): stated(one) for key, one in value.items()}
    return [stated(one) for one in value] if isinstance(value, tuple) else value


@dataclass(frozen=True)
class Laid:
    """Donors as runs take them, `target`: the mask of the subjects, and the CPU seconds that it took. Of collages also
    the picture (3, rows, columns) and whose each pixel is."""

    donors: Mapping[str, DonorInput]
    target: Mask
    cpu: float
    pasted: Array | None = None
    owners: NDArray[np.integer] | None = None


@dataclass
class Bench:
    """A host, and for the case at hand what arms share: a collage, inversions."""

    place: Home
    sampler: Injection
    runner: Runner = field(init=False)

    def __post_init__(self) -> None:
        self.runner = open_runner(self.place, lambda: open_model(self.place, "cpu"))
        self._case: Case | None = None
        self._shared: dict[object, Laid] = {}

    def ask(self, prompt: str) -> Ask:
        return Ask(prompt, None, SIZE, self.sampler.guidance, self.sampler.steps)

    def paint(self, prompt: str, seed: int) -> Array:
        """Return what the host draws of a prompt alone, by the arms' sampler: (3, rows, columns) in 0..1."""
        ask = self.ask(prompt)
        latents = self.runner.run(ask, self.runner.noise(ask, seed, 1), solver_of(self.sampler, self.runner))
        return unit(pixels(self.runner.decode(latents, SIZE)[0]))

    def draw(self, case: Case, injection: Injection) -> tuple[Array, float]:
        """Return the picture of one arm and the CPU seconds that it took, inversions counted."""
        injection = replace(injection, seed=case.seed)
        laid = self.donors(case, injection)
        start = time.process_time()
        drawn = draw(injection, self.runner, self.ask(case.prompt), {}, 1, laid.target, None, laid.donors)
        return unit(pixels(drawn.images[0])), laid.cpu + time.process_time() - start

    def donors(self, case: Case, injection: Injection) -> Laid:
        """Return the donors of a case, made once for all arms that take them alike."""
        if self._case is not case:
            self._case, self._shared = case, {}
        collage = injection.noise == "collage"
        key = (collage, *sorted((name, repr(donor)) for name, donor in injection.donors.items()))
        if key not in self._shared:
            start = time.process_time()
            laid = self._collage(case, injection) if collage else self._plain(case, injection)
            self._shared[key] = replace(laid, cpu=time.process_time() - start)
        return self._shared[key]

    def _plain(self, case: Case, injection: Injection) -> Laid:
        donors = prepare(injection, self.runner, self.ask(case.prompt), pictures(case))
        return Laid(donors, np.logical_or.reduce([donor.place for donor in case.donors]), 0.0)

    def _collage(self, case: Case, injection: Injection) -> Laid:
        """Put the donors where the host's own picture shows its subjects, and invert that."""
        with tempfile.TemporaryDirectory() as folder:
            near, placed = Path(folder), dict(injection.donors)
            Image.fromarray(grid(case.plain)).save(near / "template.png")
            for name, donor in zip(injection.donors, case.donors, strict=True):
                Image.fromarray(donor.place.astype(np.uint8) * 255).save(near / f"{name}.png")
                own = injection.donors[name]
                placed[name] = replace(own, layout=replace(own.layout, place=f"{name}.png"))
            settings = replace(injection.collage, template="template.png")
            whole = replace(injection, donors=placed, collage=settings)
            laid = lay(whole, self.runner, self.ask(case.prompt), pictures(case), near)
        return Laid(laid.donors, laid.mask, 0.0, unit(laid.collage.image), laid.collage.owners)


def pictures(case: Case) -> dict[str, Picture]:
    return {name: Picture(d.image, d.mask) for name, d in zip(NAMES[len(case.donors)], case.donors, strict=True)}


def unit(image: NDArray[np.uint8]) -> Array:
    """Return (3, rows, columns) in 0..1 of (rows, columns, 3)."""
    found: Array = image.transpose(2, 0, 1) / 255
    return found


def grid(image: Array) -> NDArray[np.uint8]:
    """Return (rows, columns, 3) uint8 of (3, rows, columns) in 0..1."""
    found: NDArray[np.uint8] = np.rint(255 * image).astype(np.uint8).transpose(1, 2, 0)
    return found


def cores(case: Case, laid: Laid) -> list[Mask]:
    """Return, for each subject, where the host's own and the pasted one overlap: what is measured inside."""
    return [donor.place & (laid.owners == number) for number, donor in enumerate(case.donors)]


def measures(case: Case, image: Array, inside: Sequence[Mask], around: Mask) -> Row:
    """Return the measures of a picture. `inside`: cores of its subjects; `around`: all of any subject.

    colour, texture: of each subject, the distance to its own donor. other: to the other donor, in colour. outside: to
    the host's own picture. shapes, ground: whether what was asked for is seen."""
    found = find_all(image, len(case.shapes))
    masks = [one.mask for one in found]
    whole = np.logical_or.reduce(masks) if masks else around
    pairs = list(zip(inside, case.donors, strict=True))
    crossed = zip(inside, reversed(case.donors), strict=True)
    return {
        "colour": [_rounded(colour_distance(image, mask, d.pixels, d.mask)) for mask, d in pairs],
        "texture": [_rounded(texture_distance(image, mask, d.pixels, d.mask)) for mask, d in pairs],
        "other": [_rounded(colour_distance(image, mask, d.pixels, d.mask)) for mask, d in crossed],
        "outside": _rounded(outside_distance(image, case.plain, around)),
        "shapes": tuple(one.shape for one in found) == case.shapes,
        "ground": nearest_background(image, whole) == case.background,
    }


def _rounded(value: float) -> float:
    return float(f"{value:.4g}")
