"""`attach` in a spec: the packs are on the base before any edit reads it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import archspec
from archspec.compiler.driver import compile_spec, prepare
from archspec.diagnostics import ArchspecError
from archspec.runtime.packs.attach import Use, attach, detach
from archspec.runtime.packs.reading import open_pack
from archspec.runtime.store.lock import read_lock
from tests.packs import WEIGHTS, packed, tuned_from, weights

MLP = "encoder.layer.{}.intermediate.dense.weight"


@pytest.fixture(scope="module")
def pack(tiny_encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("attached")
    tuned = tuned_from(tiny_encoder, folder / "tuned")
    return packed(folder, tiny_encoder, f"{{tuned: {tuned}, budget: 60%}}")[1]


def spec(folder: Path, base: Path, pack: Path, edits: str = "[]") -> Path:
    path = folder / "spec.yaml"
    path.write_text(f"name: both\nbase: {base}\nattach: {{packs: [{{from: {pack}, scale: 0.5}}]}}\nedits: {edits}\n")
    return path


def test_edits_read_the_weights_with_the_packs(tiny_encoder: Path, pack: Path, tmp_path: Path) -> None:
    edits = '[{replace: "blocks[0].mlp", with: {op: mlp, ratio: 2}, init: inherit}, {drop: "blocks[3]"}]'
    result = compile_spec(spec(tmp_path, tiny_encoder, pack, edits), tmp_path / "out")
    base, skill = weights(tiny_encoder), open_pack(pack)
    wanted = {name: value + 0.5 * skill.delta(name) for name, value in base.items() if name in skill.header.tensors}
    found = load_file(tmp_path / "out" / WEIGHTS)
    assert torch.equal(found[MLP.format(1)], wanted[MLP.format(1)])
    assert not torch.equal(wanted[MLP.format(1)], base[MLP.format(1)])
    new = next(value for name, value in found.items() if "layer.0.intermediate" in name and value.shape == (64, 32))
    assert torch.equal(
        new, wanted[MLP.format(0)]
    )  # as wide as before: the very rows of the tuned weights, none of the base
    assert read_lock(tmp_path / "out").base["from"] == "out.base", "from the spec on: no path of a machine"
    assert result.prepared.content.fingerprint == read_lock(tmp_path / "out").base["fingerprint"]
    with torch.no_grad():
        assert torch.isfinite(archspec.load(tmp_path / "out")(torch.arange(12)[None]).last_hidden_state).all()


def test_a_plan_writes_nothing(tiny_encoder: Path, pack: Path, tmp_path: Path) -> None:
    prepare(spec(tmp_path, tiny_encoder, pack, '[{drop: "blocks[3]"}]'))
    assert [path.name for path in tmp_path.iterdir()] == ["spec.yaml"]


def test_packs_of_another_base_are_refused(tiny_encoder: Path, tiny_qwen2: Path, pack: Path, tmp_path: Path) -> None:
    with pytest.raises(ArchspecError, match="AS681"):
        compile_spec(spec(tmp_path, tiny_qwen2, pack), tmp_path / "out")
    tuned = tuned_from(tiny_encoder, tmp_path / "tuned")
    with pytest.raises(ArchspecError, match="AS681"):
        compile_spec(spec(tmp_path, tuned, pack), tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "out.base").exists()


def test_a_compile_that_fails_leaves_no_base(tiny_encoder: Path, pack: Path, tmp_path: Path) -> None:
    path = spec(tmp_path, tiny_encoder, pack, '[{drop: "blocks[3]"}]')
    path.write_text(path.read_text() + "expect: [depth == 4]\n")
    with pytest.raises(ArchspecError, match="AS3"):
        compile_spec(path, tmp_path / "out")
    assert [entry.name for entry in tmp_path.iterdir()] == ["spec.yaml"]


def test_a_compiled_checkpoint_is_no_base_for_packs(tiny_encoder: Path, pack: Path, tmp_path: Path) -> None:
    compile_spec(spec(tmp_path, tiny_encoder, pack, '[{drop: "blocks[3]"}]'), tmp_path / "out")
    with pytest.raises(ArchspecError, match="AS673"):
        attach(tmp_path / "out", [Use(open_pack(pack))], tmp_path / "twice")
    with pytest.raises(ArchspecError, match="AS674"):
        detach(tmp_path / "out")
