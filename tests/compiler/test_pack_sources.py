"""LoRA of peft and files of BitDelta as sources of packs, and packs as LoRA for peft."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from archspec.diagnostics import FEW, ArchspecError
from archspec.runtime.packs.export import export_lora
from archspec.runtime.packs.reading import Pack, open_pack
from tests.packs import packed, tuned_from, weights

QUERY = "encoder.layer.1.attention.self.query.weight"


@pytest.fixture(scope="module")
def lora(tiny_encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LoRA that peft wrote: another rank and alpha for the MLP's first map, all factors random."""
    from peft import LoraConfig, get_peft_model
    from transformers import BertModel

    config = LoraConfig(
        r=4,
        lora_alpha=6,
        target_modules=["query", "intermediate.dense"],
        rank_pattern={"intermediate.dense": 2},
        alpha_pattern={"intermediate.dense": 8},
    )
    model = get_peft_model(BertModel.from_pretrained(tiny_encoder), config)
    generator = torch.Generator().manual_seed(0)
    for name, value in model.named_parameters():
        if "lora_" in name:
            value.data = 0.1 * torch.randn(value.shape, generator=generator)
    folder = tmp_path_factory.mktemp("lora") / "lora"
    model.save_pretrained(folder)
    return folder


def merged(base: Path, lora: Path) -> dict[str, Tensor]:
    """Return the weights of a model that peft has merged a LoRA into."""
    from peft import PeftModel
    from transformers import BertModel

    found: Any = PeftModel.from_pretrained(BertModel.from_pretrained(base), lora)
    state: dict[str, Tensor] = found.merge_and_unload().state_dict()
    return state


def test_a_lora_is_packed_as_its_product(tiny_encoder: Path, lora: Path, tmp_path: Path) -> None:
    rules = "rules: [{of: attn, store: [{op: svd, rank: 4}]}, {of: mlp, store: [{op: svd, rank: 2}]}]"
    made, path = packed(tmp_path, tiny_encoder, f"{{lora: {lora}, {rules}}}")
    assert made.error < 1e-3
    base, wanted, pack = weights(tiny_encoder), merged(tiny_encoder, lora), open_pack(path)
    assert len(pack.header.tensors) == 8
    for name in pack.header.tensors:
        delta = wanted[name] - base[name]
        assert (pack.delta(name) - delta).norm() < 1e-3 * delta.norm()


def test_a_lora_that_is_a_file_is_told(tiny_encoder: Path, tmp_path: Path) -> None:
    (tmp_path / "lora").write_text("not a folder")
    with pytest.raises(ArchspecError, match=r"AS610.*'lora' is a file, and a LoRA of peft is a folder"):
        packed(tmp_path, tiny_encoder, "{lora: lora, budget: 50%}")


def test_a_tuned_model_that_is_not_there_is_told_at_its_name(tiny_encoder: Path, tmp_path: Path) -> None:
    with pytest.raises(ArchspecError, match=r"skill\.yaml:3:15.*AS600.*'\./nothere'"):
        packed(tmp_path, tiny_encoder, "{tuned: ./nothere, budget: 50%}")


def test_a_pack_exported_for_peft_is_the_pack(tiny_encoder: Path, lora: Path, tmp_path: Path) -> None:
    attn, mlp = "[{op: svd, bands: [[1, 8], [3, 4]]}]", "[{op: svd, rank: 2, bits: 3}]"
    rules = f"rules: [{{of: attn, store: {attn}}}, {{of: mlp, store: {mlp}}}]"
    _, path = packed(tmp_path, tiny_encoder, f"{{lora: {lora}, {rules}}}")
    pack = open_pack(path)
    found = export_lora(pack, tmp_path / "out")
    assert found.error < 1e-6
    assert found.left_out == ()
    base, wanted = weights(tiny_encoder), merged(tiny_encoder, tmp_path / "out")
    for name in pack.header.tensors:
        assert torch.allclose(base[name] + pack.delta(name), wanted[name], atol=1e-6)
    exact = "rules: [{of: attn, store: [{op: dense, dtype: F32}]}, {of: mlp, store: [{op: dense, dtype: F32}]}]"
    _, again = packed(tmp_path / "again", tiny_encoder, f"{{lora: {tmp_path / 'out'}, {exact}}}")
    for name in pack.header.tensors:
        assert torch.allclose(open_pack(again).delta(name), pack.delta(name), atol=1e-7)


