"""Sweeps without the command line: what is shared, what is done again, what a store and a full disk do."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from archspec.compiler import sweep as sweeping
from archspec.compiler.driver import compile_spec
from archspec.compiler.leaderboard import Result, board, cpu_of, results
from archspec.compiler.place import Place
from archspec.compiler.sweep import NAME, Tally, claim, own_store, sweep
from archspec.diagnostics import ArchspecError, Collector
from archspec.language.matrix import Member
from archspec.language.parse import load_members
from archspec.runtime.execution.execute import execute, read_plan
from archspec.runtime.execution.workspace import Workspace
from archspec.runtime.learn import fit as fitting
from archspec.runtime.learn import regress as regressing
from archspec.runtime.learn.taps import record
from archspec.runtime.store import publish as publishing
from archspec.runtime.store.artifacts import Artifacts

HOST = Path(__file__).parents[2] / "specs" / "hosts" / "digits"
SPEC = """archspec: 1
name: tiny
base: {from: ./host, subfolder: transformer}
data: {from: ./a.npy, kind: latents}
edits:
  - {replace: "blocks[1].mlp", with: {op: mlp, ratio: 2}, init: {kind: least_squares, samples: 16}}
distill: {samples: 32, epochs: 2, batch: 16}
"""
LOSSES = SPEC.replace("batch: 16", "batch: 16, loss: $loss") + "matrix: {loss: [l1, l2]}\n"
DATA = SPEC.replace("./a.npy", "$data") + "matrix: {data: {a: ./a.npy, b: ./b.npy}}\n"


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A folder with a host of its own and two sets of data."""
    home = tmp_path / "project"
    shutil.copytree(HOST, home / "host")
    for seed, name in enumerate("ab"):
        images = np.random.default_rng(seed).uniform(-1, 1, (80, 1, 8, 8)).astype(np.float32)
        np.save(home / f"{name}.npy", images)
    return home


def written(project: Path, text: str) -> Path:
    (project / "spec.yaml").write_text(text)
    return project / "spec.yaml"


def members_of(spec: Path) -> tuple[Member, ...]:
    return load_members(spec, Collector())


def swept(spec: Path, **options: Any) -> Tally:
    tally = sweep(spec, options.pop("out", spec.parent / "out"), members_of(spec), device="cpu", **options)
    assert not tally.failed
    return tally


def ran(tally: Tally) -> list[tuple[str, str]]:
    """Return (member, kind of task) of all that was run."""
    return [(member.id, task.partition("/")[0]) for member, task in tally.ran]


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The batches on which the teacher was run for regressions."""
    found: list[int] = []

    def counted(*args: Any, **options: Any) -> Any:
        found.append(len(args[1]))
        return record(*args, **options)

    monkeypatch.setattr(regressing, "record", counted)
    return found


def test_members_share_tasks_and_what_the_teacher_shows(project: Path, runs: list[int], tmp_path: Path) -> None:
    spec = written(project, LOSSES)
    tally = swept(spec)
    assert ran(tally) == [("loss=l1", "fit"), ("loss=l1", "regress"), ("loss=l2", "regress")]
    once = 32 // 16 + 1  # the held-out examples are a batch more
    assert len(runs) == once
    assert swept(spec).ran == []
    kinds = [json.loads(path.read_text())["kind"] for path in (project / "out" / "artifacts").glob("*/report.json")]
    assert sorted(kinds) == ["fit", "regress", "regress"]  # what the teacher showed is dropped when nobody needs it
    alone = compile_spec(spec, tmp_path / "alone", member="loss=l2").out
    execute(alone, device="cpu")
    assert len(runs) == 2 * once
    last = read_plan(alone).tasks[-1]
    shared = Artifacts(project / "out" / "artifacts")
    own, other = Workspace(alone).weights(last.key), shared.tensors(last.key)
    assert own.keys() == other.keys()
    assert all(torch.equal(own[name], other[name]) for name in own)
    report = shared.report(last.key)
    assert report["borrowed_cpu_seconds"] >= 0
    assert cpu_of(report) == report["cpu_seconds"] + report["borrowed_cpu_seconds"]


OPERATORS = """archspec: 1
name: tiny
base: {from: ./host, subfolder: transformer}
data: {from: ./a.npy, kind: latents}
edits:
  - {replace: "blocks[1:3].mlp", with: $op, init: {kind: least_squares, samples: 80, sequential: SEQUENTIAL}}
