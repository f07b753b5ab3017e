"""Descriptions of data: found without torch, changed by content and by nothing else."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from archspec.runtime.data import describe as describing
from archspec.runtime.data.describe import describe, fingerprint, identity


def test_needs_no_torch() -> None:
    code = (
        "import sys; from pathlib import Path; from archspec.runtime.data.describe import describe;"
        "describe({'from': 'digits'}, Path('.')); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    ("name", "kind"), [("a.parquet", "parquet"), ("a.txt", "text"), ("a.jsonl", "jsonl"), ("a.npy", "latents")]
)
def test_kind_is_told_from_the_name(name: str, kind: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"content")
    found = describe({"from": name}, tmp_path)
    assert (found.kind, found.path) == (kind, tmp_path / name)


def test_identity_follows_content_not_place(tmp_path: Path) -> None:
    folder = tmp_path / "a"
    folder.mkdir()
    (folder / "x.png").write_bytes(b"1" * 10_000)
    first = describe({"from": "a"}, tmp_path).identity
    shutil.copytree(folder, tmp_path / "b")
    assert describe({"from": "b"}, tmp_path).identity == first
    (folder / "x.png").write_bytes(b"1" * 9_999 + b"2")
    assert describe({"from": "a"}, tmp_path).identity != first
    (folder / "x.png").write_bytes(b"1" * 10_000)
    assert describe({"from": "a"}, tmp_path).identity == first
    (folder / "y.png").write_bytes(b"")
    assert describe({"from": "a"}, tmp_path).identity != first


def test_every_byte_counts_unless_there_are_too_many(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "x.npy"
    middle = b"1" * 10_000 + b"2" + b"1" * 10_000
    file.write_bytes(b"1" * len(middle))
    first = fingerprint(file)
    file.write_bytes(middle)
    assert fingerprint(file) != first
    monkeypatch.setattr(describing, "WHOLE", 10_000)
    edges = fingerprint(file)
    file.write_bytes(b"1" * len(middle))
    assert fingerprint(file) == edges


def test_what_is_taken_of_the_data_is_part_of_their_identity(tmp_path: Path) -> None:
    data = {"from": "digits"}
    first = identity(data, tmp_path)
    assert identity({"from": "digits", "fraction": 1.0, "seed": 3}, tmp_path) == first  # the seed chooses nothing
    others = [identity({**data, "fraction": 0.5, "seed": seed}, tmp_path) for seed in (0, 1)]
    others += [identity({**data, "fraction": 0.25}, tmp_path), identity({**data, "column": "x"}, tmp_path)]
    assert len({first, *others}) == 5


def test_generated_is_identified_by_its_prompts(tmp_path: Path) -> None:
    data = {"from": "host", "kind": "generated", "prompts": "p.txt"}
    (tmp_path / "p.txt").write_text("1\n2\n")
    first = describe(data, tmp_path).identity
    (tmp_path / "p.txt").write_text("1\n\n2\n")
    assert describe(data, tmp_path).identity == first
    (tmp_path / "p.txt").write_text("1\n3\n")
    assert describe(data, tmp_path).identity != first


def test_hub_name() -> None:
    assert describe({"from": "ylecun/mnist"}, Path("/nowhere")).kind == "hub"