@pytest.fixture(scope="module")
def mixed(tiny_encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Pack:
    tuned = tuned_from(tiny_encoder, tmp_path_factory.mktemp("mixed") / "tuned")
    _, path = packed(tmp_path_factory.mktemp("mixed"), tiny_encoder, f"{{tuned: {tuned}, budget: 50%}}")
    return open_pack(path)


def test_what_no_lora_holds_is_refused_unless_told(mixed: Pack, tmp_path: Path) -> None:
    with pytest.raises(ArchspecError) as caught:
        export_lora(mixed, tmp_path / "out")
    assert [found.code for found in caught.value.diagnostics] == ["AS676", "AS676"]
    assert not (tmp_path / "out").exists()
    errors = [export_lora(mixed, tmp_path / str(rank), rank, partial=True).error for rank in (2, 8, 32)]
    assert errors[0] > errors[1] > errors[2]
    assert errors[2] < 1e-5


def test_modules_that_a_lora_holds_whole_are_told_once_each(tiny_encoder: Path, lora: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(lora, other)
    tensors = load_file(lora / "adapter_model.safetensors")
    start = "base_model.model."
    whole = (f"{start}pooler.dense.weight", f"{start}pooler.dense.bias")
    embedding = (f"{start}embeddings.word_embeddings.lora_embedding_{side}" for side in "AB")
    tensors |= {name: torch.zeros(2, 2) for name in (*whole, *embedding)}
    save_file(tensors, other / "adapter_model.safetensors")
    with pytest.raises(ArchspecError) as caught:
        packed(tmp_path, tiny_encoder, f"{{lora: {other}, budget: 50%}}")
    told = [(found.message.split("'")[1], found.hints[0]) for found in caught.value.diagnostics]
    hint = "merge it, and pack the tuned model"
    assert told == [("embeddings.word_embeddings", hint), ("pooler.dense", hint)]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"peft_type": "LOHA"}, "is 'LOHA', not a plain LoRA"),
        ({"use_dora": True}, "is a LoRA with 'use_dora', not a plain LoRA"),
        ({"alora_invocation_tokens": [1]}, "is a LoRA with 'alora_invocation_tokens'"),
        ({"init_lora_weights": "pissa_niter_4"}, "began as 'pissa_niter_4', which takes a part out of the base"),
        ({"alpha_pattern": {"(": 1}}, "alphas of the LoRA cannot be read"),
        ({"alpha_pattern": [1]}, "alphas of the LoRA cannot be read"),
        ({"lora_alpha": "much"}, "alphas of the LoRA cannot be read"),
    ],
)
def test_other_adapters_are_refused(tiny_encoder: Path, lora: Path, tmp_path: Path, change: Any, said: str) -> None:
    other = tmp_path / "other"
    other.mkdir()
    save_file(load_file(lora / "adapter_model.safetensors"), other / "adapter_model.safetensors")
    config = json.loads((lora / "adapter_config.json").read_text()) | change
    (other / "adapter_config.json").write_text(json.dumps(config))
    with pytest.raises(ArchspecError, match=f"AS682.*{said}"):
        packed(tmp_path / "p", tiny_encoder, f"{{lora: {other}, budget: 50%}}")


