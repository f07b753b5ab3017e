"""Packs of weights that share a tensor, and of tensors that are kept as (inputs, outputs)."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

import archspec
from archspec.compiler.packing.pack import pack_spec
from archspec.diagnostics import ArchspecError, Collector
from archspec.families import describe
from archspec.host.excerpt import Excerpt
from archspec.language.parse import load
from archspec.packs.header import read_pack
from archspec.packs.terms import Within, size_of
from archspec.runtime.packs.export import export_lora
from archspec.runtime.packs.reading import open_pack
from archspec.semantics.packs import planned
from archspec.semantics.rules import assigned
from tests.packs import WEIGHTS, packed, rules, tuned_from, weights

WIDTH = 32
FUSED, OUT = "transformer.h.1.attn.c_attn.weight", "transformer.h.1.attn.c_proj.weight"


@pytest.fixture(scope="module")
def shop(tiny_gpt2: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shop")
    tuned_from(tiny_gpt2, folder / "tuned")
    (folder / "base").symlink_to(tiny_gpt2)
    ids = torch.randint(0, 64, (40, 12), generator=torch.Generator().manual_seed(0))
    (folder / "tokens.jsonl").write_text("".join(json.dumps({"input_ids": row}) + "\n" for row in ids.tolist()))
    return folder


def delta(shop: Path, name: str) -> Tensor:
    return weights(shop / "tuned")[name].float() - weights(shop / "base")[name].float()


def divided(first: str) -> str:
    return f"tuned: tuned, rules: [{{of: attn, weights: [v], store: {first}}}, "


def test_a_rule_names_one_of_three_weights_in_a_tensor(shop: Path) -> None:
    """v keeps everything, q and k three triplets; the rest of the rules name whole tensors."""
    every = rules(shop / "base", "[none]", attn="[{op: svd, rank: 3}]").removeprefix("rules: [")
    made, path = packed(shop, shop / "base", f"{{{divided('[{op: dense, dtype: F32}]')}{every}}}")
    change, wanted = made.header.tensors[FUSED], delta(shop, FUSED)
    assert all(isinstance(term, Within) for term in change.terms)
    assert len(change.terms) == 3  # q, k and v, each by itself
    found = open_pack(path).delta(FUSED)
    assert torch.equal(found[:, 2 * WIDTH :], wanted[:, 2 * WIDTH :])
    for part in (slice(0, WIDTH), slice(WIDTH, 2 * WIDTH)):
        assert torch.linalg.matrix_rank(found[:, part]) == 3
        assert 0 < (found[:, part] - wanted[:, part]).norm() < 0.6 * wanted[:, part].norm()
    assert change.error == pytest.approx(float((found - wanted).norm()), rel=1e-5)
    assert not isinstance(made.header.tensors[OUT].terms[0], Within)
    assert made.header.size == sum(size_of(t, c.shape) for c in made.header.tensors.values() for t in c.terms)
    assert read_pack(path)[0] == made.header


def test_a_pack_with_excerpts_is_of_format_2_and_others_are_not(shop: Path) -> None:
    from archspec.packs.header import metadata_of

    every = rules(shop / "base").removeprefix("rules: [")
    _, cut = packed(shop, shop / "base", f"{{{divided('[sign]')}{every}}}", "cut")
    _, whole = packed(shop, shop / "base", f"{{tuned: tuned, rules: [{every}}}", "whole")
    assert [json.loads(metadata_of(path)["skillpack"])["format"] for path in (cut, whole)] == [2, 1]


def test_weights_that_no_rule_names_share_the_budget_each_by_itself(shop: Path) -> None:
    made, path = packed(shop, shop / "base", f"{{{divided('[none]')[:-2]}], budget: 40%}}")
    found, change = open_pack(path).delta(FUSED), made.header.tensors[FUSED]
    assert not found[:, 2 * WIDTH :].any()
    assert found[:, :WIDTH].any()
    assert found[:, WIDTH : 2 * WIDTH].any()
    assert [term.of.start for term in change.terms if isinstance(term, Within)] == [0, WIDTH]
    assert made.size <= 0.4 * made.whole


@pytest.mark.parametrize("step", ["sign", "{op: svd, energy: 0.9, bits: 4}", "{op: quantize, bits: 3}", "dense"])
def test_a_part_that_does_not_differ_takes_nothing(shop: Path, tmp_path: Path, step: str) -> None:
    """Of the tensor, v alone was tuned."""
    changed = weights(shop / "base")
    changed[FUSED][:, 2 * WIDTH :] += 0.1
    shutil.copytree(shop / "base", tmp_path / "tuned")
    save_file(changed, tmp_path / "tuned" / WEIGHTS, {"format": "pt"})
    rule = f"{{of: attn, weights: [q, v], store: [{step}]}}"
    made, path = packed(tmp_path, shop / "base", f"{{tuned: tuned, budget: 90%, rules: [{rule}]}}")
    (term,) = made.header.tensors[FUSED].terms
    assert isinstance(term, Within)
    assert term.of.start == 2 * WIDTH
    assert not open_pack(path).delta(FUSED)[:, : 2 * WIDTH].any()


def test_a_model_runs_with_excerpts_beside_its_maps(shop: Path) -> None:
    from transformers import AutoModelForCausalLM

    every = rules(shop / "base", "[sign]", attn="[sign, {op: svd, rank: 2}]").removeprefix("rules: [")
    _, path = packed(shop, shop / "base", f"{{{divided('[{op: svd, rank: 4}]')}{every}}}", "beside")
    model: Any = AutoModelForCausalLM.from_pretrained(shop / "base").eval()
    ids = torch.arange(10)[None]
    found = {}
    for mode in ("weights", "branch"):
        skill = archspec.skills(model, path, mode=mode)
        with torch.no_grad(), skill:
            found[mode] = model(ids).logits
    assert {"transformer.h.1.attn.c_attn", "transformer.h.0.mlp.c_fc"} <= skill._branches.keys()
    assert torch.allclose(found["weights"], found["branch"], atol=1e-5)
    with torch.no_grad():
        assert not torch.allclose(found["weights"], model(ids).logits, atol=1e-3)


def test_planned_says_how_each_weight_is_kept(shop: Path) -> None:
    spec = shop / "plan.yaml"
    spec.write_text(f"name: plan\nbase: base\npack: {{{divided('[sign]')[:-2]}], budget: 9%}}\n", "utf-8")
    rows = {name: told for name, _, told in planned(spec) if name.startswith(FUSED)}
    assert rows == {
        f"{FUSED} (rows 0:32, transposed)": "from the budget, if it differs",
        f"{FUSED} (rows 32:64, transposed)": "from the budget, if it differs",
        f"{FUSED} (rows 64:96, transposed)": "sign",
    }


def test_a_host_with_a_map_for_each_keeps_whole_tensors(tiny_llama: Path, tmp_path: Path) -> None:
    tuned_from(tiny_llama, tmp_path / "tuned")
    first = "{of: 'blocks[1].attn', weights: [v, o], store: [{op: dense, dtype: F32}]}"
    every = rules(tiny_llama, "[none]").removeprefix("rules: [")
    made, _ = packed(tmp_path, tiny_llama, f"{{tuned: tuned, rules: [{first}, {every}}}")
    kept = {name for name, change in made.header.tensors.items() if change.terms}
    assert kept == {f"model.layers.1.self_attn.{name}_proj.weight" for name in "vo"}


def test_a_map_that_reads_two_things_is_divided_by_what_it_reads(tiny_flux: Path, tmp_path: Path) -> None:
    """FLUX's single blocks read attention and MLP through one map: its columns are divided."""
    config = json.loads((tiny_flux / "config.json").read_text())
    spec = tmp_path / "flux.yaml"
    rule = "{of: 'single_blocks[0].mlp', weights: [down], store: [sign]}"
    spec.write_text(f"name: flux\nbase: {tiny_flux}\npack: {{tuned: tuned, budget: 9%, rules: [{rule}]}}\n", "utf-8")
    problems = Collector()
    counts, found = assigned(load(spec).pack.rules, load(spec), describe(config), problems)  # type: ignore[union-attr]
    ((name, parts),) = found.items()
    width = config["num_attention_heads"] * config["attention_head_dim"]
    assert name == "single_transformer_blocks.0.proj_out.weight"
    assert [(part.axis, part.start, part.stop) for part in parts] == [(1, 0, width), (1, width, 5 * width)]
    assert list(counts) == [parts[1]]


