"""`archspec sweep` end to end on the embedded host: shared work, resumption, failures, shards, the leaderboard."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from archspec.compiler.leaderboard import results
from archspec.compiler.sweep import Tally, claim, sweep
from archspec.diagnostics import Collector
from archspec.language.parse import load_members
from archspec.runtime.execution.execute import read_plan
from archspec.runtime.store.artifacts import Artifacts
from tests.command import run

ROOT = Path(__file__).parents[2]
SPEC = f"""archspec: 1
name: tiny
base: {{from: {ROOT / "specs/hosts/digits"}, subfolder: transformer}}
data: digits
seed: $seed
matrix:
  steps: [1, 2]
  seed: [0, 1]
edits:
  - {{replace: "blocks[1].mlp", with: {{op: mlp, ratio: 2}}, init: {{kind: least_squares, samples: 32}}}}
finetune: {{steps: $steps, batch: 4, ema: null}}
eval: {{samples: 80, steps: 2, metrics: [fd, paired]}}
"""


@pytest.fixture
def spec(tmp_path: Path) -> Path:
    (tmp_path / "spec.yaml").write_text(SPEC)
    return tmp_path / "spec.yaml"


def swept(spec: Path, out: Path, **options: Any) -> Tally:
    return sweep(spec, out, load_members(spec, Collector()), device="cpu", **options)


def test_shards_at_work_together_do_shared_work_once(
    spec: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two processes begin at once, with one store: every task is done by one of them."""
    out, store = tmp_path / "out", tmp_path / "store"
    words = ["sweep", spec, "-o", out, "--store", store, "--device", "cpu", "--json"]
    shards = [started("-m", "archspec", *words, "--shard", f"{part}/2") for part in (1, 2)]
    told = [json.loads(shard.communicate()[0]) for shard in shards]
    assert [shard.returncode for shard in shards] == [0, 0]
    assert sum(one["tasks"]["ran"] for one in told) == 2 + 4 + 4  # fit, finetune, evaluate
    kinds = {"fit", "finetune", "evaluate", "host", "data", "teacher"}
    assert {report["kind"] for report in reports(store)} == kinds
    assert run(monkeypatch, *words) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["tasks"] == {"of_members": 12, "distinct": 10, "ran": 0}
    assert json.loads((out / "leaderboard.json").read_text()) == found
    assert "±" in (out / "leaderboard.md").read_text()
    assert "<table" in (out / "index.html").read_text()
    assert [row["role"] for row in found["rows"]] == ["host", "graft", "graft"]
    assert {"steps", "fd", "fd x host", "paired", "params"} <= found["rows"][1].keys()


def started(*words: object) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *map(str, words)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)


def reports(store: Path) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in store.glob("*/report.json")]


KILLED = """
import os, signal, sys
from importlib import import_module

module, name, left = import_module(sys.argv[1]), sys.argv[2], int(sys.argv[3])
work = getattr(module, name)

def killed(*given):
    global left
    left -= 1
    if left < 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return work(*given)

setattr(module, name, killed)
sys.argv[1:4] = []
from archspec.cli import main
main()
"""
"""Runs archspec and kills it when a function is called for the n-th time: the same moment on any machine."""


def test_a_sweep_that_is_killed_twice_ends_as_one_that_is_not(spec: Path, tmp_path: Path) -> None:
    """Killed when the third result is whole and not in its place yet, and then while weights are published."""
    spec.write_text(SPEC.replace("seed: [0, 1]", "seed: [0]"))
    out, store, tasks = tmp_path / "out", Artifacts(tmp_path / "out" / "artifacts"), 1 + 2 + 2
    for place in (("store.artifacts", "_settle", 2), ("store.publish", "_replace_file", 0)):
        words = ("sweep", spec, "-o", out, "--device", "cpu")
        module, name, times = place
        with started("-c", KILLED, f"archspec.runtime.{module}", name, times, *words) as process:
            process.communicate()
        assert process.returncode == -signal.SIGKILL
    held = {path.parent.name for path in store.root.glob("*/report.json")}
    assert all(store.holds(key) for key in held)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as in the processes above: sums in other orders end in other digits
    try:
        went_on, whole = swept(spec, out), swept(spec, tmp_path / "whole")
    finally:
        torch.set_num_threads(threads)
    finished = sum(report["kind"] in ("fit", "finetune", "evaluate") for report in reports(store.root))
    assert finished == len(whole.ran) == tasks
    assert 0 < len(went_on.ran) < tasks
    assert len(went_on.ran) == tasks - len(held & keys_of(out))
    assert leaderboard(spec, out) == leaderboard(spec, tmp_path / "whole")


