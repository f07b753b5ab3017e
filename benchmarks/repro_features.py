"""Feature grafts on a host that was trained on captions: docs/results/features.md.

    python -m benchmarks.repro_features [--page-only] [--cases 64] [--out out/features]

Arms are those of specs/repro/features.yaml and features_two.yaml. Rows are kept in benchmarks/data/features.jsonl, one
for each case and arm; what is there of the same host and injection is not made again.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from archspec.injection import Injection
from archspec.runtime.store.home import Home
from benchmarks.repro_features_cases import Case, make_case
from benchmarks.repro_features_page import SHOWN, page, sheet
from benchmarks.repro_features_study import Bench, Row, arms, cores, fingerprint, grid, measures
from benchmarks.shapes_measures import Array, inner

ROOT = Path(__file__).parents[1]
SPECS = {1: ROOT / "specs" / "repro" / "features.yaml", 2: ROOT / "specs" / "repro" / "features_two.yaml"}
DATA, PAGE = ROOT / "benchmarks" / "data" / "features.jsonl", ROOT / "docs" / "results" / "features.md"
SEED = 1
"""Of the reported cases; settings were chosen on cases of other seeds."""
RESEEDED = 50_000
CORE = 40
"""Pixels of the smallest core that is measured."""
CASES = 64


@dataclass
class Study:
    """One spec on cases of the seed `base`. Rows are added to `data`, pictures of the first cases put into `out`."""

    subjects: int
    out: Path
    data: Path
    base: int = SEED

    def __post_init__(self) -> None:
        self.arms, place = arms(SPECS[self.subjects])
        self.keys = keys(place, self.arms)
        self.first = next(iter(self.arms.values()))
        self.bench = Bench(place, self.first)

    def run(self, count: int) -> None:
        """Make the rows that are missing of the first cases."""
        rows = [row for row in read(self.data) if row["subjects"] == self.subjects]
        done = {(row["case"], row["arm"]) for row in rows if row["key"] == self.keys.get(row["arm"])}
        usable = 0
        for number in range(60 * count):
            missing = [arm for arm in self.keys if (number, arm) not in done]
            usable += not missing or self.add(number, missing, usable < SHOWN[self.subjects])
            if usable == count:
                return

    def add(self, number: int, missing: Sequence[str], shown: bool) -> bool:
        """Add the rows of a case; return False of a number that is none."""
        case = make_case(number, self.base, self.subjects, self.bench.paint)
        if case is None:
            return False
        laid = self.bench.donors(case, self.first)
        inside = cores(case, laid)
        if any(inner(core).sum() < CORE for core in inside):
            return False
        around = np.logical_or.reduce([laid.target, *(donor.place for donor in case.donors)])
        rows = []
        for arm in missing:
            image, seconds = self.picture(case, arm)
            told = {"subjects": self.subjects, "case": number, "arm": arm, "key": self.keys[arm]}
            rows.append(told | measures(case, image, inside, around) | {"cpu": round(seconds, 3)})
            if shown:
                self.save(case, arm, image)
        for place, donor in enumerate(case.donors if shown else ()):
            self.save(case, f"donor{place}", donor.pixels)
        append(self.data, rows)
        print(f"{case.prompt} ({number}): {len(rows)} pictures", flush=True)
        return True

    def picture(self, case: Case, arm: str) -> tuple[Array, float]:
        """Return what an arm draws and its CPU seconds; none of what no graft makes."""
        if arm in self.arms:
            return self.bench.draw(case, self.arms[arm])
        if arm == "reseeded":
            return self.bench.paint(case.prompt, case.seed + RESEEDED), 0.0
        pasted = self.bench.donors(case, self.first).pasted
        assert pasted is not None
        return {"none": case.plain, "pasted": pasted}[arm], 0.0

    def save(self, case: Case, name: str, image: Array) -> None:
        self.out.mkdir(parents=True, exist_ok=True)
        Image.fromarray(grid(image)).save(self.out / f"{self.subjects}-{case.number}-{name}.png")


def keys(place: Home, found: Mapping[str, Injection]) -> dict[str, str]:
    """Return the key of each arm's rows, and of the pictures that no graft makes."""
    alone = fingerprint(place, next(iter(found.values())))
    return dict.fromkeys(("none", "reseeded", "pasted"), alone) | {n: fingerprint(place, i) for n, i in found.items()}


def append(data: Path, rows: Sequence[Row]) -> None:
    data.parent.mkdir(parents=True, exist_ok=True)
    with data.open("a", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)


def read(data: Path) -> Iterator[Row]:
    """Yield the rows of a file; none of one that is not there."""
    if data.exists():
        yield from (json.loads(line) for line in data.read_text("utf-8").splitlines())


def tidy(data: Path) -> list[Row]:
    """Return the rows of the host and the specs as they are, in order, and leave no others in the file."""
    known = {subjects: keys(place, found) for subjects, spec in SPECS.items() for found, place in [arms(spec)]}
    rows = [row for row in read(data) if known[row["subjects"]].get(row["arm"]) == row["key"]]
    order = [(subjects, arm) for subjects, of in known.items() for arm in of]
    rows.sort(key=lambda row: (row["subjects"], row["case"], order.index((row["subjects"], row["arm"]))))
    partial = data.with_name(f".{data.name}.partial")
    partial.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    partial.replace(data)
    return rows


def main(arguments: Iterable[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, default=ROOT / "out" / "features", help="where pictures are put")
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--cases", type=int, default=CASES)
    parser.add_argument("--page-only", action="store_true", help="make the page of the rows that there are")
    options = parser.parse_args(None if arguments is None else list(arguments))
    if not options.page_only:
        for subjects in SPECS:
            Study(subjects, options.out, options.data).run(options.cases)
    rows = tidy(options.data) if options.data.exists() else []
    if {row["subjects"] for row in rows} != set(SPECS):
        print("nothing is finished yet", file=sys.stderr)
        return 1
    PAGE.write_text(page(rows), "utf-8")
    sheet(rows, options.out, PAGE.parent)
    print(PAGE.read_text("utf-8"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
