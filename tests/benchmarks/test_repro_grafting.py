"""The page of the grafting experiments: every sweep has its members, rows are kept as data and say what is in them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from archspec.compiler.driver import prepare
from archspec.diagnostics import Collector
from archspec.language.parse import load_members
from archspec.runtime.execution.images import images_of
from benchmarks.grafting_rows import Row, Run, in_order, merged, read_rows, rows_of, write_rows


def test_every_row_that_the_paper_prints_is_a_member(script: ModuleType) -> None:
    for table in script.TABLES:
        members = load_members(script.SPECS / f"{table.spec}.yaml", Collector())
        rows = {tuple(member.labels[axis] for axis in table.axes) for member in members}
        assert table.printed.keys() <= rows
        assert {member.labels.get("arm") for member in members} >= set(table.arms)
        assert {member.labels["seed"] for member in members} == {"0", "1", "2"}


@pytest.mark.parametrize("member", ["attention op=hyena_se,", "mlp op=r3,", "mlp op=r6,", "parallel "])
@pytest.mark.parametrize("arm", ["paper", "ours"])
def test_fashion_takes_two_per_cent_of_the_hosts_images(script: ModuleType, member: str, arm: str) -> None:
    """Planned of the config and the headers alone: the images need not be installed."""
    name, row = member.split(" ")
    plan = prepare(script.SPECS / f"fashion_{name}.yaml", member=f"{row}seed=0,arm={arm}").plan
    held_out = 60_000 // 50 // 10
    images = images_of([task for task in plan.tasks if task.kind != "evaluate"], held_out)
    assert script.FASHION.images // 70 < images <= script.FASHION.images // 50


def test_goals_are_of_rows_that_there_are(script: ModuleType) -> None:
    tables = {table.spec: table for table in script.TABLES}
    for goal in script.GOALS:
        members = load_members(script.SPECS / f"{goal.spec}.yaml", Collector())
        assert set(goal.rows) <= {tuple(m.labels[axis] for axis in tables[goal.spec].axes) for m in members}


def run(arm: str, seed: int, fd: float, op: str = "swa", **facts: Any) -> Run:
    labels = {"op": op, "blocks": "half", "arm": arm, "seed": str(seed)}
    return Run(labels, 0.5, fd, 2606, 20.0, 0.25, 5.0, **facts)


def test_rows_tell_how_many_seeds_are_in_them(script: ModuleType) -> None:
    table = next(table for table in script.TABLES if table.spec == "tab4_attention")
    runs = [run("paper", 0, 1.0), run("paper", 1, 1.5), run("ours", 0, 0.6)]
    row = script.section(table, rows_of(runs)).splitlines()[-1]
    assert row.startswith("| swa | half | 1.18 | 2.50 ± ")
    assert "| 1.20 | 0.250 | 5 (20) | 2,606 (2.0 %) |" in row
    assert row.endswith("| 2/1 |")


def test_rows_tell_drawn_images_and_kept_steps(script: ModuleType) -> None:
    table = next(table for table in script.TABLES if table.spec == "tab4_attention")
    runs = [run("ours", seed, 0.5, drawn=4800, kept=kept) for seed, kept in enumerate((60, 0, 40))]
    lines = script.section(table, rows_of(runs)).splitlines()
    assert lines[-3].endswith("| images | kept | n |")
    assert lines[-1].endswith("| 2,606 (2.0 %), 4,800 drawn | 60, 0, 40 | 3 |")


def test_each_host_has_its_own_images_and_figures(script: ModuleType) -> None:
    found: dict[str, list[Row]] = {table.spec: [] for table in script.TABLES}
    assert "fashion-64" not in script.page(found)
    found["fashion_mlp"] = [Row({"op": "r3", "arm": "ours"}, {"0": 1.04}, 3072, 9.0, 9.0, hosts={"0": 2.5})]
    page = script.page(found)
    assert "| 3,072 (2.0 %) |" in page
    assert "its FD to the training images is 2.50" in page.replace("\n", " ")
    assert page.index("0.32 ± 0.18") < page.index("fashion-64")


@pytest.mark.parametrize("at_hand", [True, False])
def test_sweeps_of_fashion_are_left_out_without_its_images(
    script: ModuleType, at_hand: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetch = tmp_path / "fetch.py"
    fetch.write_text(f"import sys; sys.exit({not at_hand:d})")
    monkeypatch.setattr(script, "FETCH", fetch)
    ran: list[str] = []
    monkeypatch.setattr("archspec.cli.sweep.command.main", lambda words, **_: ran.append(Path(words[0]).stem))
    assert script._run(["fashion_mlp", "tab4_mlp"], tmp_path) == at_hand
    assert ran == ["fashion_mlp"] * at_hand + ["tab4_mlp"]


def told(script: ModuleType, spec: str, rows: list[Row]) -> str:
    tables = {table.spec: table for table in script.TABLES}
    found: Mapping[str, list[Row]] = {table.spec: rows if table.spec == spec else [] for table in script.TABLES}
    (line,) = script.verdicts(script.GOALS, tables, found)
    return str(line)


def test_a_goal_is_held_only_when_every_row_has_its_seeds(script: ModuleType) -> None:
    def line(fds: Mapping[str, float], seeds: int) -> str:
        runs = [run("ours", seed, fd, op) for op, fd in fds.items() for seed in range(seeds)]
        return told(script, "tab4_attention", rows_of(runs))

    good = dict.fromkeys(script.MIXERS, 0.55)
    assert ": **held** (hyena_se, half 1.100 ± 0.00, n = 3; " in line(good, 3)
    assert ": **open, so far held** (hyena_se, half 1.100 ± 0.00, n = 2; " in line(good, 2)
    without = line({op: fd for op, fd in good.items() if op not in ("swa", "mamba2")}, 3)
    assert ": **open, so far held** (" in without
    assert without.endswith("; nothing is known of swa, half and mamba2, half).")
    assert ": **missed** (" in line(good | {"swa": 0.56}, 3)
    assert ": **missed** (" in line({"swa": 0.56}, 3)
    assert ": **open, so far missed** (" in line({"swa": 0.56}, 2)


def test_rows_come_back_from_their_file(tmp_path: Path) -> None:
    rows = rows_of([run("ours", 0, 0.6), run("ours", 1, 0.7, kept=3), run("paper", 0, 1.0)])
    write_rows(tmp_path / "data" / "rows.json", rows)
    assert read_rows(tmp_path / "data" / "rows.json") == rows
    assert read_rows(tmp_path / "none.json") == []


def test_seeds_of_the_same_plan_join_a_row() -> None:
    known = rows_of([run("ours", 0, 0.6), run("ours", 1, 0.6, kept=3), run("paper", 0, 1.0)])
    new = rows_of([run("ours", 0, 0.5, kept=2), run("paper", 0, 0.9), run("paper", 1, 0.9)])
    found = {row.labels["arm"]: row for row in merged(known, new)}
    assert {arm: row.ratios for arm, row in found.items()} == {
        "ours": {"0": 1.0, "1": 1.2},
        "paper": {"0": 1.8, "1": 1.8},
    }
    assert found["ours"].kept == {"0": 2, "1": 3}
    assert set(found["ours"].hosts or ()) == {"0", "1"}


def test_what_is_found_again_changes_nothing() -> None:
    """Else each page would draw the means nearer to what is at hand."""
    known = rows_of([replace(run("ours", seed, 0.6), cpu=cpu) for seed, cpu in ((0, 10.0), (1, 20.0))])
    assert merged(known, rows_of([replace(run("ours", 1, 0.6), cpu=20.0)])) == known


def test_a_row_of_another_plan_takes_the_place_of_one_of_no_more_seeds() -> None:
    known = rows_of([run("ours", 0, 0.6), run("ours", 1, 0.6)])
    fewer = [replace(row, images=row.images + 1) for row in rows_of([run("ours", 2, 0.5)])]
    assert merged(known, fewer) == known
    as_many = [replace(row, images=row.images + 1) for row in rows_of([run("ours", 2, 0.5), run("ours", 3, 0.5)])]
    assert merged(known, as_many) == as_many


def test_rows_stand_in_the_order_of_the_spec(script: ModuleType) -> None:
    rows = [Row({"arm": arm}, {"0": 1.0}, 1, 1.0, 1.0) for arm in ("scratch", "gone", "paper", "ours")]
    found = in_order(script.SPECS / "tab6_parallel.yaml", rows)
    assert [row.labels["arm"] for row in found] == ["paper", "ours", "scratch"]


def test_the_committed_page_is_that_of_the_committed_rows(script: ModuleType, tmp_path: Path) -> None:
    found = {
        table.spec: in_order(script.SPECS / f"{table.spec}.yaml", read_rows(script.data_of(table)))
        for table in script.TABLES
    }
    assert script.page(found) == script.PAGE.read_text("utf-8")
    assert all(script.picture_of(table).is_file() for table in script.TABLES if found[table.spec])


def test_what_is_at_hand_becomes_data_page_and_pictures(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(script, "PAGE", tmp_path / "grafting.md")
    runs = [run("paper", 0, 1.0), run("ours", 0, 0.6)]
    monkeypatch.setattr(script, "finished", lambda spec, out: runs if spec.stem == "tab4_attention" else [])
    assert script.main(["--page-only", "--out", str(tmp_path)]) == 0
    picture, page = (tmp_path / name for name in ("grafting-tab4_attention.svg", "grafting.md"))
    drawn, written = picture.read_text(), page.read_text()
    assert "swa, half" in drawn
    assert f"({picture.name})" in written
    (data,) = (tmp_path / "data").iterdir()
    assert [row["ratios"] for row in json.loads(data.read_text())] == [{"0": 2.0}, {"0": 1.2}]
    monkeypatch.setattr(script, "finished", lambda spec, out: [])
    assert script.main(["--page-only", "--out", str(tmp_path)]) == 0  # outputs are gone: the same page
    assert (picture.read_text(), page.read_text()) == (drawn, written)


def test_nothing_finished_is_no_page(
    script: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(script, "PAGE", tmp_path / "grafting.md")
    assert script.main(["--page-only", "--out", str(tmp_path)]) == 1
    assert "nothing is finished" in capsys.readouterr().err
    assert not script.PAGE.exists()
