"""Emission: form of the folder, provenance, initial values, repeatability, refusals."""

from __future__ import annotations

import filecmp
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

import archspec
from archspec.compiler.driver import compile_spec
from archspec.compiler.emission.emit import check_output
from archspec.diagnostics import ArchspecError
from archspec.host.fingerprint import digest_of
from archspec.host.headers import read_folder
from archspec.runtime.model.structures import plain_merge
from archspec.runtime.store.lock import Lock

EDITS = """
  - {replace: "blocks[1].attn", with: {op: hyena_x, kernel: 4}, init: random}
  - {replace: "blocks[*].mlp", with: {op: mlp, ratio: 3}, init: inherit}
  - {parallelize: "blocks[2:4]", by: 2, merge: linear}
"""


def spec(folder: Path, host: Path, edits: str = EDITS, more: str = "", base: str | None = None) -> Path:
    """Write a spec beside (a link to) its host."""
    folder.mkdir(exist_ok=True)
    if not (folder / host.name).exists():
        (folder / host.name).symlink_to(host)
    path = folder / "spec.yaml"
    path.write_text(f"archspec: 1\nname: made\nbase: {base or f'./{host.name}'}\nedits:{edits}\n{more}")
    return path


def compile_to(folder: Path, host: Path, *args: Any, link: bool = False, **options: Any) -> tuple[Path, Lock]:
    result = compile_spec(spec(folder, host, *args, **options), folder / "out", link=link)
    return result.out, result.lock


@pytest.fixture(scope="module")
def compiled(tiny_dit: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Lock]:
    return compile_to(tmp_path_factory.mktemp("emit"), tiny_dit)


def test_the_folder_has_the_form_of_the_base(compiled: tuple[Path, Lock]) -> None:
    out, lock = compiled
    wanted = {"README.md", "archspec.lock.json", "config.json", "diffusion_pytorch_model.safetensors", "plan.json"}
    assert {p.name for p in out.iterdir()} == wanted | {".archspec"}
    assert set(lock.files) == wanted - {"archspec.lock.json"}
    assert all(lock.files[name].size == (out / name).stat().st_size for name in lock.files)
    assert [p.name for p in out.parent.iterdir() if p.name.startswith(".")] == []


def test_the_same_spec_gives_the_same_bytes(tiny_dit: Path, compiled: tuple[Path, Lock], tmp_path: Path) -> None:
    """In another folder, from another copy of the host."""
    host = shutil.copytree(tiny_dit, tmp_path / "elsewhere" / tiny_dit.name)
    out, _ = compile_to(tmp_path / "spec", host)
    names = [p.name for p in compiled[0].iterdir() if p.is_file()]
    same, different, errors = filecmp.cmpfiles(out, compiled[0], names, shallow=False)
    assert (sorted(same), different, errors) == (sorted(names), [], [])
    text = "".join((out / name).read_text() for name in names if not name.endswith(".safetensors"))
    assert str(tmp_path) not in text


def test_provenance_of_every_tensor_is_true(compiled: tuple[Path, Lock], tiny_dit: Path) -> None:
    out, lock = compiled
    headers, base = read_folder(out), read_folder(tiny_dit)
    assert lock.tensors.keys() == headers.keys()
    for name, entry in lock.tensors.items():
        assert entry.digest == digest_of(headers[name]).hex()
        if entry.kind == "copied":
            assert entry.base is not None
            assert entry.digest == digest_of(base[entry.base]).hex()
    kinds = {name: (entry.kind, entry.init) for name, entry in lock.tensors.items()}
    assert kinds["transformer_blocks.1.attn1.readout.weight"] == ("new", "random")
    assert kinds["transformer_blocks.0.ff.readout.weight"] == ("derived", "inherit")
    assert kinds["transformer_blocks.2.merge.weight"] == ("derived", "identity")
    assert kinds["transformer_blocks.2.branches.1.attn1.to_q.weight"] == ("copied", None)
    assert (
        lock.tensors["transformer_blocks.2.branches.1.attn1.to_q.weight"].base
        == "transformer_blocks.3.attn1.to_q.weight"
    )


def test_merges_start_as_the_mean(compiled: tuple[Path, Lock]) -> None:
    tensors = load_file(compiled[0] / "diffusion_pytorch_model.safetensors")
    wanted = plain_merge("linear", 2, 32).float()
    assert torch.equal(tensors["transformer_blocks.2.merge.weight"], wanted)
    assert torch.equal(tensors["transformer_blocks.2.merge.bias"], torch.zeros(32))


