"""Three skills learnt one after another, in packs and in other ways: rewrites docs/results/continual.md.

For each seed a small Llama is trained here to copy strings, then learns to sort, to reverse and to shift letters (the
world is in `benchmarks.continual`), stage by stage. After each stage every way of keeping what was learnt is measured
on all tasks, with 512 strings each, a quarter of them told by a word that no skill was learnt with. Trained models,
packs and measures are kept under `--out`, so a stopped reproduction goes on.
"""

from __future__ import annotations

import argparse
import os
import sys
import warnings
from pathlib import Path

import torch

from benchmarks.continual_page import page, picture
from benchmarks.continual_study import Plan, Study, measure

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "results" / "continual.md"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, default=ROOT / "out" / "repro-continual")
    parser.add_argument("--seeds", type=int, default=3, help="how many (at least 2, for intervals)")
    parser.add_argument("--page-only", action="store_true", help="write the page of what is on record")
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", category=FutureWarning)
    os.environ.setdefault("TQDM_DISABLE", "1")
    found = []
    for seed in range(options.seeds):
        folder = options.out / f"seed-{seed}"
        folder.mkdir(parents=True, exist_ok=True)
        found.append(measure(Study(folder, seed, Plan()), anew=not options.page_only))
    PAGE.write_text(page(found, PAGE.with_suffix(".svg").name), "utf-8")
    picture(found, PAGE.with_suffix(".svg"))
    print(f"wrote {PAGE}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
