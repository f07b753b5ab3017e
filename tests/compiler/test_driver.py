"""From spec to checkpoint: stages, diagnostics with places, hosts of every family, nothing half-written."""

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

import archspec
from archspec.compiler.driver import STAGES, compile_spec, cost_rows, prepare
from archspec.diagnostics import ArchspecError
from archspec.runtime.execution.workspace import Workspace
from archspec.runtime.store.lock import read_lock

SPECS = Path(__file__).parents[2] / "specs"
MLP = '  - {replace: "blocks[1].mlp", with: {op: mlp, ratio: 1}}\n'


def write(folder: Path, host: Path, edits: str = MLP, more: str = "", name: str = "spec.yaml") -> Path:
    (folder / "host").symlink_to(host)
    (folder / name).write_text(f"archspec: 1\nname: made\nbase: ./host\nedits:\n{edits}{more}")
    return folder / name


def refused(path: Path, **options: Any) -> list[tuple[str, int, int]]:
    with pytest.raises(ArchspecError) as caught:
        compile_spec(path, path.parent / "out", **options)
    assert not (path.parent / "out").exists()
    assert not (path.parent / ".out.partial").exists()
    found = []
    for diagnostic in caught.value.diagnostics:
        span = diagnostic.primary.span if diagnostic.primary else None
        found.append((diagnostic.code, span.line if span else 0, span.column if span else 0))
    return found


def test_every_stage_runs_once_and_in_order(tiny_dit: Path, tmp_path: Path) -> None:
    seen: list[str] = []
    result = compile_spec(write(tmp_path, tiny_dit), tmp_path / "out", progress=seen.append)
    assert tuple(seen) == STAGES == tuple(result.seconds)
    assert all(seconds >= 0 for seconds in result.seconds.values())


def test_preparing_writes_nothing(tiny_dit: Path, tmp_path: Path) -> None:
    path = write(tmp_path, tiny_dit)
    ready = prepare(path)
    assert {p.name for p in tmp_path.iterdir()} == {"host", "spec.yaml"}
    assert ready.proof.numbers.difference is not None
    assert ready.proof.numbers.difference < 1e-5
    assert [row.what for row in cost_rows(ready.cost)][:2] == ["parameters", "weights"]
    assert ready.plan.base["fingerprint"] == ready.content.fingerprint


@pytest.mark.parametrize("host", ["dit", "pixart", "llama", "gpt2", "bert", "encoder", "vit", "plain"])
def test_every_family_compiles_and_loads(request: pytest.FixtureRequest, tmp_path: Path, host: str) -> None:
    edits = MLP + '  - {parallelize: "blocks[2:4]", by: 2}\n'
    if host == "plain":
        edits = "  - {replace: '\"layers.*.mlp\"', with: {op: low_rank, rank: 4}, init: random}\n"
    path = write(tmp_path, request.getfixturevalue(f"tiny_{host}"), edits)
    result = compile_spec(path, tmp_path / "out")
    model = archspec.load(result.out)
    assert sum(p.numel() for p in model.parameters()) == result.prepared.cost.result.params
    assert read_lock(result.out) == result.lock
    summary = result.to_json()
    assert json.loads(json.dumps(summary)) == summary
    assert sum(summary["tensors"].values()) == len({id(t) for t in model.state_dict(keep_vars=True).values()})


@pytest.mark.parametrize("host", ["dit", "llama"])
def test_recurrent_mixers_compile_and_load(request: pytest.FixtureRequest, tmp_path: Path, host: str) -> None:
    """Captured, proved, emitted, and the same function when loaded; a language model decodes with its states."""
    more = {"dit": "causal: false, bias: true, out_bias: true", "llama": "conv: 3"}[host]
    heads = {"dit": "groups: 2, head_dim: 16, state: 16, expand: 1", "llama": "state: 8"}[host]
    options = {"dit": "conv: 3, layout: grid, gate: true", "llama": "conv: 3, gate: true, decay: true"}[host]
    edits = (
        f'  - {{replace: "blocks[0].attn", with: {{op: mamba2, {heads}, {more}}}}}\n'
        f'  - {{replace: "blocks[2].attn", with: {{op: linear_attention, feature: relu2, {options}}}}}\n'
    )
    result = compile_spec(write(tmp_path, request.getfixturevalue(f"tiny_{host}"), edits), tmp_path / "out")
    assert result.prepared.proof.numbers.difference is not None
    assert result.prepared.proof.numbers.difference < 1e-5
    model: Any = archspec.load(result.out)
    assert sum(p.numel() for p in model.parameters()) == result.prepared.cost.result.params
    if host == "llama":
        prompt = torch.arange(3, 9)[None]
        cached, plain = (model.generate(prompt, max_new_tokens=6, do_sample=False, use_cache=u) for u in (True, False))
        assert torch.equal(cached, plain)


def test_the_default_place_is_under_the_name(tiny_dit: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path, tiny_dit)
    monkeypatch.chdir(tmp_path)
    assert compile_spec(path).out == Path("out/made")
    assert (tmp_path / "out" / "made" / "config.json").exists()


def test_the_origin_is_remembered_beside_and_not_inside(tiny_dit: Path, tmp_path: Path) -> None:
    out = compile_spec(write(tmp_path, tiny_dit), tmp_path / "out").out
    assert Workspace(out).origin() == {"base": tmp_path / "host", "near": tmp_path}
    assert str(tmp_path) not in (out / "archspec.lock.json").read_text()


