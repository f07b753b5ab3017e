import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from archspec.cli import main

GOOD = "name: good\nbase: ./host\nedits: [{drop: 'blocks[1]'}]\nexpect: [depth == 1]\n"
BAD = "name: bad\nbase: ./host\nedits: [{drop: 'blocks[9]'}, {replace: 'blocks[0].attn', with: hyenax}]\n"
WARNS = "name: warns\nbase: ./host\nedits: [{share: 'blocks[0].attn'}]\n"
DSL = 'spec "good" {\n  base "./host"\n  drop blocks[1]\n}\n'
HEAVY = {
    "torch",
    "numpy",
    "diffusers",
    "transformers",
    "safetensors",
    "jsonschema",
    "networkx",
    "rich",
    "huggingface_hub",
}
HOST = {
    "_class_name": "DiTTransformer2DModel",
    "num_attention_heads": 2,
    "attention_head_dim": 8,
    "in_channels": 1,
    "num_layers": 2,
    "sample_size": 4,
}


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a host and some specs, the current one."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "host").mkdir()
    (tmp_path / "host" / "config.json").write_text(json.dumps(HOST))
    (tmp_path / "deep" / "er").mkdir(parents=True)
    (tmp_path / "good.yaml").write_text(GOOD)
    (tmp_path / "bad.yaml").write_text(BAD)
    (tmp_path / "warns.yml").write_text(WARNS)
    (tmp_path / "deep" / "er" / "good.arch").write_text(DSL.replace("./host", "../../host"))
    return tmp_path


def run(*arguments: str, text: str | None = None) -> Result:
    return CliRunner().invoke(main, ["validate", *arguments], input=text)


def test_a_good_spec() -> None:
    result = run("good.yaml")
    assert (result.exit_code, result.stdout, result.stderr) == (0, "", "1 spec checked: all fine\n")


def test_all_errors_of_all_files_at_once() -> None:
    result = run("bad.yaml", "good.yaml", "missing.yaml", "warns.yml")
    assert result.exit_code == 1
    assert result.stdout.count("error[") == 3
    assert "bad.yaml:3:24" in result.stdout
    assert "error[AS147]" in result.stdout
    assert "error[AS101]" in result.stdout
    assert result.stderr == "\n4 specs checked: 3 errors, 1 warning\n"


def test_warnings_fail_only_when_strict() -> None:
    assert run("warns.yml").exit_code == 0
    assert run("warns.yml", "--strict").exit_code == 1
    assert run("good.yaml", "--strict").exit_code == 0


def test_quiet_prints_findings_only() -> None:
    result = run("-q", "good.yaml", "warns.yml")
    assert result.stderr == ""
    assert result.stdout.startswith("warning[AS254]")


def test_folders_and_patterns_are_searched(here: Path) -> None:
    (here / ".github").mkdir()
    (here / ".github" / "workflow.yaml").write_text("on: push")
    assert "4 specs checked" in run(".").stderr
    assert "1 spec checked" in run("deep").stderr
    assert "3 specs checked" in run("*.y*ml").stderr
    assert "1 spec checked" in run("**/*.arch").stderr


@pytest.mark.parametrize("given", ["empty", "*.txt"])
def test_nothing_to_check_is_an_error(here: Path, given: str) -> None:
    (here / "empty").mkdir()
    result = run(given)
    assert result.exit_code == 1
    assert f"error[AS806]: no spec in '{given}'" in result.stdout


@pytest.mark.parametrize(("text", "code"), [(GOOD, 0), (DSL, 0), (f"# a comment\n\n{DSL}", 0), (BAD, 1)])
def test_standard_input_in_either_spelling(text: str, code: int) -> None:
    result = run("-", text=text)
    assert result.exit_code == code, result.stdout
    if code:
        assert "<stdin>.yaml:3:24" in result.stdout


def test_a_parent_of_standard_input_is_found_here(here: Path) -> None:
    (here / "parent.yaml").write_text("name: p\nbase: ./host\n")
    assert run("-", text="name: x\nextends: parent.yaml\n").exit_code == 0


def test_no_file_is_a_usage_error() -> None:
    assert run().exit_code == 2
    assert run("good.yaml", "--format", "xml").exit_code == 2


def test_json() -> None:
    result = run("bad.yaml", "good.yaml", "--format", "json")
    data = json.loads(result.stdout)
    assert result.exit_code == 1
    assert (data["valid"], data["error_count"]) == (False, 2)
    assert {d["code"] for d in data["diagnostics"]} == {"AS174", "AS147"}
    assert json.loads(run("good.yaml", "--format", "json").stdout)["valid"] is True


def test_github() -> None:
    lines = run("bad.yaml", "--format", "github").stdout.splitlines()
    assert lines[0].startswith("::error file=bad.yaml,line=3,endLine=3,col=24,endColumn=24,title=AS174::")
    assert run("good.yaml", "--format", "github").stdout == ""


def test_sarif() -> None:
    data = json.loads(run("bad.yaml", "--format", "sarif").stdout)
    assert [r["ruleId"] for r in data["runs"][0]["results"]] == ["AS174", "AS147"]
    assert json.loads(run("good.yaml", "--format", "sarif").stdout)["runs"][0]["results"] == []


def test_no_color_in_a_pipe() -> None:
    assert "\x1b" not in run("bad.yaml").stdout


def test_a_hub_id_that_is_not_cached_is_a_note(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(here / "no-cache"))
    result = run("-", "--strict", text="name: x\nbase: someone/something\nedits: [{drop: 'blocks[0]'}]\n")
    assert result.exit_code == 0
    assert "note[AS340]" in result.stdout


def test_a_hub_id_in_the_cache_is_read(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(here / "cache"))
    home = here / "cache" / "models--someone--something"
    (home / "refs").mkdir(parents=True)
    (home / "refs" / "main").write_text("abc")
    (home / "snapshots").mkdir()
    (here / "host").rename(home / "snapshots" / "abc")
    result = run("-", text="name: x\nbase: someone/something\nedits: [{drop: 'blocks[2]'}]\n")
    assert "error[AS174]" in result.stdout


def test_a_validation_imports_nothing_heavy() -> None:
    program = (
        "import sys\nfrom archspec.cli import main\n"
        "try: main(['validate', 'good.yaml', 'deep'])\nexcept SystemExit as stop: print(stop.code)\n"
        f"print(sorted({HEAVY} & set(sys.modules)))"
    )
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, env=env)
    assert done.stdout.splitlines() == ["0", "[]"]
