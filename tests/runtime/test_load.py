"""archspec.load: strict, mapped, of exact dtypes; hostile and damaged checkpoints are refused by code."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import archspec
from archspec.diagnostics import ArchspecError
from archspec.runtime.model.program import read_graft, read_program
from archspec.runtime.store.lock import read_lock

Make = Callable[..., Path]
EDITS = """
  - {replace: "blocks[1].attn", with: {op: hyena_x, kernel: 4}, init: random}
  - {replace: "blocks[*].mlp", with: {op: mlp, ratio: 3}}
  - {parallelize: "blocks[2:4]", by: 2}
"""


@pytest.fixture(scope="module")
def compiled(tiny_dit: Path, make: Make) -> Path:
    return make(tiny_dit, EDITS)


@pytest.fixture
def out(compiled: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    return shutil.copytree(compiled, tmp_path / "out")


def edit_json(path: Path, change: Callable[[Any], None]) -> None:
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))


def edit_weights(out: Path, change: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    path = out / "diffusion_pytorch_model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)


def refused(folder: Path) -> list[tuple[str, str]]:
    with pytest.raises(ArchspecError) as caught:
        archspec.load(folder)
    return [(d.code, d.message) for d in caught.value.diagnostics]


def test_weights_are_those_of_the_files(compiled: Path) -> None:
    model = archspec.load(compiled)
    assert not model.training
    for name, tensor in load_file(compiled / "diffusion_pytorch_model.safetensors").items():
        assert torch.equal(model.get_parameter(name), tensor)
        assert model.get_parameter(name).requires_grad
    assert not any(t.is_meta for t in (*model.parameters(), *model.buffers()))


@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16, torch.float16])
def test_dtypes_are_kept_or_as_asked(out: Path, stored: torch.dtype) -> None:
    edit_weights(out, lambda tensors: tensors.update({n: t.to(stored) for n, t in tensors.items()}))
    assert {p.dtype for p in archspec.load(out).parameters()} == {stored}
    assert {p.dtype for p in archspec.load(out, dtype=torch.float64).parameters()} == {torch.float64}
    assert torch.get_default_dtype() == torch.float32


def test_the_same_in_half_precision_as_diffusers(out: Path) -> None:
    edit_weights(out, lambda tensors: tensors.update({n: t.bfloat16() for n, t in tensors.items()}))
    ours: Any = archspec.load(out)
    theirs = archspec.GraftedDiTTransformer2DModel.from_pretrained(out, torch_dtype=torch.bfloat16)
    inputs = {
        "hidden_states": torch.ones(1, 4, 8, 8, dtype=torch.bfloat16),
        "timestep": torch.tensor([3]),
        "class_labels": torch.tensor([1]),
    }
    with torch.no_grad():
        assert torch.equal(ours(**inputs).sample, theirs(**inputs).sample)


def test_loading_leaves_the_random_state_alone(compiled: Path) -> None:
    torch.manual_seed(1)
    wanted = torch.rand(1)
    torch.manual_seed(1)
    archspec.load(compiled)
    assert torch.equal(torch.rand(1), wanted)


def test_files_are_mapped(compiled: Path) -> None:
    """A change of the file's bytes is seen by a tensor that maps it, so nothing was read into memory of its own."""
    maps = Path("/proc/self/maps")
    if not maps.exists():
        pytest.skip("needs /proc")
    model = archspec.load(compiled)
    assert "diffusion_pytorch_model.safetensors" in maps.read_text()
    assert model is not None


def test_a_plain_folder_is_not_compiled(tiny_dit: Path) -> None:
    ((code, message),) = refused(tiny_dit)
    assert code == "AS640"
    assert "no 'archspec' entry" in message
    with pytest.raises(ArchspecError) as caught:
        read_lock(tiny_dit)
    assert caught.value.diagnostics[0].code == "AS640"


def test_no_folder_at_all(tmp_path: Path) -> None:
    assert refused(tmp_path / "nothing")[0][0] == "AS610"


def test_every_missing_tensor_is_named(out: Path) -> None:
    edit_weights(out, lambda tensors: [tensors.pop(name) for name in ("proj_out_1.bias", "proj_out_2.bias")])
    found = refused(out)
    assert [code for code, _ in found] == ["AS644", "AS644"]
    assert "'proj_out_1.bias' is missing" in found[0][1]


def test_unexpected_tensors_and_wrong_shapes_are_named(out: Path) -> None:
    edit_weights(out, lambda t: t.update({"stranger": torch.zeros(1), "proj_out_2.bias": torch.zeros(3)}))
    found = dict.fromkeys(message for _, message in refused(out))
    assert any("'stranger'" in message and "not part of" in message for message in found)
    assert any("shape (3,)" in message and "(16,)" in message for message in found)


