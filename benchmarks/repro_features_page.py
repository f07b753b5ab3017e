"""docs/results/features.md: rows of the study as tables with intervals, the goals held against them, and pictures."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from benchmarks.repro_features_study import NAMES, Row

Values = NDArray[np.float64]
"""(cases,)"""
RESAMPLES = 5000
SHOWN = {1: 6, 2: 4}
"""Cases of each study in the pictures."""
GOAL, MARGIN, OWN = 0.60, 0.10, 0.90
"""Least fall of a distance; most that a rate may be below the host's own; least part of subjects nearer to their own
donor."""
MATTERS = {"colour": 1.0, "texture": 0.005, "outside": 0.005}
"""Differences that are smaller are none: half of a colour that is just seen, a thirtieth of two textures' distance."""
ABOUT = {
    "none": "host alone",
    "reseeded": "host alone, other noise",
    "pasted": "the collage itself, no host",
    "freegraftor": "FreeGraftor",
    "strong": "· strength 1",
    "strong_owner": "· strength 1, competition owner",
    "no_matching": "· no matching: own positions",
    "no_cycle": "· no cycle filter",
    "cycle_normalised": "· cycle filter as in the code",
    "no_dropout": "· no dropout",
    "no_collage": "· random noise",
    "collage_alone": "· the noise alone, no graft",
    "shifted_matched": "matched positions",
    "shifted_unmoved": "· matched, at own positions",
    "shifted_same": "· no matching: own positions",
    "shifted_no_cycle": "· no cycle filter",
    "shifted_no_dropout": "· no dropout",
    "shared_attention": "shared attention, whole donor",
    "shared_masks": "· masks of donor and target",
    "masactrl": "MasaCtrl, whole donor",
    "masactrl_masks": "· masks of donor and target",
    "masactrl_collage": "MasaCtrl, masks, collage",
    "style_aligned": "StyleAligned, whole donor",
    "style_masks": "· masks of donor and target",
    "personalize_anything": "Personalize Anything",
    "personalize_collage": "Personalize Anything, collage",
}
FULL, MATCHED = "freegraftor", "shifted_matched"
PARTS = {
    "matching": ((FULL, "no_matching"), (MATCHED, "shifted_same")),
    "matching, only the places": ((MATCHED, "shifted_unmoved"),),
    "cycle filter": ((FULL, "no_cycle"), (MATCHED, "shifted_no_cycle")),
    "cycle filter in tokens, beside normalised": ((FULL, "cycle_normalised"),),
    "dropout": ((FULL, "no_dropout"), (MATCHED, "shifted_no_dropout")),
    "noise of the collage": ((FULL, "no_collage"),),
    "the graft, beside the noise alone": ((FULL, "collage_alone"),),
    "strength 0, beside 1": ((FULL, "strong"),),
}
"""Part -> (the arm with it, the arm without it), in the method as it stands and for shifted donors."""
METHOD = ("matching", "cycle filter", "dropout", "noise of the collage")
"""Those that FreeGraftor is said to be made of."""
PEERS = {
    ABOUT[arm]: ((FULL, arm),)
    for arm in (
        "shared_attention",
        "masactrl",
        "style_aligned",
        "personalize_anything",
        "masactrl_collage",
        "personalize_collage",
    )
}


@dataclass(frozen=True)
class Estimate:
    """A mean over cases, or a ratio of means, with its paired 95 % bootstrap interval."""

    value: float
    low: float
    high: float

    def percent(self) -> str:
        return f"{100 * self.value:.0f} % [{100 * self.low:.0f}, {100 * self.high:.0f}]"

    def number(self, digits: int) -> str:
        return f"{self.value:.{digits}f} [{self.low:.{digits}f}, {self.high:.{digits}f}]"


def estimate(statistic: Callable[..., Values], *values: Values) -> Estimate:
    """Return a statistic of means (each an array over resamples) of values that are paired by case; percentiles."""
    weights = resamples(len(values[0]))
    low, high = np.percentile(statistic(*(weights @ one for one in values)), (2.5, 97.5))
    return Estimate(float(statistic(*(one.mean(keepdims=True) for one in values))[0]), float(low), float(high))


@cache
def resamples(count: int) -> NDArray[np.float64]:
    """Return (RESAMPLES, count): the part of each case in each resample, drawn with replacement."""
    picks = np.random.default_rng(0).integers(count, size=(RESAMPLES, count))
    found: NDArray[np.float64] = np.stack([np.bincount(row, minlength=count) for row in picks]) / count
    return found


