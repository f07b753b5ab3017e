"""`weights: random`: what is drawn, that it is drawn again alike, and who teaches it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import archspec
from archspec.compiler.driver import Prepared, compile_spec, prepare
from archspec.diagnostics import ArchspecError
from archspec.diff.sides import read_side
from archspec.host.locate import locate, structure_of
from archspec.language.spec import Base
from archspec.runtime.execution.execute import execute
from archspec.runtime.execution.workspace import Workspace
from archspec.runtime.store.lock import read_lock
from archspec.semantics.validate import validate
from tests.command import run

DIGITS = Path(__file__).parents[2] / "specs" / "hosts" / "digits"
DROP = 'edits: [{drop: "blocks[1]"}]\n'


def bare(host: Path, folder: Path) -> Path:
    """Return the host's config alone."""
    folder.mkdir()
    shutil.copy(host / "config.json", folder / "config.json")
    return folder


def write(folder: Path, base: str, more: str = DROP, name: str = "made") -> Path:
    path = folder / f"{name}.yaml"
    path.write_text(f"name: {name}\nbase: {base}\n{more}")
    return path


def weights(folder: Path) -> dict[str, torch.Tensor]:
    (file,) = folder.rglob("*.safetensors")
    found: dict[str, torch.Tensor] = load_file(file)
    return found


@pytest.mark.parametrize("family", ["dit", "pixart", "sana", "sd3", "flux", "llama", "bert", "vit", "plain"])
def test_a_config_is_a_base_of_every_family(request: pytest.FixtureRequest, tmp_path: Path, family: str) -> None:
    host = bare(request.getfixturevalue(f"tiny_{family}"), tmp_path / "host")
    more = "edits: []\n" if family == "plain" else DROP
    path = write(tmp_path, "{from: ./host, weights: random, seed: 4}", more)
    assert not [d for d in validate(path) if d.severity.name == "ERROR"]
    compile_spec(path, tmp_path / "out")
    lock, drawn = read_lock(tmp_path / "out"), tmp_path / "out.base"
    assert (lock.base["from"], lock.host) == ("out.base", lock.base)
    assert (
        lock.spec["resolved"]["base"] | {"from": "./host", "weights": "random", "seed": 4}
        == lock.spec["resolved"]["base"]
    )
    assert (drawn / "config.json").read_bytes() == (host / "config.json").read_bytes()
    assert {path.suffix for path in drawn.iterdir()} == {".json", ".safetensors"}
    before = weights(drawn)
    assert structure_of(locate(Base(from_=str(drawn)), tmp_path), whole=True).tensors is not None
    for name, tensor in archspec.load(tmp_path / "out").state_dict().items():
        assert torch.isfinite(tensor).all(), name
    assert all(tensor.dtype == torch.float32 for tensor in before.values() if tensor.is_floating_point())


def test_the_class_of_the_host_draws(tiny_llama: Path, tiny_dit: Path, tmp_path: Path) -> None:
    """transformers' `_init_weights` is normal with initializer_range; a diffusers DiT is what its constructor makes."""
    config = json.loads((tiny_llama / "config.json").read_text()) | {"initializer_range": 0.5}
    (tmp_path / "wide").mkdir()
    (tmp_path / "wide" / "config.json").write_text(json.dumps(config))
    compile_spec(write(tmp_path, "{from: ./wide, weights: random}", name="llama"), tmp_path / "llama")
    found = weights(tmp_path / "llama.base")
    deviation = found["model.layers.0.mlp.up_proj.weight"].std().item()
    assert deviation == pytest.approx(0.5, rel=0.1)
    assert torch.equal(found["model.norm.weight"], torch.ones(32))
    compile_spec(write(tmp_path, f"{{from: {tiny_dit}, weights: random}}", name="dit"), tmp_path / "dit")
    weight = weights(tmp_path / "dit.base")["transformer_blocks.0.attn1.to_q.weight"]
    assert weight.abs().max() <= 32**-0.5, "torch's default is uniform up to 1 / sqrt(inputs)"
    assert not torch.equal(weight, weights(tiny_dit)["transformer_blocks.0.attn1.to_q.weight"])


def test_a_seed_says_all(tiny_dit: Path, tmp_path: Path) -> None:
    base = f"{{from: {tiny_dit}, weights: random, seed: %d}}"
    stage = "data: digits\nfinetune: {steps: 3, batch: 2}\n"
    before = torch.random.get_rng_state()
    made: dict[str, Prepared] = {}
    for name, seed in (("one", 1), ("again", 1), ("two", 2)):
        torch.manual_seed(len(made))
        made[name] = compile_spec(write(tmp_path, base % seed, DROP + stage, name), tmp_path / name).prepared
    torch.random.set_rng_state(before)
    keys = {name: ready.plan.tasks[0].key for name, ready in made.items()}
    assert keys["one"] == keys["again"] != keys["two"]
    files = {n: next((tmp_path / f"{n}.base").glob("*.safetensors")).read_bytes() for n in made}
    assert files["one"] == files["again"] != files["two"]
    inherited = write(tmp_path, f"{{from: {tiny_dit}, weights: random}}", DROP + stage + "seed: 2\n", "seeded")
    assert compile_spec(inherited, tmp_path / "seeded").prepared.content == made["two"].content


def test_a_stated_fingerprint_is_of_what_is_drawn(tiny_dit: Path, tmp_path: Path) -> None:
    base = f"{{from: {tiny_dit}, weights: random, fingerprint: '%s'}}"
    made = compile_spec(write(tmp_path, f"{{from: {tiny_dit}, weights: random}}"), tmp_path / "out")
    stated = write(tmp_path, base % made.lock.base["fingerprint"], name="stated")
    assert not validate(stated)
    compile_spec(stated, tmp_path / "stated")
    with pytest.raises(ArchspecError, match="AS607"):
        compile_spec(write(tmp_path, base % f"xxh3:{32 * '0'}", name="wrong"), tmp_path / "wrong")
    assert not (tmp_path / "wrong.base").exists()


