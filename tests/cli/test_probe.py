"""`archspec probe`: what stays in its file, what is refused, how figures are told."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.command import run

HOST = Path(__file__).parents[2] / "specs" / "hosts" / "digits" / "transformer"


def probed(monkeypatch: pytest.MonkeyPatch, *words: object, samples: int = 4) -> int:
    return run(monkeypatch, "probe", HOST, "-n", samples, "--device", "cpu", *words)


def measures(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text())["measures"]
    return found


@pytest.mark.parametrize("named", [False, True])
def test_other_measures_of_the_same_stay_and_those_of_others_are_not_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], named: bool
) -> None:
    monkeypatch.chdir(tmp_path)
    out = tmp_path / ("mine.json" if named else "transformer.probe.json")
    words = ("--data", "digits", *(("-o", out) if named else ()))
    assert probed(monkeypatch, *words, "-m", "influence", "-m", "mean") == 0
    before = measures(out)
    assert probed(monkeypatch, *words, "-m", "deviation", "-m", "mean") == 0
    assert "which also holds influence" in capsys.readouterr().out
    assert measures(out).keys() == {"influence", "mean", "deviation"}
    assert measures(out)["influence"] == before["influence"]
    held = out.read_bytes()
    assert probed(monkeypatch, *words, "-m", "mean", samples=5) == 1
    told = capsys.readouterr().err
    assert "AS739" in told
    assert "influence" in told
    assert "name another file with `-o`" in told
    assert out.read_bytes() == held
    assert probed(monkeypatch, *words, "-m", "mean", "-m", "influence", "-m", "deviation", samples=5) == 0
    assert json.loads(out.read_text())["settings"]["samples"] == 5


def test_what_is_no_probe_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "notes.json").write_text("{}")
    assert probed(monkeypatch, "--data", "digits", "-m", "mean", "-o", tmp_path / "notes.json") == 1
    assert "AS630" in capsys.readouterr().err
    assert (tmp_path / "notes.json").read_text() == "{}"


def test_figures_line_up_and_have_the_digits_that_their_errors_allow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert probed(monkeypatch, "--data", "digits", "-o", tmp_path / "p.json") == 0
    head, *lines = (line for line in capsys.readouterr().out.splitlines() if line.strip())
    assert head.split() == ["site", "locality(k=32)", "influence", "gate_sensitivity", "deviation", "mean", "largest"]
    rows = [line for line in lines if line.startswith("blocks")]
    assert len(rows) == 3 * 6
    first = rows[1].index("±"), rows[1].rindex("±")
    assert {(row.index("±"), row.rindex("±")) for row in rows[1::3]} == {first}
    assert "e+" not in "".join(rows)
