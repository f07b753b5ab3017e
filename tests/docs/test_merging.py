"""Every configuration and command of docs/merging.md runs; every method stands in its table."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from click.testing import CliRunner

from archspec.cli.merge import command
from archspec.language.merges import METHODS
from tests.compiler.merging.golden_cases import write_models

TEXT = (Path(__file__).parents[2] / "docs" / "merging.md").read_text("utf-8")
BLOCKS = [m.groups() for m in re.finditer(r"^```(\w+)(?: file=(\S+))?\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)]


def test_the_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_models(tmp_path)
    (tmp_path / "a").rename("chat")
    (tmp_path / "b").rename("math")
    ran = 0
    for kind, file, text in BLOCKS:
        if kind == "yaml":
            (tmp_path / file).write_text(text)
            continue
        for line in text.splitlines():
            verb, *arguments = shlex.split(line)[1:]
            assert verb == "merge"
            CliRunner().invoke(command, arguments, standalone_mode=False, catch_exceptions=False)
            ran += 1
    assert ran == 4
    assert (tmp_path / "stacked" / "model.safetensors").is_file()
    assert (tmp_path / "merged" / "model.safetensors").is_file()


def test_every_method_is_in_the_table() -> None:
    assert [name for name in METHODS if f"`{name}`" not in TEXT] == []
