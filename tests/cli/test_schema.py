import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from archspec.cli import main
from archspec.cli.schema import GENERATED
from archspec.language.schema import spec_schema


def test_prints_the_schema() -> None:
    result = CliRunner().invoke(main, ["schema"])
    assert result.exit_code == 0
    assert json.loads(result.stdout) == spec_schema()


def test_write_and_check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for folder in ("grammars", "docs"):
        (tmp_path / folder).mkdir()
    missing = CliRunner().invoke(main, ["schema", "--check"])
    assert missing.exit_code == 1
    assert missing.stdout.count("out of date:") == len(GENERATED)
    written = CliRunner().invoke(main, ["schema", "--write"])
    assert (written.exit_code, written.stdout.count("wrote")) == (0, len(GENERATED))
    again = CliRunner().invoke(main, ["schema", "--check"])
    assert (again.exit_code, again.stdout) == (0, "")
    (tmp_path / "docs" / "errors.md").write_text("stale")
    assert CliRunner().invoke(main, ["schema", "--check"]).stdout == "out of date: docs/errors.md\n"


def test_outside_a_checkout_is_a_usage_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(main, ["schema", "--write"])
    assert result.exit_code == 2
    assert "checkout" in result.stderr
