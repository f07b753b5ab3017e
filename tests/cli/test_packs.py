"""pack, attach, detach, packs: from a tuned model to a pack, onto its base and off again, by the command line."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

from archspec.cli import main
from tests.packs import WEIGHTS, tuned_from, weights


@pytest.fixture(scope="module")
def shop(tiny_encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tuned model, a spec and its pack."""
    folder = tmp_path_factory.mktemp("shop")
    tuned_from(tiny_encoder, folder / "tuned")
    pack = "{tuned: tuned, budget: 50%, licence: MIT, rules: [{of: norm, store: [dense]}]}"
    (folder / "sql.yaml").write_text(f"name: sql\nbase: {tiny_encoder}\npack: {pack}\n")
    run("pack", folder / "sql.yaml", "-o", folder / "sql.skillpack.safetensors")
    return folder


def run(*args: object, code: int = 0) -> str:
    found = CliRunner().invoke(main, [str(arg) for arg in args])
    assert found.exit_code == code, found.output
    return found.output


def test_pack_tells_what_it_wrote(shop: Path, tmp_path: Path) -> None:
    out = tmp_path / "again.safetensors"
    found = json.loads(run("pack", shop / "sql.yaml", "-o", out, "--json"))
    assert found["bytes"] == out.stat().st_size <= 0.5 * found["of"]
    assert found["tensors"]["encoder.layer.0.output.LayerNorm.weight"]["terms"] == [{"op": "dense", "dtype": "F16"}]
    assert 0 < found["error"] < 0.3
    assert out.read_bytes() == (shop / "sql.skillpack.safetensors").read_bytes()


