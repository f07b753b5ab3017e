"""Configurations and models that are no merge: every mistake is found at once, at its place, and named."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from archspec.compiler.merging.layout import depths_of, lay_out
from archspec.compiler.merging.write import write_merge
from archspec.diagnostics import ArchspecError
from archspec.host.headers import read_folder
from archspec.language.merging import load_merge
from archspec.runtime.store import checkpoint
from tests.compiler.merging.golden_cases import CONFIG, SHAPES, tensors, write_models

GOOD = """merge_method: ties
base_model: ./base
models:
  - model: ./a
    parameters: {weight: 1.0, density: 0.5}
  - model: ./b
    parameters: {weight: 0.5}
parameters: {lambda: 1.0}
"""
BAD = {
    "misspelt key": ("base_model:", "base_modle:", [("AS690", "8", "unknown key 'base_modle'"), ("AS693", "", "base")]),
    "misspelt parameter": ("{weight: 1.0, density", "{weight: 1.0, densty", [("AS690", "5:31", "densty")]),
    "misspelt method": ("ties", "tise", [("AS690", "1:15", "tise")]),
    "method of mergekit": ("ties", "model_stock", [("AS691", "1:15", "model_stock")]),
    "no weight": ("{weight: 0.5}", "{density: 0.5}", [("AS693", "6:12", "needs 'weight'")]),
    "density of 50": ("density: 0.5", "density: 50", [("AS692", "5:40", "fraction")]),
    "weight of text": ("weight: 0.5", "weight: half", [("AS692", "7:26", "half")]),
    "lambda of a model": ("{weight: 0.5}", "{weight: 0.5, lambda: 1}", [("AS690", "7:31", "lambda")]),
    "a switch of numbers": ("{lambda: 1.0}", "{normalize: 1}", [("AS692", "8:25", "normalize")]),
    "a gradient of words": ("weight: 0.5", "weight: [0, x]", [("AS692", "7:30", "x")]),
    "a filter without value": ("weight: 0.5", "weight: [{filter: mlp}]", [("AS690", "7:27", "value")]),
    "a misspelt filter": ("weight: 0.5", "weight: [{fliter: mlp, value: 1}]", [("AS690", "7:28", "fliter")]),
    "an adapter": (" ./b\n", " ./b+lora\n", [("AS691", "6:12", "adapter")]),
    "a model twice": ("./b", "./a", [("AS690", "6:12", "twice")]),
    "slices too": (
        "parameters: {lambda: 1.0}",
        "slices: []",
        [("AS690", "8:1", "slices"), ("AS690", "8:9", "list of sources")],
    ),
    "a joined tokenizer": (
        "parameters: {lam",
        "tokenizer_source: union\nparameters: {lam",
        [("AS691", "8:19", "union")],
    ),
    "a dtype": ("parameters: {lam", "dtype: int8\nparameters: {lam", [("AS692", "8:8", "int8")]),
    "a filter of nothing": ("weight: 0.5", "weight: [{filter: atn, value: 1}, {value: 0}]", [("AS698", "7:36", "atn")]),
    "an open list": ("weight: 0.5", "weight: [{filter: mlp, value: 1}]", [("AS693", "", "no filter holds")]),
    "no such model": ("./b\n", "./c\n", [("AS600", "6:12", "./c")]),
    "no such hub id": ("./b\n", "some/where\n", [("AS600", "6:12", "some/where")]),
}


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
    write_models(tmp_path)
    return tmp_path


def mistakes(folder: Path, text: str) -> list[tuple[str, str, str]]:
    """Return (code, line:column, message) of everything that is found."""
    (folder / "merge.yaml").write_text(text)
    with pytest.raises(ArchspecError) as caught:
        lay_out(load_merge(folder / "merge.yaml"), folder)
    found = caught.value.diagnostics
    return [(d.code, str(d.primary.span).rpartition("yaml:")[2] if d.primary else "", d.message) for d in found]


@pytest.mark.parametrize("case", BAD)
def test_a_mistake_is_named_at_its_place(case: str, models: Path) -> None:
    old, new, wanted = BAD[case]
    assert old in GOOD
    found = mistakes(models, GOOD.replace(old, new))
    assert len(found) == len(wanted), found
    for code, place, part in wanted:
        assert any(c == code and part in message and (":" not in place or p == place) for c, p, message in found), found


@pytest.mark.parametrize(
    ("text", "code", "hint"),
    [
        ("", "AS113", "begin with `merge_method: ...`"),
        ("- a\n- b\n", "AS113", "begin with `merge_method: ...`"),
        (GOOD.replace("base_model:", "base:"), "AS690", "did you mean 'base_model'?"),
        (GOOD.replace("merge_method:", "method:"), "AS690", "did you mean 'merge_method'?"),
    ],
)
def test_what_to_write_instead_is_of_merges(text: str, code: str, hint: str, tmp_path: Path) -> None:
    (tmp_path / "merge.yaml").write_text(text)
    with pytest.raises(ArchspecError) as caught:
        load_merge(tmp_path / "merge.yaml")
    assert any(d.code == code and hint in " ".join(d.hints) for d in caught.value.diagnostics)


def test_all_mistakes_are_told_at_once(models: Path) -> None:
    text = GOOD.replace("density: 0.5", "density: 5").replace("weight: 0.5", "wieght: 0.5").replace("lambda", "lamda")
    assert [code for code, _, _ in mistakes(models, text)] == ["AS692", "AS693", "AS690", "AS690"]


def test_what_lacks_a_method_is_read_all_the_same(models: Path) -> None:
    assert [message for _, _, message in mistakes(models, "archspec: 1\nname: a\n")] == [
        "unknown key 'archspec'",
        "no merge_method",
        "no models",
        "unknown key 'name'",
    ]
    found = mistakes(
        models, GOOD.replace("ties", "tise").replace("density: 0.5", "density: 5").replace("lambda", "lamda")
    )
    assert [code for code, _, _ in found] == ["AS690", "AS692", "AS690"]


OPPOSED = """merge_method: linear
models: [{model: ./a, parameters: {weight: 0.5}}, {model: ./b, parameters: {weight: [0, -0.5]}}]
"""


def test_a_mean_is_not_over_weights_that_sum_to_nothing(models: Path) -> None:
    assert [(code, place) for code, place, _ in mistakes(models, OPPOSED)] == [("AS692", "2:44")]
    found = load_file(merge(models, OPPOSED + "parameters: {normalize: false}\n") / "model.safetensors")
    name = "model.layers.2.mlp.up_proj.weight"
    torch.testing.assert_close(found[name], (tensors(1)[name] - tensors(2)[name]) / 2, rtol=0, atol=1e-6)


def test_models_that_do_not_fit_are_told_at_once(models: Path) -> None:
    short = {name: tensor for name, tensor in tensors(1).items() if "layers.2." not in name}
    save_file(short, models / "a" / "model.safetensors")
    (models / "a" / "config.json").write_text(json.dumps(CONFIG | {"num_hidden_layers": 2}))
    wide = tensors(2) | {"lm_head.weight": torch.zeros(14, 8), "model.embed_tokens.weight": torch.zeros(14, 8)}
    save_file(wide, models / "b" / "model.safetensors")
    (models / "b" / "config.json").write_text(json.dumps(CONFIG | {"vocab_size": 14}))
    found = mistakes(models, GOOD)
    assert [(code, place) for code, place, _ in found] == [("AS694", "4:12"), ("AS695", "6:12")]
    assert "model.layers.2.mlp.down_proj.weight" in found[0][2]
    assert "lm_head.weight (14, 8), not (12, 8)" in found[1][2]


def test_other_dtypes_and_other_classes_are_refused(models: Path) -> None:
    odd = tensors(1) | {"model.norm.weight": torch.zeros(8, dtype=torch.float64)}
    save_file(odd, models / "a" / "model.safetensors")
    other = CONFIG | {"architectures": ["MistralForCausalLM"], "model_type": "mistral", "sliding_window": None}
    (models / "b" / "config.json").write_text(json.dumps(other))
    assert [code for code, _, _ in mistakes(models, GOOD)] == ["AS696", "AS697"]


def test_gradients_reach_from_the_first_block_to_the_last() -> None:
    depths = depths_of(dict.fromkeys(SHAPES))  # type: ignore[arg-type]
    assert depths["model.embed_tokens.weight"] == 0
    assert [depths[f"model.layers.{i}.mlp.up_proj.weight"] for i in range(3)] == [0, 0.5, 1]
    assert depths["model.norm.weight"] == depths["lm_head.weight"] == 0


def merge(folder: Path, text: str) -> Path:
    (folder / "merge.yaml").write_text(text)
    write_merge(lay_out(load_merge(folder / "merge.yaml"), folder), folder / "out")
    return folder / "out"


def test_sharded_models_give_a_sharded_result(models: Path) -> None:
    whole = load_file(merge(models, GOOD) / "model.safetensors")
    for name in ("base", "a"):
        (models / name / "model.safetensors").unlink()
        found = tensors(0 if name == "base" else 1)
        pieces = [checkpoint.Piece(n, "F32", tuple(t.shape), None, str(len(n) % 3)) for n, t in found.items()]
        with checkpoint.Writer(models / name, checkpoint.shards(pieces, {}, "model")) as writer:
            for key, tensor in found.items():
                writer.put(key, tensor)
    out = merge(models, GOOD)
    assert len(list(out.glob("model-*.safetensors"))) == 3
    assert (out / "model.safetensors.index.json").is_file()
    assert read_folder(out).keys() == whole.keys()
    joined = {name: t for file in out.glob("*.safetensors") for name, t in load_file(file).items()}
    assert all(torch.equal(joined[name], tensor) for name, tensor in whole.items())


def test_plain_transformers_loads_the_result(models: Path) -> None:
    from transformers import AutoModelForCausalLM

    out = merge(models, GOOD)
    model = AutoModelForCausalLM.from_pretrained(out)
    stored = load_file(out / "model.safetensors")
    assert torch.equal(model.model.norm.weight, stored["model.norm.weight"])


def test_repeats_of_tied_tensors_do_not_count(models: Path) -> None:
    for number, name in enumerate(("base", "a", "b")):
        (models / name / "config.json").write_text(json.dumps(CONFIG | {"tie_word_embeddings": True}))
        found = tensors(number)
        found["lm_head.weight"] = found["model.embed_tokens.weight"].clone()
        if name != "a":
            del found["lm_head.weight"]
        save_file(found, models / name / "model.safetensors")
    assert "lm_head.weight" not in load_file(merge(models, GOOD) / "model.safetensors")


def test_the_tokenizer_is_of_the_model_that_is_named(models: Path) -> None:
    for name in ("base", "a", "b"):
        (models / name / "tokenizer.json").write_text(name)
        (models / name / "generation_config.json").write_text(json.dumps({"of": name}))
    out = merge(models, GOOD + "tokenizer_source: ./b\n")
    assert (out / "tokenizer.json").read_text() == "b"
    assert json.loads((out / "generation_config.json").read_text()) == {"of": "base"}
    assert (merge(models, GOOD) / "tokenizer.json").read_text() == "base"


def test_what_no_merge_wrote_is_not_replaced(models: Path) -> None:
    (models / "out").mkdir()
    (models / "out" / "thesis.tex").write_text("")
    with pytest.raises(ArchspecError) as caught:
        merge(models, GOOD)
    assert caught.value.diagnostics[0].code == "AS630"
    assert [path.name for path in (models / "out").iterdir()] == ["thesis.tex"]


def test_the_same_merge_gives_the_same_bytes_and_no_trace_of_failure(
    models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = merge(models, GOOD)
    first = {path.name: path.read_bytes() for path in out.iterdir()}
    merge(models, GOOD)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == first
    shutil.rmtree(out)
    monkeypatch.setattr(checkpoint.Writer, "put_blocks", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        merge(models, GOOD)
    assert not out.exists()
    assert not (models / ".out.partial").exists()
