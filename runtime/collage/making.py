"""The collage itself: the template without its subjects, and the donors' subjects in their places."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from archspec.diagnostics import ArchspecError, Collector, Diagnostic, Severity, fail
from archspec.runtime.collage.inpaint import Inpainter, TeleaInpainter
from archspec.runtime.collage.masks import Mask, Pixels, dilated, wrong_mask
from archspec.runtime.collage.placement import Affine, Drawn, Place, Placement, draw

Owners = NDArray[np.int16]
HINT = "write another 'shift' or 'scale'"


@dataclass(frozen=True)
class Subject:
    """What is taken from a donor: the part of its picture (H, W, 3) under its mask (H, W)."""

    name: str
    image: Pixels
    mask: Mask
    placement: Placement = field(default_factory=Placement)


@dataclass(frozen=True)
class Collage:
    """`image` (H, W, 3) uint8. `owners` (H, W) int16: the subject a pixel comes from, by its number, or -1.

    `moved`: of each subject, the affine map (2, 3) from points of its donor to points of the collage. `findings`:
    warnings (AS776) about subjects of which only a part is seen.
    """

    image: Pixels
    owners: Owners
    moved: tuple[Affine, ...]
    findings: tuple[Diagnostic, ...] = ()

    @property
    def mask(self) -> Mask:
        """(H, W): where any subject was pasted."""
        return self.owners >= 0


def make_collage(
    template: Pixels, places: Sequence[Place], subjects: Sequence[Subject], inpainter: Inpainter | None = None
) -> Collage:
    """Return the template with each subject in its place, later ones over earlier ones.

    The template's own subjects are removed first: their masks, grown by `dilated`, are painted over by `inpainter`
    (by default OpenCV's). All other pixels of the template stay as they are, bit by bit. Raises AS770 and
    AS771 for each wrong mask, AS774 and AS775 for each subject that cannot be drawn or would not be seen.
    """
    _check_masks(template, places, subjects)
    drawn = _draw(places, subjects)
    owners = _owners(template.shape[:2], drawn)
    findings = _findings(owners, drawn, [subject.name for subject in subjects])
    image = erase(template, [place.mask for place in places if place.erase], inpainter)
    for number, each in enumerate(drawn):
        y, x = np.nonzero(owners == number)
        image[y, x] = each.pixels[y - each.corner[1], x - each.corner[0]]
    return Collage(image, owners, tuple(each.moved for each in drawn), findings)


def erase(template: Pixels, masks: Sequence[Mask], inpainter: Inpainter | None = None) -> Pixels:
    """Return a copy of the template in which what the masks show is painted over; nothing else is changed.

    Raises AS777 where the default inpainter's package is missing, AS779 where nothing could be painted.
    """
    if not masks:
        return template.copy()
    hole = np.logical_or.reduce([dilated(mask) for mask in masks])
    if hole.all():
        hint = "give masks of the subjects alone, or a template with more around them"
        raise fail("AS779", "the subjects to be removed fill the whole template", None, hint)
    painted = (inpainter or TeleaInpainter())(template, hole)
    if painted.shape != template.shape or painted.dtype != np.uint8:
        raise ValueError(f"an inpainter returned {painted.dtype} {painted.shape} for uint8 {template.shape}")
    return np.where(hole[..., None], painted, template)


def _check_masks(template: Pixels, places: Sequence[Place], subjects: Sequence[Subject]) -> None:
    problems = Collector()
    for subject, place in zip(subjects, places, strict=True):
        problems.add(filter(None, [wrong_mask(subject.mask, subject.image.shape[:2], f"of '{subject.name}'")]))
        where = f"of the place of '{subject.name}'"
        problems.add(filter(None, [wrong_mask(place.mask, template.shape[:2], where)]))
    problems.raise_if_errors()


def _draw(places: Sequence[Place], subjects: Sequence[Subject]) -> list[Drawn]:
    problems, drawn = Collector(), []
    for subject, place in zip(subjects, places, strict=True):
        try:
            drawn.append(draw(subject.name, subject.image, subject.mask, subject.placement, place))
        except ArchspecError as error:
            problems.add(error.diagnostics)
    problems.raise_if_errors()
    return drawn


def _owners(size: tuple[int, ...], drawn: Sequence[Drawn]) -> Owners:
    owners = np.full(size, -1, dtype=np.int16)
    for number, each in enumerate(drawn):
        owners[_inside(each, size)] = number
    return owners


def _inside(drawn: Drawn, size: tuple[int, ...]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return the rows and columns of the collage that a subject takes, those beyond its borders left out."""
    y, x = np.nonzero(drawn.mask)
    y, x = y + drawn.corner[1], x + drawn.corner[0]
    seen = (y >= 0) & (y < size[0]) & (x >= 0) & (x < size[1])
    return y[seen], x[seen]


def _findings(owners: Owners, drawn: Sequence[Drawn], names: Sequence[str]) -> tuple[Diagnostic, ...]:
    """Return warnings of what is hidden, border and covering apart; raise AS775 for each subject hidden as a whole."""
    problems = Collector()
    for number, (each, name) in enumerate(zip(drawn, names, strict=True)):
        whole, over = int(np.count_nonzero(each.mask)), owners[_inside(each, owners.shape)]
        if not (over == number).any():
            problems.report("AS775", f"'{name}' {_hidden(whole, len(over))}", None, HINT)
            continue
        parts = {"lies outside of the picture": whole - len(over)}
        parts |= {
            f"is covered by '{names[n]}'": int(np.count_nonzero(over == n)) for n in np.unique(over[over != number])
        }
        for how, pixels in parts.items():
            if pixels:
                message = f"{pixels / whole:.1%} of '{name}' {how}"
                problems.report("AS776", message, None, HINT, severity=Severity.WARNING)
    problems.raise_if_errors()
    return tuple(problems)


def _hidden(whole: int, within: int) -> str:
    if not whole:
        return "is too small to have a pixel"
    return "is covered by later subjects" if within else "lies outside of the picture"
