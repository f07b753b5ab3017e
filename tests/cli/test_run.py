from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from archspec.cli.run import command
from archspec.diagnostics import ArchspecError

SPEC = """
archspec: 1
name: one-mlp
base: {host}
data: {{from: latents.npy, kind: latents}}
edits:
  - replace: blocks[2].mlp
    with: {{op: mlp, ratio: 2}}
    init: {{kind: least_squares, samples: 512}}
finetune: {{steps: 4, batch: 4}}
"""


@pytest.fixture(scope="module")
def compiled_once(tiny_dit: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from archspec.compiler.driver import compile_spec

    home = tmp_path_factory.mktemp("one-mlp")
    np.save(home / "latents.npy", np.random.default_rng(0).standard_normal((80, 4, 8, 8)).astype(np.float32))
    (home / "spec.yaml").write_text(SPEC.format(host=tiny_dit))
    compile_spec(home / "spec.yaml", home / "out")
    return home / "out"


@pytest.fixture
def out(compiled_once: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(compiled_once, tmp_path / "out"))


def test_the_report_names_each_site_with_its_errors(out: Path) -> None:
    found = CliRunner().invoke(command, [str(out), "--device", "cpu"], catch_exceptions=False)
    assert found.exit_code == 0
    (line,) = (line for line in found.stdout.splitlines() if line.startswith("fit/blocks[2].mlp"))
    _, state, before, after, kept, _ = line.split()
    assert (state, kept) == ("ran", "learned")
    assert float(after) < float(before)
    assert "finetune" in found.stdout
    assert (out / ".archspec" / "log.jsonl").read_text().count("\n") == 1
    assert list((out / ".archspec" / "tensorboard").iterdir())


def test_a_spec_that_only_searches_is_told_so() -> None:
    from archspec.cli import main

    search = Path(__file__).parents[2] / "specs" / "examples" / "search.yaml"
    found = CliRunner().invoke(main, ["plan", str(search)])
    assert found.exit_code == 0, found.output
    assert f"`archspec search {search} -o FOUND.yaml`" in found.stderr


def test_a_plan_without_tasks_is_told(tiny_dit: Path, tmp_path: Path) -> None:
    from archspec.compiler.driver import compile_spec

    (tmp_path / "spec.yaml").write_text(f"archspec: 1\nname: x\nbase: {tiny_dit}\nedits: [{{drop: 'blocks[1]'}}]\n")
    compile_spec(tmp_path / "spec.yaml", tmp_path / "out")
    found = CliRunner().invoke(command, [str(tmp_path / "out"), "--device", "cpu"], catch_exceptions=False)
    assert (found.exit_code, found.stdout) == (0, "nothing to run: the plan has no tasks\n")


def test_json_is_the_whole_report(out: Path) -> None:
    arguments = [str(out), "--device", "cpu", "--json", "--only", "fit"]
    report = json.loads(CliRunner().invoke(command, arguments, catch_exceptions=False).stdout)
    assert report["complete"] is False
    assert report["published"] is True
    assert [(t["id"], t["state"]) for t in report["tasks"]] == [("fit/blocks[2].mlp", "ran"), ("finetune", "waits")]
    assert report["tasks"][1]["reason"] == "was not asked for"
    outcome = report["tasks"][0]["outcomes"][0]
    assert outcome["after"] < outcome["before"]


def test_a_finetuning_that_keeps_the_best_says_which(out: Path) -> None:
    """The report, the card and the plan's JSON say which step stayed; a rate that destroys leaves the start."""
    plan = json.loads((out / "plan.json").read_text())
    (task,) = (task for task in plan["tasks"] if task["kind"] == "finetune")
    task["settings"] |= {"keep": {"by": "teacher", "every": 2, "samples": 8}, "lr": 0.5, "steps": 3, "ema": None}
    task["key"] = "0" * 32
    (out / "plan.json").write_text(json.dumps(plan))
    found = CliRunner().invoke(command, [str(out), "--device", "cpu"], catch_exceptions=False)
    (line,) = (line for line in found.stdout.splitlines() if line.startswith("finetune"))
    _, state, _, before, _, after, kept, _ = line.split()
    assert (state, kept, before) == ("ran", "start", after)
    report = json.loads((out / ".archspec" / "artifacts" / task["key"] / "report.json").read_text())
    assert [step for step, _ in report["judged"]] == [0, 2, 3]
    assert report["judged"][0][1] == min(value for _, value in report["judged"])
    card = (out / "README.md").read_text()
    assert "The weights before the first step of 3 of the finetuning were kept: on held-out examples" in card


def test_shards_leave_the_rest(out: Path) -> None:
    found = CliRunner().invoke(command, [str(out), "--device", "cpu", "--shard", "2/2"], catch_exceptions=False)
    assert "2 tasks wait: fit/blocks[2].mlp was not asked for" in found.stdout


@pytest.mark.parametrize("shard", ["0/2", "3/2", "2", "1/0", "-1/2", "a/b", "1/2/3"])
def test_impossible_shards_are_refused(out: Path, shard: str) -> None:
    with pytest.raises(ArchspecError) as caught:
        CliRunner().invoke(command, [str(out), f"--shard={shard}"], catch_exceptions=False)
    assert caught.value.diagnostics[0].code == "AS724"


def test_a_moved_checkpoint_is_told_where_its_base_is(out: Path, tiny_dit: Path, tiny_pixart: Path) -> None:
    (out / ".archspec" / "origin.json").unlink()
    for base, code in ((tiny_pixart, "AS723"), (tiny_dit, "AS701")):  # with the right base, the data is what is missing
        with pytest.raises(ArchspecError) as caught:
            CliRunner().invoke(command, [str(out), "--device", "cpu", "--base", str(base)], catch_exceptions=False)
        assert caught.value.diagnostics[0].code == code


def test_a_folder_without_plan_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArchspecError) as caught:
        CliRunner().invoke(command, [str(tmp_path)], catch_exceptions=False)
    assert caught.value.diagnostics[0].code == "AS720"