distill: none
matrix: {op: {narrow: {op: mlp, ratio: 2}, mixed: {op: hyena_mlp, channels: shared}, some: {op: moe, experts: 4}}}
"""


@pytest.mark.parametrize("sequential", [False, True])
def test_closed_forms_of_different_operators_share_what_the_teacher_shows(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sequential: bool
) -> None:
    """To the bit as each alone; not where a fit is fed by the edited model, which other operators have changed."""
    runs: list[str] = []

    def counted(name: str) -> Any:
        real = getattr(fitting, name)

        def run(*args: Any, **options: Any) -> Any:
            runs.append(name)
            return real(*args, **options)

        return run

    for name in ("record", "watch"):
        monkeypatch.setattr(fitting, name, counted(name))
    spec = written(project, OPERATORS.replace("SEQUENTIAL", str(sequential).lower()))
    assert [kind for _, kind in ran(swept(spec))] == ["fit"] * 6
    assert sequential == ("watch" in runs or runs.count("record") > 3)
    if sequential:
        return
    assert runs == ["record"] * (2 + 1)  # batches that are learned from, and one that is held out
    store = Artifacts(project / "out" / "artifacts")
    kinds = [json.loads(path.read_text())["kind"] for path in store.root.glob("*/report.json")]
    assert kinds == ["fit"] * 6  # what the teacher showed is dropped when nobody needs it
    for member in members_of(spec):
        alone = compile_spec(spec, tmp_path / member.slug, member=member.id).out
        execute(alone, device="cpu")
        for task in read_plan(alone).tasks:
            own, other = Workspace(alone).weights(task.key), store.tensors(task.key)
            assert own.keys() == other.keys()
            assert all(torch.equal(own[name], other[name]) for name in own)
            assert Workspace(alone).report(task.key)["outcomes"] == store.report(task.key)["outcomes"]
    assert runs.count("watch") == 3 * (2 + 2 * 1) + 2 + 2  # each by itself; neurons and routers ask once more


def test_sweeps_share_a_store(project: Path, runs: list[int], tmp_path: Path) -> None:
    spec, store = written(project, LOSSES), tmp_path / "store"
    swept(spec, store=store)
    assert not (project / "out" / "artifacts").exists()
    before = len(runs)
    spec.write_text(LOSSES.replace("[l1, l2]", "[l2, huber]"))
    again = swept(spec, out=tmp_path / "second", store=store)
    assert ran(again) == [("loss=huber", "regress")]
    assert len(runs) == before  # of another sweep, so it stays
    assert swept(spec, out=tmp_path / "second").ran == []  # where the store is, the sweep remembers
    store.rename(tmp_path / "moved")
    with pytest.raises(ArchspecError) as caught:
        swept(spec, out=tmp_path / "second")
    assert caught.value.diagnostics[0].code == "AS737"
    with pytest.raises(ArchspecError) as caught:
        execute(tmp_path / "second" / "members" / "loss-l2", device="cpu")
    assert caught.value.diagnostics[0].code == "AS737"
    assert swept(spec, out=tmp_path / "second", store=tmp_path / "moved").ran == []


def test_what_was_damaged_is_made_again_and_nothing_else(project: Path) -> None:
    spec = written(project, LOSSES)
    swept(spec)
    tasks = read_plan(project / "out" / "members" / "loss-l2").tasks
    weights = Artifacts(project / "out" / "artifacts").folder(tasks[-1].key) / "weights.safetensors"
    os.truncate(weights, weights.stat().st_size // 2)
    states = [result.state for result in results(project / "out", members_of(spec), project)]
    assert states == ["finished", "waits"]
    assert ran(swept(spec)) == [("loss=l2", "regress")]


def test_only_members_whose_data_changed_are_done_again(project: Path) -> None:
    spec = written(project, DATA)
    assert len(swept(spec).ran) == 4
    np.save(project / "b.npy", np.load(project / "a.npy")[::-1])
    states = {result.member.id: result.state for result in results(project / "out", members_of(spec), project)}
    assert states == {"data=a": "finished", "data=b": "waits"}
    assert ran(swept(spec)) == [("data=b", "fit"), ("data=b", "regress")]
    np.save(project / "b.npy", np.load(project / "a.npy"))  # now the members are the same but for a name
    assert swept(spec).ran == []
    assert {r.state for r in results(project / "out", members_of(spec), project)} == {"finished"}


def test_a_plan_refuses_data_that_changed_under_it(project: Path) -> None:
    spec = written(project, DATA)
    out = compile_spec(spec, project / "one", member="data=a").out
    np.save(project / "a.npy", np.load(project / "b.npy"))
    with pytest.raises(ArchspecError) as caught:
        execute(out, device="cpu")
    assert caught.value.diagnostics[0].code == "AS738"
    assert not list(Workspace(out).artifacts.root.glob("*/report.json"))


def test_a_base_that_changed_is_another_for_every_member_of_it(project: Path) -> None:
    shutil.copytree(project / "host", project / "other")
    spec = written(
        project,
        SPEC.replace("./host", "$base") + "matrix: {base: {one: ./host, two: ./other}}\n",
    )
    assert ran(swept(spec)) == [("base=one", "fit"), ("base=one", "regress")]  # the same content, so the same tasks
    place = Place(project / "out", members_of(spec)[1], project)
    assert place.is_compiled
    weights = next((project / "other" / "transformer").glob("*.safetensors"))
    damaged = bytearray(weights.read_bytes())
    damaged[-2:] = bytes(2)
    weights.write_bytes(damaged)
    assert place.is_compiled  # as it was when first asked
    assert not Place(project / "out", members_of(spec)[1], project).is_compiled
    assert ran(swept(spec)) == [("base=two", "fit"), ("base=two", "regress")]


def test_a_changed_line_concerns_its_members(project: Path) -> None:
    spec = written(project, LOSSES)
    swept(spec)
    spec.write_text(LOSSES.replace("[l1, l2]", "[l1, huber]").replace("name: tiny", "description: more\nname: tiny"))
    assert ran(swept(spec)) == [("loss=huber", "regress")]


def test_a_project_may_move(project: Path, tmp_path: Path) -> None:
    """Base, spec, data and sweep together; then the sweep alone; then the spec alone."""
    spec = written(project, LOSSES)
    claim(project / "out", spec, members_of(spec))
    before = [Place(project / "out", member, project).source for member in members_of(spec)]
    swept(spec)
    moved = project.rename(tmp_path / "elsewhere")
    spec = moved / "spec.yaml"
    assert [Place(moved / "out", member, moved).source for member in members_of(spec)] == before
    origin = Workspace(moved / "out" / "members" / "loss-l1").origin()
    assert origin == {"base": moved / "host" / "transformer", "near": moved}
    Workspace(moved / "out" / "members" / "loss-l1").artifacts.drop(
        read_plan(moved / "out" / "members" / "loss-l1").tasks[-1].key
    )
    assert execute(moved / "out" / "members" / "loss-l1", device="cpu").complete
    out = (moved / "out").rename(tmp_path / "results")
    Workspace(out / "members" / "loss-l2").artifacts.drop(read_plan(out / "members" / "loss-l2").tasks[-1].key)
    assert ran(swept(spec, out=out)) == [("loss=l2", "regress")]
    home = moved.rename(tmp_path / "third")
    Workspace(out / "members" / "loss-l2").artifacts.drop(read_plan(out / "members" / "loss-l2").tasks[-1].key)
    assert ran(swept(home / "spec.yaml", out=out)) == [("loss=l2", "regress")]


@pytest.mark.parametrize("where", ["compile", "keep", "publish"])
def test_a_full_disk_ends_a_sweep_which_goes_on_later(
    project: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    spec = written(project, LOSSES)
    owner, name = {
        "compile": (sweeping, "compile_spec"),
        "keep": (Workspace, "keep"),
        "publish": (publishing, "rewrite"),
    }[where]
    work, calls = getattr(owner, name), []

    def full(*args: Any, **options: Any) -> Any:
        calls.append(1)
        if len(calls) == 2:
            raise OSError(28, "No space left on device", "weights")
        return work(*args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(owner, name, full)
        with pytest.raises(ArchspecError) as caught:
            swept(spec)
    assert caught.value.diagnostics[0].code == "AS631"
    assert {result.problems for result in results(project / "out", members_of(spec), project)} == {()}
    swept(spec)
    assert {result.state for result in results(project / "out", members_of(spec), project)} == {"finished"}


def test_shards_leave_what_others_may_need(project: Path, runs: list[int]) -> None:
    spec = written(project, LOSSES)
    store = Artifacts(project / "out" / "artifacts")
    first, second = (swept(spec, shard=(part, 2)) for part in (1, 2))
    assert ran(first) == [("loss=l1", "fit"), ("loss=l1", "regress")]
    assert ran(second) == [("loss=l2", "regress")]
    assert len(runs) == 3
    teacher = read_plan(project / "out" / "members" / "loss-l1").task("regress/blocks[1].mlp").settings["teacher"]
    assert store.holds(teacher)
    assert swept(spec).ran == []
    assert not store.holds(teacher)


def measured(host: float, result: float, seed: int = 0) -> dict[str, Any]:
    settings = {"metrics": ["fd"], "seed": seed, "samples": 10}
    return {"settings": settings, "host": {"fd": host}, "result": {"fd": result}}


def known(slug: str, labels: dict[str, str], value: float | None, seed: int = 0) -> Result:
    tree = members_of_nothing().tree
    costs = {side: {"params": 1000, "flops": 2000} for side in ("host", "result")}
    found = None if value is None else measured(2.0 + seed, value, seed)
    member = Member(tree, labels | {"seed": str(seed)}, slug)
    return Result(member, Path("members") / slug, "finished", costs=costs, measured=found, images=7, cpu=1.5)


def members_of_nothing() -> Member:
    from archspec.source import Source
    from archspec.syntax.yaml_syntax import parse_yaml

    return Member(parse_yaml(Source("spec.yaml", "name: x\n")))


def test_the_leaderboard_averages_seeds_and_ranks_the_rest() -> None:
    found = [
        known("worse", {"op": "a"}, 6.0),
        known("better", {"op": "b"}, 3.0),
        known("better", {"op": "b"}, 5.0, seed=1),
        known("waits", {"op": "c"}, None),
    ]
    table = board(found)
    assert table.columns == ("op", "params", "FLOPs", "fd", "x host", "images", "CPU s")
    cells = [row.cells for row in table.rows]
    assert [row[0] for row in cells] == ["host", "b", "a", "c"]
    assert cells[0][3] == "2.500 ± 6.353"  # of 2 and 3: t of 97.5 % with one degree of freedom is 12.706
    assert cells[1][3:5] == ("4.000 ± 12.706", "1.58 ± 1.06x")
    assert cells[2][3:] == ("6.000", "3.00x", "7", "1.5")
    assert cells[3][3:5] == ("", "")
    assert [row.role for row in table.rows] == ["host", "graft", "graft", "graft"]


def test_rows_say_which_seeds_are_missing_and_failures_come_last() -> None:
    failed = replace(known("broken", {"op": "c"}, None), state="failed", costs=None)
    found = [failed, known("alone", {"op": "b"}, 3.0), known("full", {"op": "a"}, 6.0)]
    members = [*(result.member for result in found), known("other", {"op": "b"}, None, seed=1).member]
    table = board(found, members)
    assert table.columns[-1] == "note"
    assert [(row.cells[0], row.cells[-1]) for row in table.rows] == [
        *(("host", ""), ("b", "1 of 2 seeds"), ("a", ""), ("c", "failed"))
    ]
    assert table.rows[-1].cells[1:-1] == ("",) * 6
    assert {len(row.cells) for row in table.rows} == {len(table.columns)}


@pytest.mark.parametrize("file", ["plan.json", "archspec.lock.json", "transformer/config.json"])
def test_a_member_whose_folder_is_damaged_is_named_and_done_again_when_it_is_gone(project: Path, file: str) -> None:
    spec = written(project, LOSSES)
    swept(spec)
    folder = project / "out" / "members" / "loss-l1"
    last = read_plan(folder).tasks[-1].key
    os.truncate(folder / file, 40)
    Workspace(folder).artifacts.drop(last)  # of a member with nothing left to do, little is read
    tally = sweep(spec, project / "out", members_of(spec), device="cpu")
    assert [(member.id, error.diagnostics[0].code) for member, error in tally.failed] == [("loss=l1", "AS818")]
    first, second = results(project / "out", members_of(spec), project)
    assert (first.state, second.state) == ("failed", "finished")
    assert str(folder) in first.problems[0]
    assert "delete it and sweep again: what is finished is kept in the store" in first.problems[0]
    assert first.measured is None
    shutil.rmtree(folder)
    assert [kind for _, kind in ran(swept(spec))] in ([], ["regress"])
    assert {result.state for result in results(project / "out", members_of(spec), project)} == {"finished"}


def test_weights_that_were_cut_off_are_damage(project: Path) -> None:
    spec = written(project, SPEC)
    place = Place(project / "out", members_of(spec)[0], project)
    compile_spec(spec, place.folder)
    assert place.damage() is None
    weights = next(place.folder.glob("transformer/*.safetensors"))
    os.truncate(weights, 40)
    assert str(weights) in str(place.damage())


def test_a_second_sweep_is_told_of_shards_of_sweeps(project: Path) -> None:
    spec = written(project, SPEC)
    claim(project / "out", spec, members_of(spec))
    with Workspace(project / "out").alone("sweep"), pytest.raises(ArchspecError) as caught:
        swept(spec)
    assert caught.value.diagnostics[0].code == "AS731"
    assert "archspec sweep SPEC -o OUT --shard i/n" in caught.value.diagnostics[0].hints[0]


def test_a_sweep_that_was_killed_while_it_was_noted_goes_on(project: Path) -> None:
    (project / "out").mkdir()
    (project / "out" / f".{NAME}.1234").write_text("{")
    spec = written(project, SPEC)
    assert claim(project / "out", spec, members_of(spec)) == own_store(project / "out")


def test_a_leaderboard_of_nothing_has_no_rows() -> None:
    assert board([]).rows == ()
