"""Slices: blocks of the result are runs of blocks of the models; goldens of mergekit stand in test_golden."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from archspec.compiler.merging.layout import lay_out
from archspec.compiler.merging.write import write_merge
from archspec.diagnostics import ArchspecError
from archspec.language.merging import load_merge
from tests.compiler.merging.golden_cases import CASES, CONFIG, tensors, write_models

STACKED = CASES["slices-stacked"]
MIXED = CASES["slices-mixed"]


@pytest.fixture
def models(tmp_path: Path) -> Path:
    write_models(tmp_path)
    return tmp_path


def merge(folder: Path, text: str) -> Path:
    (folder / "merge.yaml").write_text(text)
    write_merge(lay_out(load_merge(folder / "merge.yaml"), folder), folder / "out")
    return folder / "out"


def test_passthrough_stacks_blocks_bit_by_bit(models: Path) -> None:
    out = merge(models, STACKED)
    found, a, b = load_file(out / "model.safetensors"), tensors(1), tensors(2)
    blocks = [(a, 0), (a, 1), (b, 1), (b, 2), (a, 2)]
    rest = [name.removeprefix("model.layers.0.") for name in a if ".layers.0." in name]
    for index, (source, block) in enumerate(blocks):
        for name in rest:
            assert torch.equal(found[f"model.layers.{index}.{name}"], source[f"model.layers.{block}.{name}"])
    assert len(found) == 5 * len(rest) + 3
    assert torch.equal(found["lm_head.weight"], a["lm_head.weight"])


def test_plain_transformers_loads_what_is_deeper(models: Path) -> None:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(merge(models, STACKED))
    assert len(model.model.layers) == 5
    assert torch.equal(model.model.layers[3].mlp.up_proj.weight, tensors(2)["model.layers.2.mlp.up_proj.weight"])
    assert torch.isfinite(model(torch.arange(6)[None]).logits).all()


def test_kinds_of_blocks_go_with_them(models: Path) -> None:
    for name in "ab":
        kinds = ["full_attention", "sliding_attention", "full_attention"]
        config = CONFIG | {"architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "layer_types": kinds}
        (models / name / "config.json").write_text(json.dumps(config))
    from archspec.compiler.merging.slices import restacked

    assert restacked(config, (0, 1, 1, 2, 2))["layer_types"] == [kinds[i] for i in (0, 1, 1, 2, 2)]


def test_one_slice_of_whole_models_is_the_merge_of_these(models: Path) -> None:
    slices = CASES["slices-whole"]
    whole = slices.partition("slices:")[0] + "models: [{model: ./a}]\nparameters:" + slices.partition("parameters:")[2]
    first = load_file(merge(models, slices) / "model.safetensors")
    second = load_file(merge(models, whole) / "model.safetensors")
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


BAD = {
    "beyond": ("[1, 3]}]", "[1, 4]}]", STACKED, [("AS699", "4:41", "has 3 blocks, not 4")]),
    "backwards": ("[1, 3]}]", "[3, 1]}]", STACKED, [("AS692", "4:41", "is no range")]),
    "no range": (", layer_range: [1, 3]}]", "}]", STACKED, [("AS690", "4:15", "without layer_range")]),
    "misspelt": (
        "layer_range: [1, 3]}]",
        "layers: [1, 3]}]",
        STACKED,
        [("AS690", "", "'layers'"), ("AS690", "", "without")],
    ),
    "sources of one": (
        "[{model: ./b, layer_range: [1, 3]}]",
        "{model: ./b}",
        STACKED,
        [("AS692", "4:14", "a list of {model, layer_range}")],
    ),
    "nothing right": (
        STACKED.partition("slices:")[2].partition("dtype")[0],
        "\n  - sources: {model: ./a}\n  - ./b\n  - sources: [{model: 3, layer_range: 4}]\n",
        STACKED,
        [
            ("AS692", "3:14", "a list of {model, layer_range}"),
            ("AS690", "4:5", "without sources"),
            ("AS690", "", "no model"),
            ("AS692", "", "is no range"),
        ],
    ),
    "uneven": ("[1, 3], par", "[0, 3], par", MIXED, [("AS699", "6:35", "3 blocks beside 2")]),
    "residual": (
        "    parameters: {density",
        "    residual_weight: 1\n    parameters: {density",
        MIXED,
        [("AS691", "", "resid")],
    ),
    "no base": (
        "      - {model: ./base, layer_range: [1, 2]}\n",
        "",
        MIXED,
        [("AS693", "", "without a part of the base")],
    ),
    "no weight": ("{weight: [0.3, 0.6]}", "{}", MIXED, [("AS693", "10:17", "needs 'weight'")]),
    "twice": ("./b, layer_range: [0", "./a, layer_range: [0", MIXED, [("AS690", "", "twice")]),
    "two of one": (
        "sources: [{model: ./b",
        "sources: [{model: ./base, layer_range: [1, 3]}, {model: ./b",
        STACKED,
        [("AS693", "", "takes 1 model, not 2")],
    ),
    "both": ("slices:", "models: [{model: ./a}]\nslices:", STACKED, [("AS690", "", "models and slices")]),
    "no list": (
        STACKED.partition("slices:")[2].partition("dtype")[0],
        " 3\n",
        STACKED,
        [("AS690", "", "list of sources")],
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_a_mistake_is_named_at_its_place(case: str, models: Path) -> None:
    old, new, text, wanted = BAD[case]
    assert old in text
    (models / "merge.yaml").write_text(text.replace(old, new, 1))
    with pytest.raises(ArchspecError) as caught:
        lay_out(load_merge(models / "merge.yaml"), models)
    found = [
        (d.code, str(d.primary.span).rpartition("yaml:")[2], d.message) for d in caught.value.diagnostics if d.primary
    ]
    assert len(found) == len(wanted), found
    for code, place, part in wanted:
        assert any(c == code and part in message and place in ("", p) for c, p, message in found), found


def test_t_of_a_slice_counts_before_that_of_all(models: Path) -> None:
    text = CASES["slices-whole"].replace("parameters:\n", "    parameters: {t: 0}\nparameters:\n", 1)
    found = load_file(merge(models, text) / "model.safetensors")
    assert all(torch.equal(found[name], tensor) for name, tensor in tensors(0).items())
    alone = text.partition("parameters:\n")[0] + "dtype: float32\n"
    assert torch.equal(
        load_file(merge(models, alone) / "model.safetensors")["lm_head.weight"], tensors(0)["lm_head.weight"]
    )
