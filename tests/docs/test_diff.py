"""Every command of docs/diff.md runs, and its JSON has the keys that the page names."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest
from click.testing import CliRunner

from archspec.cli import main
from tests.packs import packed, rules, tuned_from

TEXT = (Path(__file__).parents[2] / "docs" / "diff.md").read_text("utf-8")
COMMANDS = [
    line for block in re.findall(r"^```bash\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL) for line in block.splitlines()
]


def test_the_page_runs(tmp_path: Path, tiny_llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "base").symlink_to(tiny_llama)
    tuned_from(tiny_llama, tmp_path / "tuned")
    tuned_from(tiny_llama, tmp_path / "other", size=0.1)
    for name, tuned in (("first", "tuned"), ("second", "other")):
        packed(tmp_path, tmp_path / "base", f"{{tuned: {tmp_path / tuned}, {rules(tiny_llama)}}}", name)
    for line in COMMANDS:
        result = CliRunner().invoke(main, shlex.split(line)[1:])
        assert result.exit_code == 0, result.output
    assert len(COMMANDS) == 4


def test_the_keys_are_those_of_the_page(tmp_path: Path, tiny_llama: Path) -> None:
    tuned = tuned_from(tiny_llama, tmp_path / "tuned")
    found = json.loads(CliRunner().invoke(main, ["diff", str(tiny_llama), str(tuned), "--json"]).stdout)["weights"]
    for key in {*found, *found["cells"][0], *found["tensors"][0]} - {"name", "spectrum"}:
        assert f"`{key}`" in TEXT or key.startswith("norm_"), key