def fall(mine: Values, base: Values) -> Estimate:
    """Return by which part a distance falls."""
    return estimate(lambda a, b: 1 - a / b, mine, base)


def ratio(mine: Values, base: Values) -> Estimate:
    return estimate(lambda a, b: a / b, mine, base)


def difference(mine: Values, base: Values) -> Estimate:
    return estimate(lambda a, b: a - b, mine, base)


class Found:
    """The rows of one study. Cases of which an arm is missing are left out of all."""

    def __init__(self, rows: Sequence[Row], subjects: int) -> None:
        mine = [row for row in rows if row["subjects"] == subjects]
        self.arms = [arm for arm in ABOUT if any(row["arm"] == arm for row in mine)]
        by_key = {(row["case"], row["arm"]): row for row in mine}
        numbers = sorted({row["case"] for row in mine})
        self.cases = [n for n in numbers if all((n, arm) in by_key for arm in self.arms)]
        self._rows = by_key

    def of(self, arm: str, measure: str) -> Values:
        """Return a measure of every case, the mean over subjects where it has one for each."""
        return np.array([float(np.mean(self._rows[number, arm][measure])) for number in self.cases])

    def own(self, arm: str) -> Values:
        """Return which part of a case's subjects is nearer in colour to its own donor than to the other's."""
        rows = [self._rows[number, arm] for number in self.cases]
        return np.array([float(np.mean(np.less(row["colour"], row["other"]))) for row in rows])


