from __future__ import annotations

import json
import multiprocessing
import random
import signal
import time
from collections.abc import Callable
from os import truncate
from pathlib import Path
from typing import Any

import pytest
import torch

from archspec.diagnostics import ArchspecError
from archspec.plan import Plan
from archspec.runtime.execution.execute import RunReport, execute, read_plan, shares
from archspec.runtime.execution.workspace import Workspace
from archspec.runtime.store.files import hash_file
from archspec.runtime.store.load import load
from archspec.runtime.store.lock import read_lock

Copies = Callable[[str], Path]
SITES = 5


def run(folder: Path, **options: Any) -> RunReport:
    return execute(folder, device="cpu", **options)


def content(folder: Path) -> dict[str, bytes]:
    """Return every file of a checkpoint, but what is local to a machine."""
    files = (p for p in folder.rglob("*") if p.is_file() and ".archspec" not in p.relative_to(folder).parts)
    return {str(p.relative_to(folder)): p.read_bytes() for p in files}


@pytest.fixture(scope="module")
def trained(compiled_once: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    import shutil

    folder = Path(shutil.copytree(compiled_once / "out", tmp_path_factory.mktemp("trained") / "out"))
    report = run(folder)
    assert report.complete
    assert report.published
    return folder


def test_a_run_teaches_every_part_and_says_so(trained: Path, compiled_once: Path) -> None:
    plan, workspace = read_plan(trained), Workspace(trained)
    reports = [workspace.report(task.key) for task in plan.tasks]
    assert [r["kind"] for r in reports] == ["fit"] * 4 + ["regress"] * SITES + ["finetune"]
    for report in reports[:4]:
        assert report["outcomes"][0]["after"] < report["outcomes"][0]["before"]
    before, after = load(compiled_once / "out").state_dict(), load(trained).state_dict()
    assert all(
        not torch.equal(before[name], after[name]) for name in before if name.endswith("weight") and "pos" not in name
    )


def test_the_lock_agrees_with_what_is_there(trained: Path) -> None:
    lock = read_lock(trained)
    assert lock.results["learned"]["complete"]
    for name, record in lock.files.items():
        assert (trained / name).stat().st_size == record.size
        if not record.digest.startswith("xxh3-tensors"):
            assert hash_file(trained / name) == record.digest, name
    assert {p.kind for p in lock.tensors.values()} == {"new"}
    assert {p.init for p in lock.tensors.values()} == {"finetune"}
    assert not any(str(trained) in str(value) for value in content(trained).values())


def test_a_second_run_does_nothing(trained: Path) -> None:
    before, times = content(trained), {p: p.stat().st_mtime_ns for p in trained.glob("*.safetensors")}
    report = run(trained)
    assert {done.state for done in report.tasks} == {"finished"}
    assert not report.published
    assert content(trained) == before
    assert {p: p.stat().st_mtime_ns for p in trained.glob("*.safetensors")} == times


def test_kinds_run_apart_and_end_the_same(compiled: Copies, trained: Path) -> None:
    folder = compiled("apart")
    report = run(folder, only=("regress",))
    assert {d.state for d in report.tasks if d.task.kind == "regress"} == {"waits", "ran"}  # hyena_x needs no fit
    load(folder)
    assert not run(folder, only=("fit",)).complete
    load(folder)
    assert run(folder).complete
    assert content(folder) == content(trained)


def test_shards_do_all_independent_tasks_and_end_the_same(compiled: Copies, trained: Path) -> None:
    folder = compiled("shards")
    for number in (3, 1, 2):
        report = run(folder, shard=(number, 3))
        assert not report.published
    assert {d.state for d in report.tasks if d.task.kind != "finetune"} <= {"ran", "finished"}
    assert run(folder).complete
    assert content(folder) == content(trained)


def test_tasks_that_need_one_another_are_of_one_shard(trained: Path) -> None:
    plan = read_plan(trained)
    shard = shares(plan)
    for task in plan.tasks:
        assert all(shard[need] == shard[task.id] for need in task.needs if task.id in shard)
    assert len(set(shard.values())) == 3  # the pair with its two MLPs, the third MLP, the attention


def test_other_settings_start_from_the_compiled_weights(compiled: Copies, trained: Path) -> None:
    folder = compiled("again")
    run(folder)
    plan = json.loads((folder / "plan.json").read_text())
    (finetune,) = (task for task in plan["tasks"] if task["kind"] == "finetune")
    finetune["settings"]["lr"], finetune["key"] = 3e-4, "0" * 32
    (folder / "plan.json").write_text(json.dumps(plan))
    report = run(folder)
    assert {d.task.kind for d in report.tasks if d.state == "ran"} == {"finetune"}
    assert report.published
    finetune["settings"]["lr"], finetune["key"] = 1e-4, read_plan(trained).tasks[-1].key
    (folder / "plan.json").write_text((trained / "plan.json").read_text())
    assert run(folder).published
    assert content(folder) == content(trained)


def progress(folder: Path) -> int:
    """Count what a run has made so far: lines of the log, artifacts, checkpoints."""
    root = folder / ".archspec"
    lines = (root / "log.jsonl").read_text().count("\n") if (root / "log.jsonl").exists() else 0
    return lines + sum(
        1 for pattern in ("artifacts/*", "work/*", "work/*/step-*", "publish/*") for _ in root.glob(pattern)
    )


def killed_run(folder: Path, delay: float) -> bool:
    """Start a run in a process of its own and kill it `delay` seconds after it got further; False if it ended. What
    takes long to import is in the process that it is forked from."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([execute.__module__, "diffusers.models.transformers.dit_transformer_2d", "datasets"])
    before = progress(folder)
    process = context.Process(target=execute, args=(folder,), kwargs={"device": "cpu"})
    process.start()
    while process.is_alive() and progress(folder) == before:
        time.sleep(0.01)
    time.sleep(delay)
    process.kill()
    process.join()
    assert process.exitcode in (0, -signal.SIGKILL)
    return process.exitcode != 0


@pytest.mark.slow
def test_kills_at_any_moment_lose_nothing(compiled: Copies, trained: Path) -> None:
    folder, chance = compiled("killed"), random.Random(0)
    killed = 0
    for _ in range(8):
        killed += killed_run(folder, chance.uniform(0, 0.6))
        load(folder)  # loadable after every kill
    assert killed >= 2
    assert list((folder / ".archspec" / "artifacts").iterdir())
    assert run(folder).complete
    assert content(folder) == content(trained)


@pytest.mark.slow
def test_a_kill_while_publishing_leaves_a_whole_model(
    compiled: Copies, trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from archspec.runtime.store import publish

    folder = compiled("publishing")
    run(folder, only=("fit", "regress"))

    class Killed(BaseException):
        pass

    for name in ("rewrite", "_replace_file", "_relocked", "_write"):
        whole = getattr(publish, name)

        def killed(*_: Any, **__: Any) -> None:
            raise Killed

        monkeypatch.setattr(publish, name, killed)
        with pytest.raises(Killed):
            run(folder)
        load(folder)
        monkeypatch.setattr(publish, name, whole)
    assert run(folder).complete
    assert content(folder) == content(trained)


@pytest.mark.parametrize("cut", [None, 1000])
def test_weights_that_are_gone_or_cut_off_are_made_anew(compiled: Copies, trained: Path, cut: int | None) -> None:
    folder = compiled("damaged")
    run(folder)
    (weights,) = folder.glob("*.safetensors")
    weights.unlink() if cut is None else truncate(weights, cut)
    assert run(folder).published
    assert content(folder) == content(trained)


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"version": 2}, "AS721"),
        ({"version": True}, "AS721"),
        ({"extra": 1}, "AS721"),
        ({"data": []}, "AS721"),
        ({"tasks": {}}, "AS721"),
    ],
)
def test_malformed_plans_are_refused(compiled: Copies, change: dict[str, Any], code: str) -> None:
    folder = compiled("malformed")
    plan = json.loads((folder / "plan.json").read_text()) | change
    (folder / "plan.json").write_text(json.dumps(plan))
    with pytest.raises(ArchspecError) as caught:
        run(folder)
    assert caught.value.diagnostics[0].code == code


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("key", "../../../../etc/passwd"),
        ("key", "0" * 31),
        ("kind", "shell"),
        ("sites", ["transformer_blocks.0/../x"]),
        ("sites", "transformer_blocks.0"),
        ("needs", ["nothing"]),
        ("wave", -1),
        ("cost", {"examples": 1}),
        ("settings", []),
    ],
)
def test_malformed_tasks_are_refused(compiled: Copies, field: str, value: Any) -> None:
    folder = compiled("malformed")
    plan = json.loads((folder / "plan.json").read_text())
    plan["tasks"][0][field] = value
    with pytest.raises(ValueError, match=r"."):
        Plan.from_json(plan)


def test_settings_of_a_wrong_type_are_refused(compiled: Copies) -> None:
    folder = compiled("settings")
    plan = json.loads((folder / "plan.json").read_text())
    plan["tasks"][0]["settings"]["samples"] = "many"
    (folder / "plan.json").write_text(json.dumps(plan))
    with pytest.raises(ArchspecError) as caught:
        run(folder)
    assert caught.value.diagnostics[0].code == "AS721"


def test_a_folder_without_plan_is_refused(tiny_dit: Path) -> None:
    with pytest.raises(ArchspecError) as caught:
        run(tiny_dit)
    assert caught.value.diagnostics[0].code == "AS720"


def test_a_base_that_is_gone_or_another_one_is_refused(compiled: Copies, tiny_pixart: Path) -> None:
    folder = compiled("moved")
    (folder / ".archspec" / "origin.json").unlink()
    for base, code in ((None, "AS722"), (tiny_pixart, "AS723")):
        with pytest.raises(ArchspecError) as caught:
            run(folder, base=base)
        assert caught.value.diagnostics[0].code == code


def test_two_runs_in_one_folder_are_refused(compiled: Copies) -> None:
    folder = compiled("twice")
    with Workspace(folder).alone("run"), pytest.raises(ArchspecError) as caught:
        run(folder)
    assert caught.value.diagnostics[0].code == "AS731"