def keys_of(out: Path) -> set[str]:
    return {task.key for folder in (out / "members").iterdir() for task in read_plan(folder).tasks}


def leaderboard(spec: Path, out: Path) -> list[dict[str, Any]]:
    """Return what is known of all members, but for the time it took."""
    found = [result.to_json() for result in results(out, load_members(spec, Collector()), spec.parent)]
    assert all(member["state"] == "finished" for member in found)
    return [{name: value for name, value in member.items() if name != "cpu_seconds"} for member in found]


def test_a_member_that_fails_is_told_at_the_end(
    spec: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = SPEC.replace("steps: [1, 2]", "steps: [3]").replace("batch: 4", "batch: 4, lr: $lr")
    spec.write_text(text.replace("seed: [0, 1]", "seed: [0]\n  lr: [1e-3, 1e3]") + "expect: [fd <= 1000x]\n")
    assert run(monkeypatch, "sweep", spec, "-o", tmp_path / "out", "--device", "cpu") == 1
    told = capsys.readouterr()
    assert "AS727" in told.out + told.err
    assert "lr=1e3" in told.out + told.err
    board = json.loads((tmp_path / "out" / "leaderboard.json").read_text())
    assert "fd" in json.dumps(board)


def test_the_leaderboard_holds_what_is_finished_whatever_was_asked_for(
    spec: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One seed, then both, then one again; then the folder of a member is damaged, and its figures do not count."""
    spec.write_text(SPEC.replace("steps: [1, 2]", "steps: [1]"))
    words, out = ("sweep", spec, "-o", tmp_path / "out", "--device", "cpu"), tmp_path / "out"
    assert run(monkeypatch, *words, "--member", "seed=0") == 0
    told = capsys.readouterr().out
    assert "1 member: 1 finished" in told
    assert "1 of 2 seeds" in told
    for file in ("leaderboard.md", "leaderboard.json", "index.html"):
        assert "1 of 2 seeds" in (out / file).read_text()
    assert run(monkeypatch, *words) == 0
    rows = json.loads((out / "leaderboard.json").read_text())["rows"]
    assert "note" not in rows[1]
    assert run(monkeypatch, *words, "--member", "seed=0") == 0
    assert json.loads((out / "leaderboard.json").read_text())["rows"] == rows
    assert json.loads((out / "sweep.json").read_text())["members"].keys() == {"steps-1-seed-0", "steps-1-seed-1"}
    capsys.readouterr()
    (out / "members" / "steps-1-seed-1" / "plan.json").write_text("{")
    assert run(monkeypatch, *words) == 1
    printed = capsys.readouterr().out
    assert "AS818" in printed
    assert "delete it and sweep again" in printed
    board = json.loads((out / "leaderboard.json").read_text())
    assert [row.get("note") for row in board["rows"]] == ["", "1 of 2 seeds"]
    assert "±" not in board["rows"][1]["fd"]
    assert [member.get("measured") is None for member in board["members"]] == [False, True]


def test_many_members_need_a_yes(
    spec: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    spec.write_text(SPEC.replace("seed: [0, 1]", f"seed: {list(range(33))}"))
    assert run(monkeypatch, "sweep", spec, "-o", tmp_path / "out") == 1
    assert "AS815" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_sweep_goes_on_from_a_moved_spec_and_not_from_another(
    spec: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out, moved = tmp_path / "out", tmp_path / "elsewhere" / spec.name
    only = load_members(spec, Collector())[:1]
    claim(out, spec, only)
    moved.parent.mkdir()
    moved.write_bytes(spec.read_bytes())
    claim(out, moved, only)
    other = spec.rename(spec.with_name("other.yaml"))
    assert run(monkeypatch, "sweep", other, "-o", out, "--yes") == 1
    assert f"holds the sweep of '{moved.name}'" in capsys.readouterr().err


def test_another_folder_is_left_alone(
    spec: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("keep")
    assert run(monkeypatch, "sweep", spec, "-o", tmp_path / "mine", "--yes") == 1
    assert "AS816" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["notes.txt"]
