"""`attach` in a spec: the packs are on the base before any edit reads it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import archspec
from archspec.compiler.driver import compile_spec, prepare
from archspec.diagnostics import FEW, ArchspecError
from archspec.runtime.execution.workspace import Workspace
from archspec.runtime.packs.attach import Use, attach, detach
from archspec.runtime.packs.reading import open_pack
from archspec.runtime.store.lock import read_lock
from archspec.runtime.store.verify import differences
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


@pytest.fixture(scope="module")
def graft(tiny_encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The encoder without its second block, and with a narrower MLP in its first: later blocks have other names."""
    folder = tmp_path_factory.mktemp("graft")
    edits = '[{replace: "blocks[0].mlp", with: {op: mlp, ratio: 1}, init: inherit}, {drop: "blocks[1]"}]'
    (folder / "spec.yaml").write_text(f"name: graft\nbase: {tiny_encoder}\nedits: {edits}\n")
    compile_spec(folder / "spec.yaml", folder / "out")
    return folder / "out"


def test_a_graft_takes_what_packs_add_to_the_tensors_that_it_kept(
    tiny_encoder: Path, graft: Path, pack: Path, tmp_path: Path
) -> None:
    with pytest.raises(ArchspecError, match=r"AS669.*of the .* are not the base's here") as caught:
        attach(graft, [Use(open_pack(pack))], tmp_path / "out")
    assert "--partial" in caught.value.diagnostics[0].hints[0]
    record = attach(graft, [Use(open_pack(pack), 0.5)], tmp_path / "out", partial=True)
    before, found, skill = load_file(graft / WEIGHTS), load_file(tmp_path / "out" / WEIGHTS), open_pack(pack)
    moved = MLP.format(2)  # told by where it came from, not by its name
    assert torch.equal(found[MLP.format(1)], weights(tiny_encoder)[moved] + 0.5 * skill.delta(moved))
    changed = {name for name in found if not torch.equal(found[name], before[name])}
    assert changed == set(record.tensors)
    assert 0 < len(changed) < len(found)
    assert not [name for name in changed if "layer.0.intermediate" in name]
    assert set(read_lock(graft).tensors) == set(found)


def test_a_graft_with_packs_is_locked_and_comes_back_byte_for_byte(graft: Path, pack: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    record = attach(graft, [Use(open_pack(pack))], out, partial=True)
    lock = read_lock(out)
    assert not list(differences(out, lock))
    assert {n for n, entry in lock.tensors.items() if entry.init == "attach"} == set(record.tensors)
    with torch.no_grad():
        assert torch.isfinite(archspec.load(out)(torch.arange(12)[None]).last_hidden_state).all()
    with pytest.raises(ArchspecError, match="AS673"):
        attach(out, [Use(open_pack(pack))], tmp_path / "twice", partial=True)
    detach(out, tmp_path / "again")
    for name in (WEIGHTS, "archspec.lock.json", "config.json", "plan.json"):
        assert (tmp_path / "again" / name).read_bytes() == (graft / name).read_bytes()
    (out / ".archspec" / "base" / "archspec.lock.json").write_text("{}")
    detach(out)  # the lock where it was is as good
    assert (out / "archspec.lock.json").read_bytes() == (graft / "archspec.lock.json").read_bytes()
    for folder in (tmp_path / "again", out):  # so that `run` finds base and data
        assert Workspace(folder).origin() == Workspace(graft).origin()
    assert Workspace(out).origin().keys() == {"base", "near"}


def test_a_graft_of_another_base_takes_no_packs(tiny_encoder: Path, pack: Path, tmp_path: Path) -> None:
    tuned_from(tiny_encoder, tmp_path / "other", size=0.5)
    (tmp_path / "spec.yaml").write_text('name: other\nbase: ./other\nedits: [{drop: "blocks[3]"}]\n')
    compile_spec(tmp_path / "spec.yaml", tmp_path / "out")
    with pytest.raises(ArchspecError, match=r"AS681.*has other values") as caught:
        attach(tmp_path / "out", [Use(open_pack(pack))], tmp_path / "with", partial=True)
    assert len(caught.value.diagnostics) == FEW + 1
    with pytest.raises(ArchspecError, match="AS674"):
        detach(tmp_path / "out")


def test_what_repeats_a_tied_weight_takes_its_difference(tiny_qwen2: Path, tmp_path: Path) -> None:
    tuned = tuned_from(tiny_qwen2, tmp_path / "tuned")
    _, path = packed(tmp_path, tiny_qwen2, f"{{tuned: {tuned}, budget: 60%}}")
    (tmp_path / "spec.yaml").write_text(f'name: g\nbase: {tiny_qwen2}\nedits: [{{drop: "blocks[3]"}}]\n')
    compile_spec(tmp_path / "spec.yaml", tmp_path / "out")
    attach(tmp_path / "out", [Use(open_pack(path))], tmp_path / "with", partial=True)
    found, delta = load_file(tmp_path / "with" / WEIGHTS), open_pack(path).delta("model.embed_tokens.weight")
    for name in {"model.embed_tokens.weight", "lm_head.weight"} & set(found):
        assert torch.equal(found[name], weights(tiny_qwen2)["model.embed_tokens.weight"] + delta)