def test_a_plan_draws_nothing(tiny_dit: Path, tmp_path: Path) -> None:
    path = write(tmp_path, f"{{from: {tiny_dit}, weights: random}}")
    ready = prepare(path)
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]
    assert ready.structure.tensors is None, "those in the files are not the base's"


def test_what_is_no_drawn_base_is_not_replaced(tiny_dit: Path, tmp_path: Path) -> None:
    (tmp_path / "out.base").mkdir()
    (tmp_path / "out.base" / "thesis.tex").touch()
    with pytest.raises(ArchspecError, match="AS630"):
        compile_spec(write(tmp_path, f"{{from: {tiny_dit}, weights: random}}"), tmp_path / "out")
    assert (tmp_path / "out.base" / "thesis.tex").exists()


def test_a_teacher_must_have_weights_and_the_sites(tiny_dit: Path, tiny_llama: Path, tmp_path: Path) -> None:
    bare(tiny_dit, tmp_path / "bare")
    smaller = json.loads((tiny_dit / "config.json").read_text()) | {"num_layers": 3}
    (tmp_path / "smaller").mkdir()
    (tmp_path / "smaller" / "config.json").write_text(json.dumps(smaller))
    for name, message in ((tiny_llama, "LlamaForCausalLM"), ("./smaller", "sites"), ("./bare", "no weights")):
        path = write(tmp_path, f"{{from: {tiny_dit}, weights: random, teacher: {name}}}")
        with pytest.raises(ArchspecError, match=f"AS658.*{message}"):
            compile_spec(path, tmp_path / "out")
        assert not (tmp_path / "out.base").exists()


def test_stored_weights_are_their_own_teacher(tiny_dit: Path, tiny_llama: Path, tmp_path: Path) -> None:
    """A teacher is then named in vain, as the warning says."""
    path = write(tmp_path, f"{{from: {tiny_dit}, teacher: {tiny_llama}}}")
    assert [(d.code, d.severity.name) for d in validate(path)] == [("AS322", "WARNING")]
    assert "teacher" not in compile_spec(path, tmp_path / "out").lock.base


STAGES = """data: {from: digits, split: test}
edits:
  - {drop: "blocks[1::2]"}
  - {replace: "blocks[0].mlp", with: {op: mlp, ratio: 1}, init: random}
%s
finetune: {steps: 2, batch: 4, warmup: 0, distill_weight: %s}
eval: {samples: 12, batch: 12, steps: 2, metrics: [paired]}
"""
TAUGHT = "distill: {samples: 16, epochs: 1, batch: 8}"


def test_a_teacher_teaches_and_is_measured_beside(tmp_path: Path) -> None:
    base = f"{{from: {DIGITS}, subfolder: transformer, weights: random, teacher: {DIGITS}}}"
    path = write(tmp_path, base, STAGES % (TAUGHT, 1))
    made = compile_spec(path, tmp_path / "out")
    assert made.lock.host["fingerprint"] != made.lock.base["fingerprint"]
    assert (tmp_path / "out.base" / "scheduler").is_dir(), "a pipeline stays one"
    report = execute(tmp_path / "out")
    assert report.complete
    compile_spec(path, tmp_path / "second")
    shutil.copytree(Workspace(tmp_path / "out").root / "artifacts", Workspace(tmp_path / "second").root / "artifacts")
    again = execute(tmp_path / "second")
    assert [done.state for done in again.tasks] == ["finished"] * 3, "found by what they depend on"
    error = report.tasks[0].report["outcomes"][0]["before"]
    other = write(tmp_path, f"{{from: {DIGITS}, subfolder: transformer, weights: random, teacher: ./out.base}}",
                  STAGES % (TAUGHT, 1), "other")  # fmt: skip
    compile_spec(other, tmp_path / "other")
    found = execute(tmp_path / "other").tasks[0].report["outcomes"][0]["before"]
    assert abs(found - error) > 1e-3, "the trained host taught, not the drawn one"


def test_from_scratch_without_a_teacher(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    base = f"{{from: {DIGITS}, subfolder: transformer, weights: random}}"
    compile_spec(write(tmp_path, base, STAGES % ("", 0)), tmp_path / "out")
    assert execute(tmp_path / "out").complete
    assert run(monkeypatch, "show", tmp_path / "out") == 0
    assert "with random weights (seed 0)" in " ".join(capsys.readouterr().out.split())
    with pytest.raises(ArchspecError, match="AS657"):
        compile_spec(write(tmp_path, base, STAGES % (TAUGHT, 0), "taught"), tmp_path / "taught")
    assert not (tmp_path / "taught.base").exists()


def test_diff_and_probe_know_of_the_draw(
    tiny_dit: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stored, drawn = (
        write(tmp_path, f"{{from: {tiny_dit}{weights}}}", name=name)
        for weights, name in (("", "stored"), (", weights: random", "drawn"))
    )
    assert run(monkeypatch, "diff", stored, drawn) == 0
    shown = capsys.readouterr().out
    assert "base.weights  - → random" in shown
    assert "params" not in shown.partition("Spec")[0], "no operator has other parameters"
    compile_spec(drawn, tmp_path / "out")
    one, two = (read_side(str(path), tmp_path) for path in (drawn, tmp_path / "out"))
    assert (one.params, one.weights, one.wiring) == (two.params, two.weights, two.wiring)
    assert run(monkeypatch, "probe", drawn, "--data", "digits") == 1
    assert "AS648" in capsys.readouterr().err