@pytest.mark.parametrize(
    ("rule", "told"),
    [
        ("{of: attn, weights: [vv], store: [sign]}", "no weight of 'attn' is called 'vv'"),
        ("{of: mlp, weights: [v], store: [sign]}", "no weight of 'mlp' is called 'v'"),
        ("{of: embed, weights: [q], store: [sign]}", "no weight of 'embed' is called 'q'"),
        ("{of: attn, store: [sign]}, {of: attn, weights: [v], store: [sign]}", "the rule of 'attn' has no effect"),
    ],
)
def test_weights_that_no_site_has_are_told_where_they_are_written(shop: Path, rule: str, told: str) -> None:
    spec = shop / "wrong.yaml"
    spec.write_text(f"name: wrong\nbase: base\npack: {{tuned: tuned, budget: 9%, rules: [{rule}]}}\n", "utf-8")
    with pytest.raises(ArchspecError) as caught:
        pack_spec(spec)
    (found,) = caught.value.diagnostics
    assert (found.code, told in found.message) == ("AS670", True)
    if "is called" in told:
        assert found.primary is not None
        assert found.primary.span.text in ("vv", "v", "q")


CALIBRATE = "calibrate: {data: tokens.jsonl, samples: 16, length: 12}"


def test_transposed_maps_are_calibrated(shop: Path) -> None:
    """Errors of GPT-2's maps are those of outputs: less than those of the pack that goes by weights."""
    from transformers import AutoModelForCausalLM

    every = rules(shop / "base", "[none]", mlp="[{op: svd, rank: 3}]")
    made, path = packed(shop, shop / "base", f"{{tuned: tuned, {every}, {CALIBRATE}}}", "calibrated")
    _, plain = packed(shop, shop / "base", f"{{tuned: tuned, {every}}}", "plain")
    model: Any = AutoModelForCausalLM.from_pretrained(shop / "tuned").eval()
    given: list[Tensor] = []
    model.transformer.h[1].mlp.c_proj.register_forward_pre_hook(lambda _, x: given.append(x[0].flatten(0, 1)))
    rows = [json.loads(line)["input_ids"] for line in (shop / "tokens.jsonl").read_text().splitlines()]
    with torch.no_grad():
        model(torch.tensor(rows))
    name = "transformer.h.1.mlp.c_proj.weight"
    x, tuned, wanted = given[0], weights(shop / "tuned")[name], delta(shop, name)
    lost = [float((x @ (open_pack(p).delta(name) - wanted)).norm() / (x @ tuned).norm()) for p in (path, plain)]
    stated = made.header.tensors[name].outputs
    assert stated is not None
    assert lost[0] == pytest.approx(stated[1], rel=0.2)  # of the 16 examples that it was calibrated on
    assert lost[0] < 0.9 * lost[1]
    (term,) = made.header.tensors[name].terms
    assert isinstance(term, Within)
    assert term.of == Excerpt("", transposed=True)


