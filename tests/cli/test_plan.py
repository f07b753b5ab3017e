"""`archspec plan`: the tree, the data, the passes, and nothing written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from archspec.cli import main

SPEC = """archspec: 1
name: tiny
base: {host}
edits:
  - {{replace: "blocks[1::2].attn", with: {{op: hyena_x}}, init: random}}
  - {{parallelize: "blocks[0:2]", by: 2}}
expect: ["flops(tokens=16) <= {bound}x", depth == 3]
"""


@pytest.fixture
def spec(tiny_dit: Path, tmp_path: Path) -> Path:
    file = tmp_path / "spec.yaml"
    file.write_text(SPEC.format(host=tiny_dit, bound=1.1), encoding="utf-8")
    return file


def _plan(*args: object) -> int:
    with pytest.raises(SystemExit) as end:
        main(["plan", *map(str, args)])
    code = end.value.code
    assert isinstance(code, int)
    return code


def test_tree(spec: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = sorted(spec.parent.rglob("*"))
    assert _plan(spec) == 0
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= 100
    for part in (
        "tiny: DiTTransformer2DModel, dit family, 20 sites",
        "replace blocks[1::2].attn: blocks[1].attn, blocks[3].attn",
        "-12.5% of these sites, -6.2% of all sites of the slot, -2.2% of the model",
        "install hyena_x transformer_blocks.1.attn1, transformer_blocks.3.attn1",
        "relist transformer_blocks: 4 blocks to 3 (1 parallel, 2 keep)",
        "attention kernels are 7.7% of the host's attention and MLP FLOPs",
        "nodes of 5 graphs match the edited model",
        "expectation 'flops(tokens=16) <= 1.1x' holds",
    ):
        assert part in out
    assert sorted(spec.parent.rglob("*")) == before


def _data(capsys: pytest.CaptureFixture[str], *args: object) -> dict[str, Any]:
    assert _plan(*args, "--json") == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def test_json(spec: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = _data(capsys, spec)
    assert [i["do"] for i in data["instructions"]] == ["install", "install", "relist"]
    assert data["proof"]["numbers"]["difference"] <= 1e-6
    assert data["cost"]["host"]["params"] == 117360
    assert data["plan"]["spec"] == "tiny"
    assert str(spec.parent) not in json.dumps(data["cost"])


def test_tokens(spec: Path, capsys: pytest.CaptureFixture[str]) -> None:
    native, longer = _data(capsys, spec), _data(capsys, spec, "--tokens", 64)
    assert (native["cost"]["tokens"], longer["cost"]["tokens"]) == (16, 64)
    assert longer["cost"]["host"]["mixing"] == 16 * native["cost"]["host"]["mixing"]
    assert _plan(spec, "--tokens", 60) == 1
    assert "AS403" in capsys.readouterr().err


def test_a_broken_expectation(tiny_dit: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "spec.yaml"
    file.write_text(SPEC.format(host=tiny_dit, bound=0.5), encoding="utf-8")
    assert _plan(file) == 1
    err = capsys.readouterr().err
    assert "AS330" in err
    assert "spec.yaml:7:10" in err


def test_list_passes(capsys: pytest.CaptureFixture[str]) -> None:
    assert _plan("--list-passes") == 0
    names = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    assert names == ["replace", "share", "drop", "repeat", "parallelize", "insert", "skip", "freeze"]


def test_no_spec_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert _plan() == 2
    assert "--list-passes" in capsys.readouterr().err