def test_the_adapter_of_pissa_is_not_what_tuning_changed(tiny_encoder: Path, tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model
    from transformers import BertModel

    config = LoraConfig(r=4, target_modules=["query"], init_lora_weights="pissa")
    get_peft_model(BertModel.from_pretrained(tiny_encoder), config).save_pretrained(tmp_path / "lora")
    with pytest.raises(ArchspecError, match=r"AS682.*'pissa'"):
        packed(tmp_path / "p", tiny_encoder, f"{{lora: {tmp_path / 'lora'}, budget: 50%}}")


def test_rank_stabilized_loras_have_their_own_scale(tiny_encoder: Path, lora: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    save_file(load_file(lora / "adapter_model.safetensors"), other / "adapter_model.safetensors")
    config = json.loads((lora / "adapter_config.json").read_text())
    exact = "rules: [{of: attn, store: [{op: dense, dtype: F32}]}, {of: mlp, store: [{op: dense, dtype: F32}]}]"
    deltas = []
    for use in (False, True):
        (other / "adapter_config.json").write_text(json.dumps(config | {"use_rslora": use}))
        _, path = packed(tmp_path / str(use), tiny_encoder, f"{{lora: {other}, {exact}}}")
        deltas.append(open_pack(path).delta(QUERY))
        wanted = merged(tiny_encoder, other)[QUERY] - weights(tiny_encoder)[QUERY]
        assert torch.allclose(deltas[-1], wanted, atol=1e-6)
    assert torch.allclose(deltas[1], 2 * deltas[0])  # sqrt(4)


def test_factors_that_do_not_fit_are_refused(tiny_encoder: Path, lora: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    tensors = load_file(lora / "adapter_model.safetensors")
    first = f"base_model.model.{QUERY.removesuffix('.weight')}.lora_A.weight"
    save_file(tensors | {first: torch.zeros(4, 48)}, other / "adapter_model.safetensors")
    (other / "adapter_config.json").write_text((lora / "adapter_config.json").read_text())
    with pytest.raises(ArchspecError, match=r"AS682.*are \(4, 48\) and \(32, 4\); the base's tensor is \(32, 32\)"):
        packed(tmp_path / "p", tiny_encoder, f"{{lora: {other}, budget: 50%}}")


def test_a_lora_of_another_model_is_refused(tiny_llama: Path, lora: Path, tmp_path: Path) -> None:
    with pytest.raises(ArchspecError, match=r"AS682.*adds to no tensor of the base") as caught:
        packed(tmp_path, tiny_llama, f"{{lora: {lora}, budget: 50%}}")
    assert len(caught.value.diagnostics) == FEW + 1
    assert "more tensors of the LoRA" in caught.value.diagnostics[-1].message


def bitdelta(base: dict[str, Tensor], tuned: dict[str, Tensor], names: list[str]) -> dict[str, Tensor]:
    """Return the file that BitDelta would save: 32 signs of one output in an int32, low bit first, zero counts as +."""
    found: dict[str, Tensor] = {}
    for name in names:
        diff = tuned[name] - base[name]
        bits = (diff >= 0).T.reshape(-1, 32, diff.shape[0]).to(torch.int64)
        words = (bits << torch.arange(32)[None, :, None]).sum(1)
        module = name.removesuffix(".weight")
        found[f"{module}.mask"] = torch.where(words >= 2**31, words - 2**32, words).to(torch.int32)
        found[f"{module}.coeff"] = diff.abs().mean()
    return found


def test_a_file_of_bitdelta_is_sign_times_coefficient(tiny_encoder: Path, tmp_path: Path) -> None:
    tuned = tuned_from(tiny_encoder, tmp_path / "tuned")
    before, after = weights(tiny_encoder), weights(tuned)
    state = bitdelta(before, after, [QUERY, "encoder.layer.0.output.dense.weight"])
    state["pooler.dense.bias"] = after["pooler.dense.bias"]  # what trained beside is stored whole
    torch.save(state, tmp_path / "diff.pt")
    sign = "store: [{op: sign, axis: tensor}]"
    rules = f"rules: [{{of: attn, {sign}}}, {{of: mlp, {sign}}}, {{of: bias, store: [{{op: dense, dtype: F32}}]}}]"
    made, path = packed(tmp_path, tiny_encoder, f"{{bitdelta: diff.pt, {rules}}}")
    pack = open_pack(path)
    assert made.error < 1e-6
    wanted = torch.where(after[QUERY] - before[QUERY] < 0, -1.0, 1.0) * state[QUERY.replace("weight", "coeff")]
    assert torch.allclose(pack.delta(QUERY), wanted, rtol=1e-6)
    assert torch.equal(pack.delta("pooler.dense.bias"), after["pooler.dense.bias"] - before["pooler.dense.bias"])
    assert pack.change(QUERY).size == 32 * 32 // 8 + 2


@pytest.mark.parametrize("broken", ["a mask of another shape", "no coefficient", "no mask", "a pickle that runs code"])
def test_broken_files_of_bitdelta_are_refused(tiny_encoder: Path, tmp_path: Path, broken: str) -> None:
    base = weights(tiny_encoder)
    state: dict[str, Any] = dict(bitdelta(base, {QUERY: base[QUERY] + 1}, [QUERY]))
    if broken == "a mask of another shape":
        state[QUERY.replace("weight", "mask")] = torch.zeros(2, 32, dtype=torch.int32)
    elif broken == "no coefficient":
        del state[QUERY.replace("weight", "coeff")]
    elif broken == "no mask":
        state = dict(base)
    else:
        state["x"] = Path
    torch.save(state, tmp_path / "diff.pt")
    with pytest.raises(ArchspecError, match=r"AS682|AS650"):
        packed(tmp_path, tiny_encoder, "{bitdelta: diff.pt, budget: 50%}")