def test_an_inheriting_operator_of_full_size_is_the_host(tiny_llama: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    edits = '\n  - {replace: "blocks[*].attn", with: attention}\n  - {replace: "blocks[*].mlp", with: {op: mlp}}'
    out, lock = compile_to(tmp_path, tiny_llama, edits)
    assert {e.init for e in lock.tensors.values()} == {None, "inherit"}
    ids = torch.arange(3, 15)[None]
    with torch.no_grad():
        found: Any = archspec.load(out)
        wanted = AutoModelForCausalLM.from_pretrained(tiny_llama)(ids).logits
        torch.testing.assert_close(found(ids).logits, wanted, rtol=0, atol=1e-5)


def test_random_values_depend_on_seed_and_path_alone(tiny_dit: Path, tmp_path: Path) -> None:
    one = '\n  - {replace: "blocks[3].attn", with: {op: hyena_x, kernel: 4}, init: random}'
    both = '\n  - {replace: "blocks[2].attn", with: {op: hyena_x, kernel: 4}, init: random}' + one
    found = [load_file(compile_to(tmp_path / str(i), tiny_dit, edits)[0] / "diffusion_pytorch_model.safetensors")
             for i, edits in enumerate((one, both))]  # fmt: skip
    name = "transformer_blocks.3.attn1.readout.weight"
    assert torch.equal(found[0][name], found[1][name])
    assert not torch.equal(found[1][name], found[1][name.replace("3", "2", 1)])
    seeded, _ = compile_to(tmp_path / "s", tiny_dit, one.replace("init: random", "init: {kind: random, seed: 7}"))
    assert not torch.equal(load_file(seeded / "diffusion_pytorch_model.safetensors")[name], found[0][name])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_new_tensors_have_the_dtype_of_the_base(tiny_dit: Path, tmp_path: Path, dtype: torch.dtype) -> None:
    host = shutil.copytree(tiny_dit, tmp_path / "half")
    weights = host / "diffusion_pytorch_model.safetensors"
    save_file({n: t.to(dtype) for n, t in load_file(weights).items()}, weights)
    out, _ = compile_to(tmp_path, host)
    found = load_file(out / "diffusion_pytorch_model.safetensors")
    assert {t.dtype for t in found.values()} == {dtype}
    base = load_file(weights)
    assert torch.equal(found["proj_out_1.weight"], base["proj_out_1.weight"])


def test_artifacts_give_first_weights(tiny_dit: Path, tmp_path: Path) -> None:
    site = "transformer_blocks.1.attn1."
    random = '\n  - {replace: "blocks[1].attn", with: {op: low_rank, rank: 4}, init: random}'
    edits = random.replace("random", "{kind: artifact, from: ./w.safetensors}")
    out, _ = compile_to(tmp_path / "probe", tiny_dit, random)
    tensors = load_file(out / "diffusion_pytorch_model.safetensors")
    local = {name.removeprefix(site): t for name, t in tensors.items() if name.startswith(site)}
    assert "readout.weight" in local
    given = {name: torch.randn(t.shape) for name, t in local.items()}
    (tmp_path / "a").mkdir()
    save_file(given, tmp_path / "a" / "w.safetensors")
    out, lock = compile_to(tmp_path / "a", tiny_dit, edits)
    found = load_file(out / "diffusion_pytorch_model.safetensors")
    assert all(torch.equal(found[f"transformer_blocks.1.attn1.{name}"], tensor) for name, tensor in given.items())
    assert lock.tensors["transformer_blocks.1.attn1.readout.weight"].init == "artifact"
    given["readout.weight"] = torch.zeros(2, 2)
    save_file(given, tmp_path / "a" / "w.safetensors")
    with pytest.raises(ArchspecError) as caught:
        compile_to(tmp_path / "a", tiny_dit, edits)
    assert caught.value.diagnostics[0].code == "AS647"
    primary = caught.value.diagnostics[0].primary
    assert primary is not None
    assert primary.span.text == "./w.safetensors"


def test_side_files_go_along_and_code_does_not(tiny_llama: Path, tmp_path: Path) -> None:
    host = shutil.copytree(tiny_llama, tmp_path / "host")
    for name in ("tokenizer.json", "LICENSE", "modeling_evil.py", "pytorch_model.bin", ".hidden", "README.md"):
        (host / name).write_text("{}")
    out, _ = compile_to(tmp_path, host, '\n  - {drop: "blocks[0]"}')
    names = {p.name for p in out.iterdir()}
    assert names >= {"tokenizer.json", "LICENSE", "generation_config.json"}
    assert not names & {"modeling_evil.py", "pytorch_model.bin", ".hidden"}
    assert (out / "README.md").read_text() != "{}"


def test_shards_and_links(tiny_llama: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    host = tmp_path / "sharded"
    AutoModelForCausalLM.from_pretrained(tiny_llama).save_pretrained(host, max_shard_size="40KB")
    before = sorted(p.name for p in host.glob("*.safetensors"))
    assert len(before) > 2
    edits = '\n  - {replace: "blocks[2].mlp", with: {op: low_rank, rank: 2}, init: random}'
    plain, lock = compile_to(tmp_path / "plain", host, edits)
    assert len(list(plain.glob("*.safetensors"))) == len(before)
    linked, locked = compile_to(tmp_path / "linked", host, edits, link=True)
    assert any(record.dead for record in locked.files.values())
    shared = [p for p in linked.glob("*.safetensors") if p.stat().st_nlink > 1]
    assert len(shared) == len(before)
    assert locked.tensors == lock.tensors
    ids = torch.arange(3, 15)[None]
    with torch.no_grad():
        one, two = (AutoModelForCausalLM.from_pretrained(p)(ids).logits for p in (plain, linked))
        assert torch.equal(one, two)
        loaded: Any = archspec.load(linked)
        assert torch.equal(loaded(ids).logits, one)


def test_a_pipeline_stays_a_pipeline(tiny_dit: Path, tmp_path: Path) -> None:
    host = tmp_path / "pipe"
    shutil.copytree(tiny_dit, host / "transformer")
    (host / "scheduler").mkdir()
    (host / "scheduler" / "scheduler_config.json").write_text('{"_class_name": "DDIMScheduler"}')
    index = {"_class_name": "DiTPipeline", "transformer": ["diffusers", "DiTTransformer2DModel"],
             "scheduler": ["diffusers", "DDIMScheduler"], "vae": ["diffusers", "AutoencoderKL"]}  # fmt: skip
    (host / "model_index.json").write_text(json.dumps(index))
    out, lock = compile_to(tmp_path, host, base="{from: ./pipe, subfolder: transformer}")
    assert lock.subfolder == "transformer"
    assert (out / "scheduler" / "scheduler_config.json").read_bytes() == (
        host / "scheduler/scheduler_config.json"
    ).read_bytes()
    found = json.loads((out / "model_index.json").read_text())
    assert found == index | {"transformer": ["archspec", "GraftedDiTTransformer2DModel"]}
    assert (out / "archspec.lock.json").exists()
    assert not (out / "transformer" / "archspec.lock.json").exists()
    assert "transformer/diffusion_pytorch_model.safetensors" in lock.files
    assert sum(p.numel() for p in archspec.load(out).parameters()) == lock.results["totals"]["params"]


def test_the_card_reads_as_the_hub_wants(compiled: tuple[Path, Lock]) -> None:
    text = (compiled[0] / "README.md").read_text()
    _, front, body = text.split("---\n", 2)
    assert yaml.safe_load(front) == {"library_name": "diffusers", "tags": ["archspec", "grafted", "hyena-x", "mlp"]}
    assert "| `blocks[1].attn` | `hyena_x(" in body
    assert "| parameters | 117.36k |" in body
    assert "side by side, merged by `linear`" in body
    assert "Not measured" in body


def test_only_own_folders_are_replaced(compiled: tuple[Path, Lock], tmp_path: Path) -> None:
    out = shutil.copytree(compiled[0], tmp_path / "out")
    check_output(tmp_path / "new")
    (tmp_path / "empty").mkdir()
    check_output(tmp_path / "empty")
    check_output(out)
    (out / ".archspec" / "compiled").mkdir()
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").write_text("cat")
    (tmp_path / "file").write_text("text")
    for folder, force in (("out", False), ("photos", False), ("photos", True), ("file", True)):
        with pytest.raises(ArchspecError) as caught:
            check_output(tmp_path / folder, force)
        assert caught.value.diagnostics[0].code == "AS630"
        assert caught.value.diagnostics[0].hints
    check_output(out, force=True)
    assert (tmp_path / "photos" / "cat.jpg").read_text() == "cat"
