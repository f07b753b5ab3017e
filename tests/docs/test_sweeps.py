"""The spec and the commands of docs/sweeps.md run, and do what the page says of them."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest

from tests.command import run

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "sweeps.md").read_text("utf-8")
BLOCKS = [m.groups() for m in re.finditer(r"^```(\w+)(?: file=(\S+))?\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)]


def test_the_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "hosts").symlink_to(ROOT / "specs" / "hosts")
    ran = []
    for kind, file, text in BLOCKS:
        if kind == "yaml":
            (tmp_path / file).write_text(text)
            continue
        for line in text.splitlines():
            assert run(monkeypatch, *shlex.split(line)[1:], "--device", "cpu", "--json") == 0
            ran.append(json.loads(capsys.readouterr().out)["tasks"]["ran"])
    each = 1 + 2 * 2  # a seed: the fit that its members share, and a regression and an evaluation of each
    assert ran == [each, each, 0]
    store = {path.name for path in (tmp_path / "out" / "store").iterdir() if (path / "report.json").is_file()}
    assert {path.name for path in (tmp_path / "out" / "losses" / "artifacts").glob("[0-9a-f]*")} <= store
    table = re.search(r"## The folder\n(.*)", TEXT, re.DOTALL)
    assert table is not None
    for name in ("leaderboard.json", "leaderboard.md", "index.html", "sweep.json"):
        assert f"`{name}`" in table[1]
        assert (tmp_path / "out" / "losses" / name).is_file()