def test_compiling_again_keeps_finished_tasks(tiny_dit: Path, tmp_path: Path) -> None:
    path = write(tmp_path, tiny_dit)
    out = compile_spec(path, tmp_path / "out").out
    kept, gone = out / ".archspec" / "artifacts" / "k", out / ".archspec" / "compiled"
    kept.mkdir(parents=True)
    gone.mkdir()
    with pytest.raises(ArchspecError) as caught:
        compile_spec(path, out)
    assert caught.value.diagnostics[0].code == "AS630"
    compile_spec(path, out, overwrite=True)
    assert kept.exists()
    assert not gone.exists()


def test_the_plan_and_the_expectations_are_written(tiny_dit: Path, tmp_path: Path) -> None:
    more = "data: digits\ndistill: {samples: 8}\nexpect: ['flops <= 1.0x', 'params <= 1.0x', depth == 4]\n"
    result = compile_spec(write(tmp_path, tiny_dit, more=more), tmp_path / "out")
    plan = json.loads((result.out / "plan.json").read_text())
    assert [task["id"] for task in plan["tasks"]] == ["regress/blocks[1].mlp"]
    outcomes = {o["text"]: o for o in result.lock.results["expectations"]}
    assert outcomes["flops <= 1.0x"]["holds"]
    assert outcomes["flops <= 1.0x"]["result"] < outcomes["flops <= 1.0x"]["host"]
    assert "| `flops <= 1.0x` |" in (result.out / "README.md").read_text()


def test_a_broken_priced_expectation_stops_the_compile(tiny_dit: Path, tmp_path: Path) -> None:
    found = refused(write(tmp_path, tiny_dit, more="expect:\n  - flops <= 0.1x\n  - activations <= 1B\n"))
    assert found == [("AS330", 7, 5), ("AS330", 8, 5)]


def test_all_errors_of_a_stage_come_together(tiny_dit: Path, tmp_path: Path) -> None:
    edits = '  - {replace: "blocks[9].mlp", with: {op: mlp}}\n  - {drop: "blok[0]"}\n'
    found = refused(write(tmp_path, tiny_dit, edits))
    assert [line for _, line, _ in found] == [5, 6]


def test_a_base_without_weights(tiny_dit: Path, tmp_path: Path) -> None:
    (tmp_path / "bare").mkdir()
    (tmp_path / "bare" / "config.json").write_bytes((tiny_dit / "config.json").read_bytes())
    assert refused(write(tmp_path, tmp_path / "bare")) == [("AS648", 3, 7)]


def test_a_base_that_changed(tiny_dit: Path, tmp_path: Path) -> None:
    path = write(tmp_path, tiny_dit)
    fingerprint = prepare(path).content.fingerprint
    text = path.read_text()
    path.write_text(text.replace("./host", f'{{from: ./host, fingerprint: "{fingerprint}"}}'))
    prepare(path)
    path.write_text(text.replace("./host", f'{{from: ./host, fingerprint: "xxh3:{"0" * 32}"}}'))
    ((code, line, _),) = refused(path)
    assert (code, line) == ("AS607", 3)


def test_a_missing_base_and_a_base_that_is_not_cached(tiny_dit: Path, tmp_path: Path) -> None:
    path = write(tmp_path, tiny_dit)
    text = path.read_text()
    for base in ("./hots", "nobody/no-such-model"):
        path.write_text(text.replace("./host", base))
        assert refused(path) == [("AS600", 3, 7)]


def test_a_truncated_base(tiny_dit: Path, tmp_path: Path) -> None:
    import shutil

    host = shutil.copytree(tiny_dit, tmp_path / "cut")
    weights = host / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-64])
    assert refused(write(tmp_path, host))[0][0] == "AS616"


def test_a_spec_without_a_base(tmp_path: Path) -> None:
    (tmp_path / "spec.yaml").write_text("archspec: 1\nname: made\nedits: []\n")
    assert refused(tmp_path / "spec.yaml") == [("AS141", 2, 7)]


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(28, "No space left on device")])
def test_a_failure_while_writing_leaves_nothing(
    tiny_dit: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    from archspec.compiler.emission import emit

    def fail(*_: Any) -> None:
        raise error

    monkeypatch.setattr(emit, "_put", fail)
    with pytest.raises((ArchspecError, KeyboardInterrupt)):
        compile_spec(write(tmp_path, tiny_dit), tmp_path / "out")
    assert {p.name for p in tmp_path.iterdir()} == {"host", "spec.yaml"}


CHILD = """
    import os, signal, sys
    from archspec.compiler.emission import emit
    from archspec.compiler.driver import compile_spec
    emit._put = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
    compile_spec(sys.argv[1], sys.argv[2])
"""


@pytest.mark.slow
def test_a_kill_while_writing_is_mended_by_the_next_run(tiny_dit: Path, tmp_path: Path) -> None:
    import textwrap

    path, out = write(tmp_path, tiny_dit), tmp_path / "out"
    killed = subprocess.run([sys.executable, "-c", textwrap.dedent(CHILD), str(path), str(out)], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert not out.exists()
    assert (tmp_path / ".out.partial").exists()
    compile_spec(path, out)
    assert not (tmp_path / ".out.partial").exists()
    assert archspec.load(out) is not None


def test_no_random_state_and_no_environment_is_touched(tiny_dit: Path, tmp_path: Path) -> None:
    before = dict(os.environ)
    torch.manual_seed(5)
    wanted = torch.rand(1)
    torch.manual_seed(5)
    compile_spec(write(tmp_path, tiny_dit), tmp_path / "out")
    assert torch.equal(torch.rand(1), wanted)
    assert dict(os.environ) == before