def test_where_no_terminal_is_nothing_is_drawn_and_no_name_is_cut(
    shop: Path, tiny_encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    name, pack = "encoder.layer.0.attention.output.LayerNorm.weight", shop / "sql.skillpack.safetensors"
    for words in (("pack", shop / "sql.yaml", "--plan"), ("packs", "show", pack)):
        assert any(line.startswith(f"{name} ") for line in run(*words).splitlines())
    found = CliRunner().invoke(main, ["attach", str(tiny_encoder), str(pack), "-o", str(tmp_path / "out"), "--plan"])
    assert (found.exit_code, found.stderr) == (0, "")


def test_a_plan_needs_no_tuned_model(tiny_encoder: Path, tmp_path: Path) -> None:
    rules = "[{of: mlp, store: [sign, {op: svd, rank: 4, bits: 8}]}]"
    (tmp_path / "s.yaml").write_text(f"name: s\nbase: {tiny_encoder}\npack: {{tuned: x, budget: 6%, rules: {rules}}}\n")
    rows = {row["tensor"]: row for row in json.loads(run("pack", tmp_path / "s.yaml", "--plan", "--json"))}
    assert rows["encoder.layer.0.output.dense.weight"]["store"] == "sign + svd(rank=4, bits=8)"
    assert rows["encoder.layer.0.output.dense.bias"] == {
        "tensor": "encoder.layer.0.output.dense.bias",
        "role": "bias",
        "store": "from the budget, if it differs",
    }
    assert rows["embeddings.word_embeddings.weight"]["role"] == "embed"
    assert rows["pooler.dense.weight"]["role"] == "head"
    assert "sign + svd(rank=4, bits=8)" in run("pack", tmp_path / "s.yaml", "--plan")


def test_attach_and_detach(shop: Path, tiny_encoder: Path, tmp_path: Path) -> None:
    pack, out = shop / "sql.skillpack.safetensors", tmp_path / "out"
    assert "would change 71 tensors" in run("attach", tiny_encoder, pack, "-o", out, "--plan")
    assert not out.exists()
    assert "sql x 0.5" in run("attach", tiny_encoder, pack, "-o", out, "--scale", "0.5")
    assert json.loads((out / "skillpacks.json").read_text())["packs"][0]["scale"] == 0.5
    assert (out / WEIGHTS).read_bytes() != (tiny_encoder / WEIGHTS).read_bytes()
    found = json.loads(run("detach", out, "--json"))
    assert found["packs"][0]["name"] == "sql"
    assert (out / WEIGHTS).read_bytes() == (tiny_encoder / WEIGHTS).read_bytes()
    assert "AS674" in run_failing("detach", out)


def run_failing(*args: object) -> str:
    found = CliRunner().invoke(main, [str(arg) for arg in args])
    assert found.exit_code == 1, found.output
    return found.output


def test_attach_to_another_base(shop: Path, tmp_path: Path) -> None:
    said = run_failing("attach", shop / "tuned", shop / "sql.skillpack.safetensors", "-o", tmp_path / "out")
    assert "AS681" in said
    assert "Traceback" not in said
    assert not (tmp_path / "out").exists()


def test_scales_are_one_or_one_per_pack(shop: Path, tiny_encoder: Path, tmp_path: Path) -> None:
    pack = shop / "sql.skillpack.safetensors"
    run("attach", tiny_encoder, pack, pack, "-o", tmp_path / "a", "-s", "0.5", "-s", "1", "-s", "2", code=2)
    for scale in ("1e40", "-1e40", "nan", "inf"):
        run("attach", tiny_encoder, pack, "-o", tmp_path / "a", "-s", scale, code=2)
    run("attach", tiny_encoder, pack, pack, "-o", tmp_path / "b", "-s", "0.5")
    run("attach", tiny_encoder, pack, "-o", tmp_path / "c")
    both, once = weights(tmp_path / "b"), weights(tmp_path / "c")
    assert all((both[name] - once[name]).abs().max() < 1e-6 for name in once)


def test_packs_are_listed_and_described(shop: Path, tmp_path: Path) -> None:
    (shop / "broken.safetensors").write_bytes((shop / "sql.skillpack.safetensors").read_bytes()[:-5])
    try:
        listed = json.loads(run("packs", "ls", shop, "--json"))
        assert "broken.safetensors  damaged" in run("packs", "ls", shop)
    finally:
        (shop / "broken.safetensors").unlink()
    assert [entry.get("name") for entry in listed] == [None, "sql"]
    assert json.loads(run("packs", "ls", shop / "tuned", "--json")) == []
    shown = run("packs", "show", shop / "sql.skillpack.safetensors")
    assert "licence       MIT" in shown
    assert "dense F16" in shown
    header = json.loads(run("packs", "show", shop / "sql.skillpack.safetensors", "--json"))["header"]
    assert header["format"] == 1


def test_packs_are_verified(shop: Path, tiny_encoder: Path, tmp_path: Path) -> None:
    pack = shop / "sql.skillpack.safetensors"
    assert "decode to finite values" in run("packs", "verify", pack)
    assert json.loads(run("packs", "verify", pack, "--base", tiny_encoder, "--json"))["tensors"] == 71
    assert "AS681" in run_failing("packs", "verify", pack, "--base", shop / "tuned")
    bad = tmp_path / "bad.safetensors"
    bad.write_bytes(pack.read_bytes()[:-5])
    assert "AS617" in run_failing("packs", "verify", bad) or "AS616" in run_failing("packs", "verify", bad)


def test_packs_are_exported(shop: Path, tmp_path: Path) -> None:
    pack = shop / "sql.skillpack.safetensors"
    assert "AS676" in run_failing("packs", "export", pack, "-o", tmp_path / "lora")
    found = json.loads(run("packs", "export", pack, "-o", tmp_path / "lora", "--rank", "8", "--partial", "--json"))
    assert found["ranks"]["encoder.layer.0.intermediate.dense"] == 8
    assert (tmp_path / "lora" / "adapter_config.json").is_file()


def test_nothing_else_is_replaced(shop: Path, tiny_encoder: Path, tmp_path: Path) -> None:
    pack, mine = shop / "sql.skillpack.safetensors", tmp_path / "mine"
    note = mine / "note.txt"
    mine.mkdir()
    note.write_text("keep")
    run("attach", tiny_encoder, pack, "-o", tmp_path / "with")
    for words in (
        ("attach", tiny_encoder, pack, "-o", mine),
        ("detach", tmp_path / "with", "-o", mine),
        ("packs", "export", pack, "-o", mine, "--rank", "8", "--partial"),
    ):
        assert "AS630" in run_failing(*words)
        assert note.read_text() == "keep"
    for _ in range(2):  # a LoRA is replaced by a LoRA
        run("packs", "export", pack, "-o", tmp_path / "lora", "--rank", "8", "--partial")


def test_a_pack_replaces_packs_alone(shop: Path, tmp_path: Path) -> None:
    (tmp_path / "weights.safetensors").write_bytes((shop / "tuned" / "model.safetensors").read_bytes())
    (tmp_path / "notes.txt").write_text("keep")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    for name in before:
        assert "AS630" in run_failing("pack", shop / "sql.yaml", "-o", tmp_path / name)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    for _ in range(2):
        run("pack", shop / "sql.yaml", "-o", tmp_path / "mine")


def test_other_settings_of_the_tuned_model_are_noted(shop: Path, tmp_path: Path) -> None:
    shutil.copytree(shop / "tuned", tmp_path / "tuned")
    config = json.loads((tmp_path / "tuned" / "config.json").read_text())
    changed = config | {"layer_norm_eps": 0.1, "use_cache": not config.get("use_cache")}
    (tmp_path / "tuned" / "config.json").write_text(json.dumps(changed))
    (tmp_path / "s.yaml").write_text((shop / "sql.yaml").read_text())
    said = run("pack", tmp_path / "s.yaml", "-o", tmp_path / "mine")
    assert "the tuned model has another layer_norm_eps\n" in said
    assert "note:" not in run("pack", shop / "sql.yaml", "-o", tmp_path / "other")


def test_budgets_beyond_the_whole(shop: Path, tmp_path: Path) -> None:
    text = (shop / "sql.yaml").read_text().replace("tuned: tuned", f"tuned: {shop / 'tuned'}")
    (tmp_path / "s.yaml").write_text(text.replace("budget: 50%", "budget: 150%"))
    assert "up to `100%`" in run_failing("pack", tmp_path / "s.yaml", "-o", tmp_path / "mine")


def test_a_spec_without_a_pack(tiny_encoder: Path, tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text(f"name: x\nbase: {tiny_encoder}\n")
    assert "AS672" in run_failing("pack", tmp_path / "x.yaml")
    assert "AS672" in run_failing("pack", tmp_path / "x.yaml", "--plan")
