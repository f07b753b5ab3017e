"""`archspec fmt`: printing, checking, writing, turning into the other spelling."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from archspec.cli.fmt import command
from archspec.diagnostics import ArchspecError
from tests.disk import narrow

MESSY = "name:   x  # named\nedits: [ {drop: 'blocks[1]'} ]\n"
YAML = "archspec: 1\nname: x  # named\nedits:\n  - drop: blocks[1]\n"
DSL = 'spec "x" {  # named\n  drop blocks[1]\n}\n'


def run(*arguments: str | Path, text: str | None = None) -> Result:
    return CliRunner().invoke(command, [str(a) for a in arguments], input=text, standalone_mode=False)


@pytest.fixture
def messy(tmp_path: Path) -> Path:
    path = tmp_path / "a.yaml"
    path.write_text(MESSY)
    return path


def test_prints(messy: Path) -> None:
    assert run(messy).output == YAML
    assert run(messy, "--to", "arch").output == DSL
    assert messy.read_text() == MESSY


def test_reads_standard_input() -> None:
    assert run("-", text=MESSY).output == YAML
    assert run("-", "--stdin-name", "x.arch", "--to", "yaml", text=DSL).output == YAML


def test_check_names_what_is_not_formatted(messy: Path) -> None:
    result = run(messy, "--check")
    assert (result.return_value, result.output) == (1, f"{messy}\n")
    messy.write_text(YAML)
    result = run(messy, "--check")
    assert (result.return_value, result.output) == (0, "")


def test_write_replaces_the_file_and_keeps_its_permissions(messy: Path) -> None:
    messy.chmod(0o640)
    assert run(messy, "-w").return_value == 0
    assert messy.read_text() == YAML
    assert messy.stat().st_mode & 0o777 == 0o640
    assert [path.name for path in messy.parent.iterdir()] == ["a.yaml"]


def test_write_leaves_a_formatted_file_alone(messy: Path) -> None:
    messy.write_text(YAML)
    before = messy.stat()
    run(messy, "-w")
    assert (messy.stat().st_ino, messy.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_write_follows_a_link(messy: Path) -> None:
    link = messy.with_name("link.yaml")
    link.symlink_to(messy)
    run(link, "-w")
    assert link.is_symlink()
    assert messy.read_text() == YAML


def test_write_to_the_other_spelling_keeps_the_original(messy: Path) -> None:
    run(messy, "-w", "--to", "arch")
    assert messy.read_text() == MESSY
    assert messy.with_suffix(".arch").read_text() == DSL


def test_no_file_is_overwritten_by_the_other_spelling(messy: Path) -> None:
    other = messy.with_suffix(".arch")
    other.write_text("mine")
    result = run(messy, "-w", "--to", "arch")
    assert isinstance(result.exception, ArchspecError)
    assert result.exception.diagnostics[0].code == "AS161"
    assert other.read_text() == "mine"


def test_nothing_is_written_when_one_file_is_wrong(messy: Path) -> None:
    wrong = messy.with_name("b.yaml")
    wrong.write_text("a: [")
    also = messy.with_name("c.arch")
    also.write_text("spek")
    result = run(messy, wrong, also, "-w")
    assert isinstance(result.exception, ArchspecError)
    assert [diagnostic.code for diagnostic in result.exception.diagnostics] == ["AS105", "AS120"]
    assert messy.read_text() == MESSY


def test_only_sound_specs_change_their_spelling(messy: Path) -> None:
    messy.write_text("name: x\nedits: [{dorp: blocks}]\n")
    assert run(messy).return_value == 0
    result = run(messy, "--to", "arch")
    assert isinstance(result.exception, ArchspecError)
    assert result.exception.diagnostics[0].code == "AS145"


def test_a_failed_write_leaves_nothing_behind(messy: Path) -> None:
    with narrow(4):
        result = run(messy, "-w")
    assert isinstance(result.exception, ArchspecError)
    assert result.exception.diagnostics[0].code == "AS631"
    assert messy.read_text() == MESSY
    assert [path.name for path in messy.parent.iterdir()] == ["a.yaml"]


def test_write_and_check_exclude_each_other(messy: Path) -> None:
    assert "exclude each other" in str(run(messy, "-w", "--check").exception)
