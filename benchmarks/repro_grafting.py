"""The experiments of the grafting paper (arXiv 2506.05340) on the host of 64 tokens: docs/results/grafting.md.

    python -m benchmarks.repro_grafting [--page-only] [--only tab4_mlp ...] [--out out/repro]

Every table is a sweep of specs/repro, run into `--out` by `archspec sweep`: what is finished is found again,
what members share is done once. What was measured goes to docs/results/data, a row per group of seeds, and the page is
written from there: tables without outputs at hand stay as they are. Seeds that are not finished are left out, and every
row says how many are in it, so the page may be made at any time (`--page-only`).
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from archspec.runtime.measure.intervals import interval
from benchmarks import grafting_fashion
from benchmarks.grafting_page import (
    ARMS,
    DIGITS,
    FASHION,
    SEEDS,
    SPECS,
    Goal,
    Host,
    Key,
    Table,
    fid,
    found_in,
    locality,
    picture,
    section,
    verdicts,
)
from benchmarks.grafting_rows import Row, finished, in_order, merged, read_rows, rows_of, write_rows

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "results" / "grafting.md"
FETCH = ROOT / "specs" / "hosts" / "fetch.py"
HOSTS = ROOT / "docs" / "results" / "data" / "grafting-host.json"


def _tab4(op: str, *fids: float | None) -> dict[Key, str]:
    return dict(zip(((op, "half"), (op, "most"), (op, "all")), map(fid, fids), strict=True))


MIXERS = ("hyena_se", "hyena_x", "hyena_y", "swa", "mamba2")
TABLES = (
    Table(
        "Regression loss (Tab. 1): FID ratio of the paper for attention / MLP",
        "tab1_loss",
        ("loss",),
        {
            ("l1",): f"{fid(2.51)} / {fid(2.83)}",
            ("huber",): f"{fid(2.55)} / not known",
            ("l2",): f"{fid(2.58)} / {fid(2.33)}",
        },
        arms=("attn", "mlp"),
    ),
    Table(
        "Self-grafts of everything, by stage (Tab. 2)",
        "tab2_stages",
        ("arm",),
        {
            ("attn",): fid(2.49),
            ("mlp",): fid(2.54),
            ("attn_random",): fid(289.23),
            ("attn_regressed",): fid(16.78),
            ("mlp_random",): fid(314.72),
        },
        arms=(),
    ),
    Table(
        "Self-grafts of everything, by data of the second stage (Tab. 2)", "tab2_data", ("data",), arms=("attn", "mlp")
    ),
    Table("Self-grafts of attention, both recipes (Tab. 2)", "self_graft", ("blocks",), {("all",): fid(2.49)}),
    Table(
        "Attention replaced (Tab. 4)",
        "tab4_attention",
        ("op", "blocks"),
        {
            **_tab4("hyena_se", 2.73, 3.62, None),
            **_tab4("hyena_x", 2.74, 3.69, None),
            **_tab4("hyena_y", 2.72, 3.66, None),
            **_tab4("swa", 2.67, 3.09, None),
            **_tab4("mamba2", 2.65, 3.02, None),
        },
    ),
    Table(
        "Attention replaced where and how it is cheapest: three of six, on the grid, regressed from the closed form",
        "tab4_chosen",
        ("op",),
        arms=("data", "drawn", "long"),
    ),
    Table(
        "MLPs replaced (Tab. 4)",
        "tab4_mlp",
        ("op", "blocks"),
        {
            **_tab4("r3", 2.53, 2.61, 2.66),
            **_tab4("r6", 2.38, 2.37, 2.42),
            **_tab4("hyena_mlp", 2.64, 3.26, None),
        },
        arms=(*ARMS, "kept", "closed"),
    ),
    Table("More data for 50 % hybrids (Fig. 4a)", "fig4_data", ("op", "data")),
    Table(
        "Which attentions: Hyena-X in three (Fig. 4b)",
        "fig4_layers",
        ("layers",),
        {("interleaved",): fid(2.74), ("local",): fid(3.02), ("nonlocal",): fid(3.18)},
    ),
    Table("Data that the host draws, and LoRA (Sec. 5)", "sec5_lora", ("data", "lora")),
    Table("Half the depth (Tab. 6)", "tab6_parallel", ("arm",), {("paper",): fid(2.77)}, arms=()),
    *grafting_fashion.FASHION_TABLES,
)
GOALS = (
    Goal("MLP r = 3 and r = 6 in all blocks", "tab4_mlp", 1.05, (("r3", "all"), ("r6", "all"))),
    Goal("the same, the better of start and result", "tab4_mlp", 1.05, (("r3", "all"), ("r6", "all")), "kept"),
    Goal("the same, closed form alone", "tab4_mlp", 1.05, (("r3", "all"), ("r6", "all")), "closed"),
    Goal("attention hybrids of half of the blocks", "tab4_attention", 1.10, tuple((op, "half") for op in MIXERS)),
    Goal("the same, places and forms chosen", "tab4_chosen", 1.10, tuple((op,) for op in MIXERS), "data"),
    Goal("the same, regressed on drawn images", "tab4_chosen", 1.10, tuple((op,) for op in MIXERS), "drawn"),
    Goal("the same, on drawn images alone, in many steps", "tab4_chosen", 1.10, tuple((op,) for op in MIXERS), "long"),
    Goal("parallel pairs at half depth", "tab6_parallel", 1.20, (("ours",),), ""),
    Goal("the same, regressed first and finetuned cooler", "tab6_parallel", 1.20, (("cool",),), ""),
    Goal("the same, on images that the host draws", "tab6_parallel", 1.20, (("drawn",),), ""),
    *grafting_fashion.FASHION_GOALS,
)

VERDICTS = """\
Mean FD ratios ± 95 % intervals over n seeds. *held*: every row is there, with three seeds, and no mean is beyond the
bound; *missed*: a mean of three seeds is; *open*: rows or seeds are missing.

