"""The first noise of a collage (FreeGraftor, https://arxiv.org/abs/2504.15958, Sec. 3.2): donors' subjects are pasted
into a template where its own stand, and the collage is inverted. It is the donor of all of them then: one branch, whose
tokens are each subject's by the collage's masks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from archspec.diagnostics import ArchspecError, Collector
from archspec.injection import Collage as Settings
from archspec.injection import Donor, Injection
from archspec.runtime.collage import (
    Collage,
    Detector,
    DiffusersInpainter,
    Finder,
    Inpainter,
    Place,
    Placement,
    Segmenter,
    Subject,
    make_collage,
    read_mask,
    read_picture,
    to_tokens,
)
from archspec.runtime.features.donors import DonorInput
from archspec.runtime.features.draw import Mask, Picture, Pixels, Progress, invert, pixels, solver_of, tensor
from archspec.runtime.features.runners import Ask, Runner


@dataclass(frozen=True)
class Laid:
    """A collage as the donors of a run. `mask`: (height, width), where any subject is: the target's mask."""

    collage: Collage
    donors: Mapping[str, DonorInput]

    @property
    def mask(self) -> Mask:
        return self.collage.mask


def lay(
    injection: Injection,
    runner: Runner,
    ask: Ask,
    pictures: Mapping[str, Picture],
    near: Path,
    progress: Progress = lambda _: None,
) -> Laid:
    """Make the collage of all donors and invert it. AS762 for donors whose subject or place nothing tells, AS770 to
    AS779 for masks, detectors and placements."""
    settings, donors = injection.collage, {n: d for n, d in injection.donors.items() if d.state != "batch"}
    _complete(donors, pictures, settings.detector is not None)
    finder = _finder(settings, near, runner.model.device)
    template = _template(settings, runner, ask, injection.seed, near, progress)
    progress("collage")
    subjects = _subjects(donors, pictures, finder)
    places = _places(donors, template, finder, near)
    collage = make_collage(template, places, subjects, _inpainter(settings, near))
    progress("inverting the collage")
    first = next(iter(donors.values()))
    own = replace(ask, prompt=first.prompt, guidance=first.guidance)
    latents, condition = invert(
        runner, own, runner.encode(tensor(collage.image, runner)), solver_of(injection, runner).inverted()
    )
    grid = runner.grid(latents.noise, ask.size)
    found = {}
    for number, name in enumerate(donors):
        mask = to_tokens(collage.owners == number, *grid, name=name)
        found[name] = DonorInput(latents, condition, torch.from_numpy(mask))
    return Laid(collage, found)


def _complete(donors: Mapping[str, Donor], pictures: Mapping[str, Picture], finds: bool) -> None:
    problems = Collector()
    for name, donor in donors.items():
        picture = pictures.get(name)
        if picture is None:
            hint = f"write `donors: {{{name}: IMAGE}}`, or --donor {name}=IMAGE:MASK"
            problems.report("AS762", f"donor '{name}' has no picture", None, hint)
        elif not finds and picture.mask is None:
            hint = f"write --donor {name}=IMAGE:MASK, or `collage: {{detector: ..., segmenter: ...}}`"
            problems.report("AS762", f"nothing tells what of its picture donor '{name}' is", None, hint)
        if not finds and donor.layout.place is None:
            hint = f"write `donors: {{{name}: {{place: MASK}}}}`, or `collage: {{detector: ..., segmenter: ...}}`"
            problems.report("AS762", f"nothing tells where in the template donor '{name}' goes", None, hint)
    problems.raise_if_errors()


def _finder(settings: Settings, near: Path, device: torch.device) -> Finder | None:
    if settings.detector is None or settings.segmenter is None:
        return None
    detector = Detector(_source(settings.detector, near), device)
    segmenter = Segmenter(_source(settings.segmenter, near), device)
    return Finder(detector, segmenter, settings.box_threshold, settings.text_threshold)


def _source(text: str, near: Path) -> Path | str:
    """Return a folder beside the spec, or a hub id."""
    return near / text if (near / text).exists() else text


def _inpainter(settings: Settings, near: Path) -> Inpainter | None:
    return None if settings.inpainter == "opencv" else DiffusersInpainter(_source(settings.inpainter, near))


def _template(
    settings: Settings, runner: Runner, ask: Ask, seed: int, near: Path, progress: Callable[[str], None]
) -> Pixels:
    """Return the template: a file's picture, or what the prompt alone leads to."""
    if settings.template is not None:
        return read_picture(near / settings.template)
    progress("drawing the template")
    drawn = runner.decode(runner.run(ask, runner.noise(ask, seed, 1)), ask.size)
    return pixels(drawn[0])


def _subjects(donors: Mapping[str, Donor], pictures: Mapping[str, Picture], finder: Finder | None) -> list[Subject]:
    found, problems = [], Collector()
    for name, donor in donors.items():
        layout, picture = donor.layout, pictures[name]
        mask = picture.mask
        if mask is None:
            assert finder is not None
            try:
                mask = finder.locate(picture.image, [layout.phrase or name], f"the picture of '{name}'")[0].mask
            except ArchspecError as error:
                problems.add(error.diagnostics)
                continue
        placement = Placement(layout.scale, layout.angle, layout.flip, layout.align, layout.shift)
        found.append(Subject(name, picture.image, mask, placement))
    problems.raise_if_errors()
    return found


def _places(donors: Mapping[str, Donor], template: Pixels, finder: Finder | None, near: Path) -> list[Place]:
    """Return where each donor goes: by a mask of its own, or where the template's like is found."""
    stated = {
        name: Place(read_mask(near / donor.layout.place, (template.shape[0], template.shape[1])), donor.layout.erase)
        for name, donor in donors.items()
        if donor.layout.place is not None
    }
    rest = [name for name in donors if name not in stated]
    if rest:
        assert finder is not None
        phrases = [donors[name].layout.phrase or name for name in rest]
        located = finder.locate(template, phrases, "the template")
        stated |= {name: Place(one.mask) for name, one in zip(rest, located, strict=True)}
    return [stated[name] for name in donors]