def test_truncated_weights(out: Path) -> None:
    path = out / "diffusion_pytorch_model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    assert refused(out)[0][0] == "AS616"
    path.write_bytes(b"1234")
    assert refused(out)[0][0] == "AS612"


def test_an_operator_that_is_not_installed_is_named(out: Path) -> None:
    edit_json(out / "config.json", lambda c: c["archspec"]["instructions"][0].update(operator="warp_drive"))
    ((code, message),) = refused(out)
    assert (code, message) == ("AS643", "operator 'warp_drive' is not installed")


def test_an_operator_of_a_later_version_is_refused(out: Path) -> None:
    edit_json(out / "config.json", lambda c: c["archspec"]["instructions"][0].update(version=99))
    assert refused(out)[0][0] == "AS642"


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (lambda c: c.update(archspec=None), "AS641"),
        (lambda c: c.update(archspec=[]), "AS641"),
        (lambda c: c["archspec"].pop("format"), "AS641"),
        (lambda c: c["archspec"].update(format=2), "AS642"),
        (lambda c: c["archspec"].update(architecture=3), "AS641"),
        (lambda c: c["archspec"].update(base=3), "AS641"),
        (lambda c: c["archspec"].update(architecture="os.system"), "AS401"),
        (lambda c: c["archspec"].update(architecture="ModelMixin.__init__"), "AS401"),
        (lambda c: c["archspec"].update(architecture="DiTPipeline"), "AS401"),
        (lambda c: c["archspec"].update(instructions="all"), "AS641"),
        (lambda c: c["archspec"].update(instructions=[3]), "AS641"),
        (lambda c: c["archspec"].update(instructions=[{"do": "exec", "code": "1"}]), "AS641"),
        (lambda c: c["archspec"]["instructions"][0].update(path="../../x"), "AS641"),
        (lambda c: c["archspec"]["instructions"][0].update(path="nowhere"), "AS645"),
        (lambda c: c["archspec"]["instructions"][0].update(layer="zero"), "AS641"),
        (lambda c: c["archspec"]["instructions"][0].update(extra=1), "AS641"),
        (lambda c: c["archspec"]["instructions"][0]["shape"].update(width=1 << 40), "AS641"),
        (lambda c: c["archspec"]["instructions"][0]["shape"].update(width="32"), "AS641"),
        (lambda c: c["archspec"]["instructions"][0]["config"].update(stranger=1), "AS641"),
        (lambda c: c["archspec"]["instructions"][0]["port"].update(input=3), "AS641"),
        (lambda c: c["archspec"]["instructions"][0]["shape"].update(beside="whole"), "AS641"),
        (lambda c: c["archspec"]["instructions"][0]["shape"].update(beside="half"), "AS641"),
        (lambda c: c["archspec"]["instructions"][0]["port"].update(interleaved=3), "AS641"),
        (lambda c: c["archspec"]["instructions"][0]["port"].update(streams=3), "AS641"),
        (lambda c: c["archspec"]["instructions"][0]["port"].update(streams=[["x"]]), "AS641"),
        (lambda c: c["archspec"]["instructions"][0]["port"].update(streams=[["x", 1 << 40]], returns=2), "AS641"),
        (lambda c: c["archspec"]["instructions"][-1].update(streams=[["x", 0], ["x", 1]], returns=2), "AS641"),
        (lambda c: c["archspec"]["instructions"][-1].update(streams=[["x", 0], ["y", 0]], returns=2), "AS641"),
        (lambda c: c["archspec"]["instructions"][-1].update(streams=[["x", -1]], returns=2), "AS641"),
        (lambda c: c["archspec"]["instructions"][-1].update(streams=[["x", None]], returns=2), "AS641"),
        (lambda c: c["archspec"]["instructions"][-1]["entries"][0].update(beside=["text"]), "AS641"),
        (lambda c: c["archspec"]["instructions"][-1]["entries"][0].update(beside=3), "AS641"),
        (lambda c: c["archspec"]["instructions"][-1].update(length=5), "AS645"),
        (lambda c: c["archspec"]["instructions"][-1].update(length=-1), "AS641"),
        (lambda c: c["archspec"]["instructions"][-1].update(width=48), "AS644"),
        (lambda c: c["archspec"]["instructions"][-1].update(entries=[]), "AS641"),
        (lambda c: c["archspec"]["instructions"][-1]["entries"][0].update(members=[9]), "AS641"),
        (lambda c: c["archspec"]["instructions"][-1]["entries"][0].update(members=[0, 1]), "AS641"),
        (lambda c: c["archspec"]["instructions"][-1]["entries"][0].update(form="melt"), "AS641"),
        (lambda c: c["archspec"]["instructions"][-1]["entries"][2].update(merge="explode"), "AS641"),
        (lambda c: c["archspec"]["instructions"].append({"do": "share", "path": "a b", "to": "c"}), "AS641"),
    ],
)
def test_hostile_configs_are_refused(out: Path, change: Callable[[Any], None], code: str) -> None:
    edit_json(out / "config.json", change)
    assert refused(out)[0][0] == code