"""
INTRO = """\
# The grafting paper at the scale of one machine

Written by `make repro` (`benchmarks/repro_grafting.py`) from the sweeps of `specs/repro`. The host is
`specs/hosts/digits-64`: six blocks, 64 tokens, trained by this project on 130,304 noised digits; its FD to the training
images is {host} (500 samples, 20 steps).

Two recipes finetune for as many steps. **paper**: random weights, regression to the teacher's activations (512
images, 60 epochs), then finetuning on the data. **ours**: inherited weights, read-outs in closed form one after the
other on the edited model's activations (128 images each), then steps to data and teacher. **kept**: ours, but of
before, after 20, 40 and 60 steps those weights stay that are nearest to the teacher's output on held-out images.
**closed**: read-outs in closed form alone, each on the teacher's activations (512 images for all), no gradient step.
Of the chosen attentions, **data**: fits, regression from there and 36 steps, all on the data; **drawn**: fits and
regression on images that the host draws itself, 73 steps on the data, the better of start and result kept; **long**:
all on images that the host draws itself, 600 steps. Of Tab. 6,
**cool**: ours with a regression before a shorter finetuning of a lower rate; **drawn**: ours, finetuned for longer, on
images that the host draws itself, the best weights kept; **scratch**: random weights, trained on the data alone, in as
many steps as the others finetune, on as many images, or for as many CPU seconds as ours needs in all.

- **FD ratio**: Frechet distance of the result over the host's, from the same noise, seed by seed; mean ± 95 % interval
  where there are several seeds (n), and a dot per seed in the pictures. *paper, FID ratio* is what arXiv 2506.05340
  prints for DiT-XL/2, over its host's 2.27: another host, other data and longer training, so only the order of rows can
  be compared.
- **error of stage 1**: |y - y*| / |y*| at the edited sites, y* the teacher's output, on held-out images, before
  finetuning. **CPU s**: process time of one thread; the machine had other work, which it does not count.
- **images**: noised images that a plan runs a model on, those that it is judged on among them, and their part of
  what the host was trained on; *drawn*: those that the host drew itself, which cost none of the data. Fits one after
  the other run the host again for each site, so in the tables of both recipes ours counts {low:.1f} to {high:.1f} times
  as many: the comparison is of CPU seconds and steps, not at equal images.
- **kept**: the step whose weights stayed, seed by seed, where a finetuning keeps its best.

"""
LOCALITY = """\
Share of attention within k places in raster order, over heads, 250 noised digits and their times, and 1 - cosine of
what goes into a block and what comes out; ± two standard errors. As in the paper the first block is the least local.
"""
OUTRO = """\
## To reproduce

```
make repro
```

