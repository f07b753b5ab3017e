"""`archspec compile`: what is printed, JSON, refusals and exit codes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.command import run


@pytest.fixture
def spec(tiny_dit: Path, tmp_path: Path) -> Path:
    (tmp_path / "host").symlink_to(tiny_dit)
    text = 'archspec: 1\nname: made\nbase: ./host\nedits:\n  - {replace: "blocks[1].mlp", with: {op: mlp, ratio: 1}}\n'
    (tmp_path / "spec.yaml").write_text(text)
    return tmp_path / "spec.yaml"


def test_the_summary_says_what_was_done(
    spec: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "compile", spec, "-o", tmp_path / "out") == 0
    told = capsys.readouterr().out
    for words in ("parameters", "117.36k", "FLOPs at 16 tokens", "1 instructions", "proved:", "wrote"):
        assert words in told
    assert "next:" not in told
    assert (tmp_path / "out" / "archspec.lock.json").exists()


def test_what_is_left_to_learn_is_told(
    spec: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    spec.write_text(spec.read_text() + "data: digits\ndistill: {samples: 8}\n")
    assert run(monkeypatch, "compile", spec, "-o", tmp_path / "out") == 0
    assert "next: archspec run" in capsys.readouterr().out


def test_json_is_all_that_goes_to_stdout(
    spec: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "compile", spec, "-o", tmp_path / "out", "--link", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["spec"] == "made"
    assert found["instructions"] == 1
    assert found["tensors"]["copied"] > 0
    assert found["results"]["totals"]["params"] < 117_360


def test_errors_have_a_place_and_exit_1(
    spec: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    spec.write_text(spec.read_text().replace("op: mlp", "op: mlpp"))
    assert run(monkeypatch, "compile", spec, "-o", tmp_path / "out") == 1
    told = capsys.readouterr().err
    assert "spec.yaml:5" in told
    assert "did you mean 'mlp'" in told
    assert not (tmp_path / "out").exists()


def test_a_foreign_folder_is_refused_before_any_work(
    spec: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").write_text("cat")
    assert run(monkeypatch, "compile", spec, "-o", tmp_path / "photos", "--force") == 1
    assert "AS630" in capsys.readouterr().err
    assert [p.name for p in (tmp_path / "photos").iterdir()] == ["cat.jpg"]


def test_there_is_no_way_around_the_proof(
    spec: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "compile", spec, "--no-proof") == 2
    assert "no-proof" in capsys.readouterr().err.lower()
