"""`archspec sweep` end to end on the embedded host: shared work, resumption, failures, shards, the leaderboard."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from archspec.compiler.sweep import Tally, claim, sweep
from archspec.diagnostics import Collector
from archspec.language.parse import load_members
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


def test_what_members_share_is_done_once_and_shards_meet(
    spec: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    first, second = (swept(spec, out, shard=(part, 2)) for part in (1, 2))
    ran = [task for tally in (first, second) for _, task in tally.ran]
    kinds = [task.partition("/")[0] for task in ran]
    assert {kind: kinds.count(kind) for kind in set(kinds)} == {"fit": 2, "finetune": 4, "evaluate": 4}
    assert not first.failed
    assert not second.failed
    assert run(monkeypatch, "sweep", spec, "-o", out, "--device", "cpu", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    text = json.dumps(found)
    assert json.loads((out / "leaderboard.json").read_text()) == found
    assert "±" in (out / "leaderboard.md").read_text()
    assert "<table" in (out / "index.html").read_text()
    for word in ("steps", "fd", "paired", "params"):
        assert word in text
    assert swept(spec, out).ran == []


def finished(out: Path) -> int:
    """Count the tasks whose results are there; what was drawn from the host is kept beside them."""
    reports = (json.loads(path.read_text()) for path in (out / "artifacts").glob("*/report.json"))
    return sum(report.get("kind") in ("fit", "finetune", "evaluate") for report in reports)


def test_a_killed_sweep_goes_on(spec: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = [sys.executable, "-m", "archspec", "sweep", str(spec), "-o", str(out), "--device", "cpu"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 120
        while finished(out) < 3 and time.monotonic() < deadline:
            assert process.poll() is None
            time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
    done = finished(out)
    tally = swept(spec, out)
    assert not tally.failed
    assert done >= 3
    assert len(tally.ran) == 2 + 4 + 4 - done


def test_a_member_that_fails_is_told_at_the_end(
    spec: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = SPEC.replace("steps: [1, 2]", "steps: [3]").replace("batch: 4", "batch: 4, lr: $lr")
    spec.write_text(text.replace("seed: [0, 1]", "seed: [0]\n  lr: [1e-3, 1e30]") + "expect: [fd <= 1000x]\n")
    assert run(monkeypatch, "sweep", spec, "-o", tmp_path / "out", "--device", "cpu") == 1
    told = capsys.readouterr()
    assert "AS727" in told.out + told.err
    assert "lr=1e30" in told.out + told.err
    board = json.loads((tmp_path / "out" / "leaderboard.json").read_text())
    assert "fd" in json.dumps(board)


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