def test_gptq_rounds_transposed_and_divided_maps(shop: Path) -> None:
    step = "[{op: quantize, bits: 3, method: %s}]"
    lost = {}
    for method in ("nearest", "gptq"):
        every = rules(shop / "base", "[none]", mlp=step % method).removeprefix("rules: [")
        made, _ = packed(shop, shop / "base", f"{{{divided(step % method)}{every}, {CALIBRATE}}}", method)
        lost[method] = made.header.tensors["transformer.h.0.mlp.c_fc.weight"].outputs
    assert lost["gptq"] is not None
    assert lost["nearest"] is not None
    assert lost["gptq"][0] == lost["nearest"][0]
    assert lost["gptq"][1] < lost["nearest"][1]


def test_a_lora_of_transposed_maps_goes_in_and_out(shop: Path, tmp_path: Path) -> None:
    """Packed from peft's file and given back to peft: the weights that peft merges are the same each time."""
    from peft import LoraConfig, PeftModel, get_peft_model
    from transformers import AutoModelForCausalLM

    def base() -> Any:
        return AutoModelForCausalLM.from_pretrained(shop / "base")

    targets = ["c_attn", "attn.c_proj"]
    model = get_peft_model(base(), LoraConfig(r=3, lora_alpha=6, target_modules=targets, fan_in_fan_out=True))
    for name, value in model.named_parameters():
        if "lora_" in name:
            value.data = 0.1 * torch.randn(value.shape, generator=torch.Generator().manual_seed(len(name)))
    model.save_pretrained(tmp_path / "lora")
    wanted = {name: value.detach().clone() for name, value in merged(model).items()}
    first = "{of: attn, weights: [q, k, v], store: [{op: svd, rank: 3}]}"
    store = f"rules: [{first}, {{of: attn, store: [{{op: svd, rank: 3}}]}}]"
    made, path = packed(tmp_path, shop / "base", f"{{lora: lora, {store}}}")
    assert isinstance(made.header.tensors[FUSED].terms[0], Within)
    assert made.error < 1e-3
    pack = open_pack(path)
    for name in pack.header.tensors:
        assert torch.allclose(pack.delta(name), wanted[name] - weights(shop / "base")[name], atol=1e-4)
    found = export_lora(pack, tmp_path / "out")
    assert found.error < 1e-6
    again = merged(PeftModel.from_pretrained(base(), tmp_path / "out"))
    for name in pack.header.tensors:
        assert torch.allclose(again[name], weights(shop / "base")[name] + pack.delta(name), atol=1e-5)


def merged(model: Any) -> dict[str, Tensor]:
    found: dict[str, Tensor] = model.merge_and_unload().state_dict()
    return found
