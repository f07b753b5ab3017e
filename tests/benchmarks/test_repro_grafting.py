"""The page of the grafting experiments: every sweep has its members, and rows say what is in them."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from archspec.diagnostics import Collector
from archspec.language.parse import load_members


def test_every_row_that_the_paper_prints_is_a_member(script: ModuleType) -> None:
    for table in script.TABLES:
        members = load_members(script.SPECS / f"{table.spec}.yaml", Collector())
        rows = {tuple(member.labels[axis] for axis in table.axes) for member in members}
        assert table.printed.keys() <= rows
        assert {member.labels.get("arm") for member in members} >= set(table.arms)
        assert {member.labels["seed"] for member in members} == {"0", "1", "2"}


def test_goals_are_of_rows_that_there_are(script: ModuleType) -> None:
    tables = {table.spec: table for table in script.TABLES}
    for goal in script.GOALS:
        members = load_members(script.SPECS / f"{goal.spec}.yaml", Collector())
        assert set(goal.rows) <= {tuple(m.labels[axis] for axis in tables[goal.spec].axes) for m in members}


def run(script: ModuleType, arm: str, seed: int, fd: float) -> Any:
    labels = {"op": "swa", "blocks": "half", "arm": arm, "seed": str(seed)}
    return script.Run(labels, 0.5, fd, 2606, 20.0, 0.25, 5.0)


def test_rows_tell_how_many_seeds_are_in_them(script: ModuleType) -> None:
    table = next(table for table in script.TABLES if table.spec == "tab4_attention")
    runs = [run(script, "paper", 0, 1.0), run(script, "paper", 1, 1.5), run(script, "ours", 0, 0.6)]
    row = script.section(table, runs).splitlines()[-1]
    assert row.startswith("| swa | half | 1.18 | 2.50 ± ")
    assert "| 1.20 | 0.250 | 5 (20) | 2,606 (2.0 %) |" in row
    assert row.endswith("| 2/1 |")


def test_verdicts_are_of_ours(script: ModuleType) -> None:
    tables = {table.spec: table for table in script.TABLES}
    for fd, word in ((0.55, "held"), (0.56, "missed")):
        runs = [run(script, "paper", 0, 1.0), run(script, "ours", 0, fd)]
        found = {table.spec: runs if table.spec == "tab4_attention" else [] for table in script.TABLES}
        (told,) = script.verdicts(script.GOALS, tables, found)
        assert (
            told == f"- attention hybrids of half of the blocks, at most 1.10: **{word}** (swa, half {fd / 0.5:.2f})."
        )


def test_the_page_has_a_picture_of_each_table(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(script, "PAGE", tmp_path / "grafting.md")
    runs = [run(script, "paper", 0, 1.0), run(script, "ours", 0, 0.6)]
    found = {table.spec: runs if table.spec == "tab4_attention" else [] for table in script.TABLES}
    table = next(table for table in script.TABLES if found[table.spec])
    drawn = []
    for _ in range(2):
        script.picture(table, runs, script.picture_of(table))
        drawn.append(script.picture_of(table).read_text())
    assert drawn[0] == drawn[1]
    assert "swa, half" in drawn[0]
    assert f"({script.picture_of(table).name})" in script.page(found)


def test_nothing_finished_is_no_page(script: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = script.PAGE.read_text() if script.PAGE.exists() else None
    assert script.main(["--page-only", "--out", str(tmp_path)]) == 1
    assert "nothing is finished" in capsys.readouterr().err
    assert (script.PAGE.read_text() if script.PAGE.exists() else None) == before
