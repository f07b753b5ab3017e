"""The page of the grafting experiments: every sweep has its members, and rows say what is in them."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest

from archspec.diagnostics import Collector
from archspec.language.parse import load_members


def test_every_row_that_the_paper_prints_is_a_member(script: ModuleType) -> None:
    for table in script.TABLES:
        members = load_members(script.SPECS / f"{table.spec}.yaml", Collector())
        rows = {tuple(member.labels[axis] for axis in table.axes) for member in members}
        assert table.printed.keys() <= rows
        assert {member.labels["arm"] for member in members} == set(script.ARMS)
        assert {member.labels["seed"] for member in members} == {"0", "1", "2"}


def test_rows_tell_how_many_seeds_are_in_them(script: ModuleType) -> None:
    table = script.TABLES[1]

    def run(arm: str, seed: int, fd: float) -> object:
        labels = {"op": "swa", "blocks": "half", "arm": arm, "seed": str(seed)}
        return script.Run(labels, 0.5, fd, 2606, 20.0, 0.25, 5.0)

    text = script.section(table, [run("paper", 0, 1.0), run("paper", 1, 1.5), run("ours", 0, 0.6)])
    row = text.splitlines()[-1]
    assert row.startswith("| swa | half | 1.18 | 2.50 ± ")
    assert "| 1.20 | 0.250 | 5 (20) | 2,606 (2.0 %) |" in row
    assert row.endswith("| 2/1 |")


def test_nothing_finished_is_no_page(script: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = script.PAGE.read_text() if script.PAGE.exists() else None
    assert script.main(["--page-only", "--out", str(tmp_path)]) == 1
    assert "nothing is finished" in capsys.readouterr().err
    assert (script.PAGE.read_text() if script.PAGE.exists() else None) == before