A reproduction that was stopped goes on where it was. Fashion-MNIST is downloaded with `apt-get` where it is not
installed; where that fails, its sweeps are left out, and what to do is said.
"""


def page(found: Mapping[str, Sequence[Row]]) -> str:
    """Return docs/results/grafting.md."""
    low, high = _images(found)
    goals = "## Goals\n\n" + VERDICTS + "\n".join(verdicts(GOALS, {table.spec: table for table in TABLES}, found))
    return INTRO.format(host=_host(DIGITS, found), low=low, high=high) + "\n".join(
        [
            locality("Locality of attention (Fig. 2), and influence of blocks", LOCALITY, DIGITS),
            *_sections(DIGITS, found),
            *_fashion(found),
            goals + "\n",
            OUTRO,
        ]
    )


def _sections(host: Host, found: Mapping[str, Sequence[Row]]) -> list[str]:
    tables = [table for table in TABLES if table.host == host and found[table.spec]]
    return [section(table, found[table.spec], picture_of(table).name) for table in tables]


def _fashion(found: Mapping[str, Sequence[Row]]) -> list[str]:
    """Return the part of the second host, if anything was measured of it."""
    sections = _sections(FASHION, found)
    text = grafting_fashion.INTRO.format(host=_host(FASHION, found)) if sections else ""
    return [locality("A second data set: Fashion-MNIST", text, FASHION), *sections] if sections else []


def _host(host: Host, found: Mapping[str, Sequence[Row]]) -> str:
    """Return a host's FD, mean ± 95 % interval: as rows have it, if they have all seeds, else as it was kept; where
    nothing was kept, of the seeds that there are."""
    rows = [row for table in TABLES if table.host == host for row in found[table.spec]]
    fds = {seed: fd for row in rows for seed, fd in (row.hosts or {}).items()}
    if len(fds) >= SEEDS:
        return interval(fds.values())
    kept: Mapping[str, str] = json.loads(HOSTS.read_text("utf-8"))
    return kept.get(host.name) or ", ".join(f"{fd:.2f}" for fd in fds.values())


def picture_of(table: Table) -> Path:
    return PAGE.with_name(f"grafting-{table.spec}.svg")


def data_of(table: Table) -> Path:
    return PAGE.parent / "data" / f"grafting-{table.spec}.json"


def _images(found: Mapping[str, Sequence[Row]]) -> tuple[float, float]:
    """Return the least and the most images of ours over those of the paper's recipe, in lines that have both."""
    ratios = [
        (arms["ours"].images + arms["ours"].drawn) / (arms["paper"].images + arms["paper"].drawn)
        for table in TABLES
        if table.arms[:2] == ARMS and table.host == DIGITS
        for arms in found_in(table, found[table.spec]).values()
        if arms.keys() >= set(ARMS)
    ]
    return min(ratios, default=1.0), max(ratios, default=1.0)


def main(arguments: Iterable[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, default=ROOT / "out" / "repro")
    parser.add_argument("--only", nargs="+", choices=[table.spec for table in TABLES], help="run only these sweeps")
    parser.add_argument("--page-only", action="store_true", help="make the page of what is finished")
    options = parser.parse_args(None if arguments is None else list(arguments))
    whole = options.page_only or _run(options.only or [table.spec for table in TABLES], options.out)
    found = {table.spec: gather(table, options.out) for table in TABLES}
    if not any(found.values()):
        print("nothing is finished yet", file=sys.stderr)
        return 1
    PAGE.write_text(page(found), "utf-8")
    print(PAGE.read_text("utf-8"))
    return 0 if whole else 1


def gather(table: Table, out: Path) -> list[Row]:
    """Return the rows of a table: those kept in the repository, and what outputs at hand say anew."""
    spec, kept = SPECS / f"{table.spec}.yaml", data_of(table)
    new = rows_of(finished(spec, out / table.spec))
    rows = in_order(spec, merged(read_rows(kept), new))
    if new:
        write_rows(kept, rows)
    if rows:
        picture(table, rows, picture_of(table))
    return rows


def _run(specs: Sequence[str], out: Path) -> bool:
    """Run these sweeps. False: Fashion-MNIST could not be fetched, and its sweeps were left out."""
    from archspec.cli.sweep import command

    of_fashion = {table.spec for table in TABLES if table.host == FASHION}
    at_hand = of_fashion.isdisjoint(specs) or _fetch()
    for spec in specs:
        if at_hand or spec not in of_fashion:
            command.main([str(SPECS / f"{spec}.yaml"), "-o", str(out / spec), "--yes"], standalone_mode=False)
    return at_hand


def _fetch() -> bool:
    """Have Fashion-MNIST at hand; where that fails, what to do is told on stderr."""
    return subprocess.run([sys.executable, str(FETCH)], check=False).returncode == 0


if __name__ == "__main__":
    sys.exit(main())
