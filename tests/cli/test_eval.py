"""`archspec eval`: table, JSON, expectations, exit codes."""

from __future__ import annotations

import json
from pathlib import Path

from click.testing import CliRunner

from archspec.cli import main
from archspec.cli.eval import held
from archspec.runtime.store.artifacts import open_store

DIGITS = str(Path(__file__).parents[2] / "specs" / "hosts" / "digits")
QUICK = ["-n", "70", "--steps", "2", "--data", "digits", "--device", "cpu"]


def run(*words: str) -> tuple[int, str, str]:
    found = CliRunner().invoke(main, ["eval", *words])
    return found.exit_code, found.stdout, found.stderr


def test_json() -> None:
    code, text, _ = run(DIGITS, "--against", DIGITS, *QUICK, "--metrics", "fd,paired", "--json")
    report = json.loads(text)
    assert code == 0
    assert report["result"]["paired"] == 0
    assert report["settings"]["samples"] == 70
    assert report["settings"]["metrics"] == ["fd", "paired"]
    assert not (Path(DIGITS) / "eval.json").exists()  # a plain host's folder is left alone


def test_a_store_keeps_what_the_host_draws(tmp_path: Path) -> None:
    words = [DIGITS, "--against", DIGITS, *QUICK, "--metrics", "fd,paired", "--json"]
    plain, first, second = (json.loads(run(*words, *store)[1]) for store in ([], *[["--store", str(tmp_path)]] * 2))
    assert plain == first == second
    kept = {path.name: path for path in tmp_path.iterdir() if not path.name.startswith(".")}
    kept.pop("archspec.store.json")
    assert len(kept) == 3  # samples, what the classifier sees in them, and in the data
    reports = [json.loads((path / "report.json").read_text()) for path in kept.values()]
    assert sorted(report["kind"] for report in reports) == ["data", "host", "host"]
    _, _, _ = run(*words, "--seed", "1", "--store", str(tmp_path))
    assert len([path for path in tmp_path.iterdir() if path.is_dir() and not path.name.startswith(".")]) == 5


def test_table() -> None:
    code, text, _ = run(DIGITS, "--against", DIGITS, *QUICK)
    assert code == 0
    rows = {line[:20].strip(): line.split() for line in text.splitlines()}
    assert rows["FD to the data"][-1] == "1x"
    assert "ms" in rows["latency"]


def test_a_store_without_a_host_is_a_mistake(tmp_path: Path) -> None:
    code, _, text = run(DIGITS, *QUICK, "--store", str(tmp_path / "new"))
    assert (code, "add --against HOST" in text) == (2, True)
    assert not (tmp_path / "new").exists()


def test_a_store_is_that_of_sweeps(tmp_path: Path) -> None:
    words = [DIGITS, "--against", DIGITS, *QUICK, "--metrics", "paired", "--store"]
    assert run(*words, str(tmp_path / "new"))[0] == 0
    open_store(tmp_path / "new")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "note.txt").write_text("keep")
    code, _, text = run(*words, str(tmp_path / "mine"))
    assert (code, "AS817" in text) == (1, True)


def test_another_shape_is_no_pair(tiny_dit: Path, tmp_path: Path) -> None:
    code, _, text = run(DIGITS, "--against", str(tiny_dit), *QUICK, "--metrics", "paired")
    assert code == 1
    assert "the host draws images of another shape" in text


def test_refused() -> None:
    code, _, text = run(DIGITS, *QUICK, "--guidance", "nan")
    assert (code, "no finite number" in text) == (2, True)
    for words, expected in (
        (["--metrics", "fid"], "did you mean 'fd'?"),
        (["--metrics", "paired"], "it needs the host"),
        (["-n", "20", "--metrics", "fd"], "AS710"),
    ):
        code, _, text = run(DIGITS, *QUICK, *words)
        assert code == 1
        assert expected in text


def test_a_run_that_cannot_be_measured_is_refused_before_it_learns(tmp_path: Path) -> None:
    spec, folder, runner = tmp_path / "few.yaml", tmp_path / "few", CliRunner()
    spec.write_text(
        f"archspec: 1\nname: few\nbase: {{from: {DIGITS}, subfolder: transformer}}\ndata: digits\n"
        "edits:\n  - replace: blocks[1].mlp\n    with: {op: mlp, ratio: 3}\n"
        "    init: {kind: least_squares, samples: 64}\neval: {samples: 40, steps: 2, metrics: [fd]}\n",
        "utf-8",
    )
    assert runner.invoke(main, ["compile", str(spec), "-o", str(folder)]).exit_code == 0
    found = runner.invoke(main, ["run", str(folder)])
    assert found.exit_code == 1
    assert "AS710" in found.stderr
    assert "draw at least 65" in found.stderr
    assert not list(folder.glob(".archspec/artifacts/*/report.json"))


def test_expectations_are_held_against_the_figures() -> None:
    report = {"host": {"fd": 1.0, "latency": 0.02}, "result": {"fd": 1.2, "agreement": 0.99, "latency": 0.01}}
    found = held(["fd <= 1.10x", "agreement >= 98%", "latency <= 15ms", "depth == 6", "perplexity <= 3"], report)
    assert [(f["text"], f["holds"]) for f in found] == [
        ("fd <= 1.10x", False),
        ("agreement >= 98%", True),
        ("latency <= 15ms", True),
    ]
    assert "1.2" in found[0]["message"]