def test_a_huge_model_is_refused_before_it_is_built(out: Path) -> None:
    """A width that would take terabytes costs nothing: shapes are compared on the meta device."""
    edit_json(out / "config.json", lambda c: c["archspec"]["instructions"][-1].update(width=1 << 20))
    assert refused(out)[0][0] == "AS644"


def test_a_deep_or_doubled_config_is_refused(out: Path) -> None:
    text = (out / "config.json").read_text()
    (out / "config.json").write_text(text.replace("{", '{"num_layers": 3,', 1))
    assert refused(out)[0][0] == "AS602"
    (out / "config.json").write_text("[" * 100_000)
    assert refused(out)[0][0] == "AS602"


def test_an_index_cannot_leave_the_folder(out: Path) -> None:
    (out / "diffusion_pytorch_model.safetensors").rename(out.parent / "x.safetensors")
    index = {"weight_map": {"proj_out_1.bias": "../x.safetensors"}}
    (out / "diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps(index))
    assert refused(out)[0][0] == "AS618"


def test_a_model_type_of_transformers_must_be_one(tiny_llama: Path, make: Make, tmp_path: Path) -> None:
    out = shutil.copytree(make(tiny_llama, '  - {drop: "blocks[0]"}\n'), tmp_path / "out")
    edit_json(out / "config.json", lambda c: c["archspec"].update(architecture="LlamaTokenizer"))
    assert refused(out)[0][0] == "AS401"
    from transformers import AutoConfig

    AutoConfig.from_pretrained(make(tiny_llama, '  - {drop: "blocks[0]"}\n'))
    edit_json(out / "config.json", lambda c: c["archspec"].update(model_type="archspec"))
    with pytest.raises(ArchspecError) as caught:
        AutoConfig.from_pretrained(out)
    assert caught.value.diagnostics[0].code == "AS645"


LOCKS: list[tuple[Callable[[Any], Any], str]] = [
    (lambda lock: lock.pop("format"), "AS641"),
    (lambda lock: lock.update(format=True), "AS641"),
    (lambda lock: lock.update(format=2), "AS642"),
    (lambda lock: lock.update(base=[]), "AS641"),
    (lambda lock: lock.pop("tensors"), "AS641"),
    (lambda lock: lock.update(subfolder="../up"), "AS641"),
    (lambda lock: lock.update(subfolder="/etc"), "AS641"),
    (lambda lock: lock["files"].update({"../x": {"size": 1, "digest": "d"}}), "AS641"),
    (lambda lock: lock["files"].update({"/etc/passwd": {"size": 1, "digest": "d"}}), "AS641"),
    (lambda lock: lock["files"].update(x={"size": -1, "digest": "d"}), "AS641"),
    (lambda lock: lock["tensors"].update(x={"kind": "stolen", "digest": "d"}), "AS641"),
    (lambda lock: lock["tensors"].update(x={"kind": "new"}), "AS641"),
    (lambda lock: lock["tensors"].update(x=3), "AS641"),
    (lambda lock: lock.update(operators={"mlp": "one"}), "AS641"),
    (lambda lock: lock.update(instructions=3), "AS641"),
    (lambda lock: lock["instructions"][0].update(operator="warp"), "AS643"),
]


@pytest.mark.parametrize(("change", "code"), LOCKS)
def test_hostile_locks_are_refused(out: Path, change: Callable[[Any], Any], code: str) -> None:
    edit_json(out / "archspec.lock.json", change)
    with pytest.raises(ArchspecError) as caught:
        read_lock(out)
    assert caught.value.diagnostics[0].code == code


def test_a_lock_is_read_as_it_was_written(compiled: Path) -> None:
    lock = read_lock(compiled)
    written = json.loads((compiled / "archspec.lock.json").read_text())
    assert json.loads(json.dumps(lock.to_json())) == written
    assert lock.operators == {"hyena_x": 1, "mlp": 1}
    assert {entry.kind for entry in lock.tensors.values()} == {"copied", "derived", "new"}
    config = json.loads((compiled / "config.json").read_text())
    assert read_graft(config["archspec"]).instructions == lock.instructions
    assert read_program(config["archspec"]["instructions"]) == lock.instructions