def table(found: Found, arms: Sequence[str]) -> str:
    """Return the table of falls, of what stays, and of costs."""
    two = "own donor nearer | " if found.arms and "strong_owner" in found.arms else ""
    head = f"| | colour falls by | texture falls by | {two}outside, of the noise | shape | background | CPU s |"
    lines = [head, "|---" * head.count(" | ") + "|---|"]
    for arm in (arm for arm in arms if arm in found.arms):
        falls = [fall(found.of(arm, name), found.of("none", name)).percent() for name in ("colour", "texture")]
        own = [estimate(lambda a: a, found.own(arm)).percent()] if two else []
        out = ratio(found.of(arm, "outside"), found.of("reseeded", "outside")).number(2)
        kept = [f"{100 * found.of(arm, name).mean():.0f} %" for name in ("shapes", "ground")]
        seconds = found.of(arm, "cpu").mean()
        cells = [ABOUT[arm], *(falls if arm != "none" else ["-", "-"]), *own, out, *kept, f"{seconds:.2f}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def parts(found: Found, pairs: Mapping[str, Sequence[tuple[str, str]]], what: str) -> str:
    """Return the table of what each part does: the distance without it less that with it, so that a number above zero
    is what it is worth."""
    lines = [f"| {what} | colour | texture | outside | |", "|---|---|---|---|---|"]
    for name, of in pairs.items():
        for with_it, without in of:
            worth = worths(found, with_it, without)
            numbers = [worth["colour"].number(1), worth["texture"].number(3), worth["outside"].number(3)]
            told = f"{name}{' (shifted donors)' if with_it == MATCHED else ''}"
            lines.append(f"| {told} | {' | '.join(numbers)} | {verdict(worth)} |")
    return "\n".join(lines)


def worths(found: Found, with_it: str, without: str) -> dict[str, Estimate]:
    """Return by how much each distance is larger without a part."""
    return {name: difference(found.of(without, name), found.of(with_it, name)) for name in MATTERS}


def verdict(worth: Mapping[str, Estimate]) -> str:
    """Return what a part is good and bad for: intervals that hold no zero, of a size that matters."""
    seen = {name: one for name, one in worth.items() if one.low * one.high > 0 and abs(one.value) >= MATTERS[name]}
    better, worse = ([n for n, one in seen.items() if (one.value > 0) == good] for good in (True, False))
    told = ["better: " + ", ".join(better)] * bool(better) + ["worse: " + ", ".join(worse)] * bool(worse)
    return "; ".join(told) or "no difference"


def goals(one: Found, two: Found) -> list[str]:
    """Return a line for each goal, as the data has it."""
    lines = [
        _goal(f"The distance to the donor's {name} falls by at least {100 * GOAL:.0f} % inside",
              got := fall(one.of("freegraftor", name), one.of("none", name)), got.low >= GOAL,
              f"the collage itself: {fall(one.of('pasted', name), one.of('none', name)).percent()}")
        for name in ("colour", "texture")
    ]  # fmt: skip
    out = ratio(one.of("freegraftor", "outside"), one.of("reseeded", "outside"))
    alone = ratio(one.of("collage_alone", "outside"), one.of("reseeded", "outside"))
    lines.append(_goal("Outside it stays within noise, what another seed changes", out, out.high < 1,
                       f"the collage's noise without a graft: {alone.percent()}"))  # fmt: skip
    for name, what in (("ground", "background"), ("shapes", "shape")):
        kept = difference(one.of("freegraftor", name), one.of("none", name))
        told = f"host alone {100 * one.of('none', name).mean():.0f} %"
        lines.append(_goal(f"The {what} that is asked for is kept, at most {100 * MARGIN:.0f} points below the host",
                           kept, kept.low > -MARGIN, told))  # fmt: skip
    own = estimate(lambda a: a, two.own("freegraftor"))
    rest = {arm: estimate(lambda a: a, two.own(arm)).percent() for arm in ("collage_alone", "shared_attention")}
    told = f"the collage's noise without a graft: {rest['collage_alone']}; shared attention: {rest['shared_attention']}"
    lines.append(_goal(f"Two subjects do not mix: at least {100 * OWN:.0f} % are nearer to their own donor", own,
                       own.low >= OWN, told))  # fmt: skip
    for name in ("colour", "texture"):
        better = fall(one.of("shifted_matched", name), one.of("shifted_same", name))
        told = "part by which the distance is less; donors are at least three tokens away, the noise is random"
        lines.append(_goal(f"Matched positions beat same positions in {name}", better, better.low > 0, told))
    return [*lines, *(_earned(one, part) for part in METHOD)]


def _earned(one: Found, part: str) -> str:
    """Return whether a part of the method earns its place in it, and, if it was tried there, for shifted donors."""
    told = [verdict(worths(one, *pair)) for pair in PARTS[part]]
    held = "better" in told[0] and "worse" not in told[0]
    more = f"; without a collage, for shifted donors: {told[1]}" if len(told) > 1 else ""
    return f"- The {part} earns its place: **{'held' if held else 'missed'}**, {told[0]}{more}."


def _goal(what: str, got: Estimate, held: bool, more: str) -> str:
    return f"- {what}: **{'held' if held else 'missed'}**, {got.percent()} ({more})."


INTRO = """\
# Feature grafts on a trained host

Written by `make repro-features` (`benchmarks/repro_features.py`) from `benchmarks/data/features.jsonl`; the arms are
`specs/repro/features.yaml` and `features_two.yaml`. The host is `specs/hosts/shapes`: a FLUX-shaped transformer
(diffusers' classes, an autoencoder, rotary positions, 144 tokens) that was trained on captions of coloured, textured
shapes.

A prompt names shape, place and background, as "a ring at the left on grass", and leaves colour and texture free. A
donor is a rendered picture of such a shape in some colour and texture, on another background, at another place, at
least three tokens from where the host puts its own. {one} cases of one subject, {two} of two: the first numbers of a
seed whose picture by the host alone shows something to graft onto. Settings were chosen on another seed and another
host. Sampling: FireFlow, 8 steps, no guidance.

FreeGraftor is the preset as it stands (threshold 0.2, cycle 1.5 tokens, dropout 0.4, noise of a collage); the place is
measured in the host's own picture, as no detector is part of this. Peers are presets too, once with the whole donor as
they were published, once with masks: the donor's subject alone, seen by the target's subject alone. StyleAligned takes
an inverted donor, since the reference is a given picture; Personalize Anything has the donor's mask always.

Measures, all at one place for every method, where the host's own subject and the pasted one overlap:

- **colour**: distance of mean colours to the donor's, CIE L\\*a\\*b\\*. **texture**: distance of the responses of Gabor
  filters. *falls by*: 1 - mean over mean of the host alone.
- **outside**: root mean square to the host's own picture away from the subjects, over that of the host with another
  seed: 1 is as much as the noise decides.
- **shape**, **background**: part of pictures in which rules read what was asked for.
- **own donor nearer** (two subjects): part of subjects whose colour is nearer to their own donor's than to the other's.
- **CPU s**: of one picture, inversion counted; process time of one thread.

Brackets are paired 95 % bootstrap intervals over cases.

## Goals

Of FreeGraftor as it stands.

"""
SHIFTED = """\
Donors that are shifted, no collage: strength 2, matches within the masks of donor and target, seen by the tokens of the
target's mask alone.
"""
WORTH = """
## What each part is worth

Distance without the part less the distance with it, paired: above zero is what the part is worth. Differences below
{colour:g} in colour, and {texture:g} in texture and outside, are none.
"""
BESIDE = """
## Beside peers

Distance of the peer less that of FreeGraftor, the same way: above zero, FreeGraftor is nearer.
"""
OUTRO = """\

## To reproduce

```
make repro-features
```

What is finished is not made again; after a change of the host or of an arm its rows are.
"""
COLUMNS = {
    "none": "host alone",
    "freegraftor": "FreeGraftor",
    "strong": "strength 1",
    "strong_owner": "competition owner",
    "no_matching": "no matching",
    "collage_alone": "noise alone",
    "no_collage": "random noise",
    "shifted_matched": "shifted, matched",
    "shifted_same": "shifted, no matching",
    "shared_attention": "shared attention",
    "shared_masks": "shared attention, masks",
    "masactrl": "MasaCtrl",
    "masactrl_masks": "MasaCtrl, masks",
    "masactrl_collage": "MasaCtrl, collage",
    "style_aligned": "StyleAligned",
    "style_masks": "StyleAligned, masks",
    "personalize_anything": "Personalize Anything",
    "personalize_collage": "Personalize, collage",
}
"""Of the pictures."""


def page(rows: Sequence[Row]) -> str:
    """Return docs/results/features.md."""
    one, two = Found(rows, 1), Found(rows, 2)
    shifted = [arm for arm in one.arms if arm.startswith("shifted")]
    lines = [
        INTRO.format(one=len(one.cases), two=len(two.cases)) + "\n".join(goals(one, two)),
        "\n## One subject\n",
        table(one, [arm for arm in one.arms if arm not in shifted]),
        "\n![Donor, host alone, and each method](features-one.png)\n",
        SHIFTED,
        table(one, shifted),
        WORTH.format(**MATTERS),
        parts(one, PARTS, "part"),
        BESIDE,
        parts(one, PEERS, "peer"),
        "\n## Two subjects\n",
        table(two, two.arms),
        "\n![Donors, host alone, and each method](features-two.png)",
        OUTRO,
    ]
    return "\n".join(lines)


def sheet(rows: Sequence[Row], pictures: Path, folder: Path) -> None:
    """Write the pictures of the first cases side by side, where all of them are there."""
    for subjects, name in ((1, "one"), (2, "two")):
        found = Found(rows, subjects)
        arms = [arm for arm in COLUMNS if arm in found.arms]
        columns = [*(f"donor{place}" for place in range(subjects)), *arms]
        files = [[pictures / f"{subjects}-{n}-{c}.png" for c in columns] for n in found.cases[: SHOWN[subjects]]]
        if files and all(file.exists() for line in files for file in line):
            donors = ["donor"] if subjects == 1 else [f"donor {which}" for which in NAMES[subjects]]
            labels = [*donors, *(COLUMNS[arm] for arm in arms)]
            contact(files, labels).save(folder / f"features-{name}.png", optimize=True)


def contact(files: Sequence[Sequence[Path]], labels: Sequence[str], zoom: int = 2) -> Image.Image:
    """Return a sheet: a line of pictures for each of `files`, with a label over each column."""
    side, top = 48 * zoom, 30
    whole = Image.new("RGB", (len(labels) * (side + 4), top + len(files) * (side + 4)), "white")
    pen = ImageDraw.Draw(whole)
    for column, label in enumerate(labels):
        pen.multiline_text((column * (side + 4) + 2, 2), _broken(label), fill="black", font_size=10)
        for line, row in enumerate(files):
            image = Image.open(row[column]).resize((side, side), Image.Resampling.NEAREST)
            whole.paste(image, (column * (side + 4), top + line * (side + 4)))
    return whole


def _broken(label: str, most: int = 17) -> str:
    """Return a label in lines."""
    lines = [""]
    for word in label.split():
        if lines[-1] and len(lines[-1]) + len(word) >= most:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    return "\n".join(lines)
