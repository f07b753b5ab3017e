"""Compiled models in plain transformers: Auto classes, saving, generation with a cache, heads, training."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import archspec

Make = Callable[..., Path]
LOCAL = '  - {replace: "blocks[1].attn", with: {op: local_attention, window: 3}}\n'
LINEAR = '  - {replace: "blocks[2].attn", with: linear_attention}\n'
HYENA = '  - {replace: "blocks[0].attn", with: {op: hyena_x, kernel: 4}, init: random}\n'
EDITS = {
    "nothing": '  - {freeze: "blocks[0]"}\n',
    "operators": HYENA + LOCAL + LINEAR,
    "first": '  - {replace: "blocks[0].attn", with: {op: low_rank, rank: 4}, init: random}\n',
    "convolutions": '  - {replace: "blocks[0].attn", with: hyena_se}\n  - {replace: "blocks[2].attn", with: hyena_y}\n'
    '  - {replace: "blocks[1].mlp", with: {op: hyena_mlp, channels: shared}}\n',
    "mlp": '  - {replace: "blocks[*].mlp", with: {op: mlp, ratio: 1}}\n',
    "parallel": '  - {parallelize: "blocks[0:4]", by: 2, merge: linear}\n',
    "average": '  - {parallelize: "blocks[0:2]", by: 2, merge: average}\n',
    "tied": '  - {repeat: "blocks[1]", times: 3, tie: true}\n',
    "copied": '  - {repeat: "blocks[3]", times: 2}\n',
    "shared": '  - {share: "blocks[1:4].attn"}\n',
    "dropped": '  - {drop: "blocks[0]"}\n',
    "inserted": '  - {insert: "blocks[1]", with: attention, init: random}\n',
    "inserted twice": '  - {insert: "blocks[0] | blocks[3]", with: {op: hyena_x, kernel: 3}, init: random}\n',
    "mixed tokens": '  - {insert: "blocks[1]", with: {op: mix_ffn, ratio: 1}, init: random}\n'
    + '  - {replace: "blocks[2].attn", with: {op: mix_ffn, kernel: 5, gated: true}, init: random}\n',
    "skipped": '  - {skip: "blocks[0:2]", to: "blocks[2:4]", merge: linear, init: random}\n',
    "skipped and more": '  - {skip: "blocks[0]", to: "blocks[3]"}\n'
    + '  - {insert: "blocks[0]", with: {op: mlp, ratio: 1}}\n'
    + LOCAL,
    "all": HYENA
    + LOCAL
    + LINEAR
    + '  - {parallelize: "blocks[0:2]", by: 2}\n  - {repeat: "blocks[3]", times: 2, tie: true}\n',
}
DECODERS = ("tiny_llama", "tiny_mistral", "tiny_qwen2", "tiny_qwen3", "tiny_gpt2")
CASES = [("tiny_llama", edits) for edits in EDITS] + [
    (host, edits) for host in DECODERS[1:4] for edits in ("nothing", "convolutions", "mlp", "skipped and more", "all")
]
CASES += [("tiny_gpt2", edits) for edits in EDITS]
"""All edits on a host of each way of calling blocks, and on the others those that meet what differs
(attention, depth, biases)."""
DEPTHS = {"tiny_gpt2": "n_layer"}
IDS = torch.tensor([[5, 9, 33, 2, 8, 41, 7, 11], [3, 50, 21, 22, 8, 19, 60, 13]])
MASK = torch.ones_like(IDS)


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model(input_ids=IDS, attention_mask=MASK).logits
    return found


@pytest.mark.parametrize(("host", "edits"), CASES)
def test_saved_and_loaded_again_to_the_bit(
    host: str, edits: str, make: Make, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    from transformers import AutoModelForCausalLM

    out = make(request.getfixturevalue(host), EDITS[edits])
    model: Any = archspec.load(out)
    wanted = logits(model)
    assert bool(wanted.isfinite().all())
    auto = AutoModelForCausalLM.from_pretrained(out)
    assert type(auto) is type(model)
    assert (
        type(auto).__name__
        == f"Grafted{json.loads((request.getfixturevalue(host) / 'config.json').read_text())['architectures'][0]}"
    )
    assert torch.equal(logits(auto), wanted)
    auto.save_pretrained(tmp_path / "again")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "again")
    assert torch.equal(logits(again), wanted)
    assert torch.equal(logits(archspec.load(tmp_path / "again")), wanted)
    configs = [json.loads((folder / "config.json").read_text()) for folder in (out, tmp_path / "again")]
    for key in ("model_type", "architectures", DEPTHS.get(host, "num_hidden_layers"), "archspec"):
        assert configs[0][key] == configs[1][key]


@pytest.mark.parametrize(("host", "edits"), CASES)
def test_generating_with_a_cache_is_generating_without(
    host: str, edits: str, make: Make, request: pytest.FixtureRequest
) -> None:
    model: Any = archspec.load(make(request.getfixturevalue(host), EDITS[edits]))
    with torch.no_grad():
        for parameter in model.parameters():  # far from ties between tokens
            parameter.mul_(1.5)
    told = {"input_ids": IDS, "attention_mask": MASK, "do_sample": False, "pad_token_id": 0}
    told |= {"max_new_tokens": 12, "min_new_tokens": 12}
    with_cache, without = (model.generate(**told, use_cache=use) for use in (True, False))
    assert torch.equal(with_cache, without)
    assert with_cache.shape == (2, 20)


@pytest.mark.parametrize("name", DECODERS)
def test_the_same_host_unedited_is_the_host(name: str, make: Make, request: pytest.FixtureRequest) -> None:
    from transformers import AutoModelForCausalLM

    folder = request.getfixturevalue(name)
    host = AutoModelForCausalLM.from_pretrained(folder)
    assert torch.equal(logits(archspec.load(make(folder, EDITS["nothing"]))), logits(host))


@pytest.mark.parametrize("name", DECODERS)
def test_the_host_grafted_onto_itself_is_the_host(name: str, make: Make, request: pytest.FixtureRequest) -> None:
    from transformers import AutoModelForCausalLM

    folder = request.getfixturevalue(name)
    host = AutoModelForCausalLM.from_pretrained(folder)
    edits = '  - {replace: "blocks[*].attn", with: attention}\n  - {replace: "blocks[*].mlp", with: mlp}\n'
    assert torch.equal(logits(archspec.load(make(folder, edits))), logits(host))


def test_the_base_model_without_its_head(tiny_llama: Path, make: Make, tmp_path: Path) -> None:
    from transformers import AutoModel

    out = make(tiny_llama, EDITS["all"])
    whole: Any = archspec.load(out)
    body = AutoModel.from_pretrained(out)
    assert type(body) is archspec.GraftedLlamaModel
    with torch.no_grad():
        wanted = whole.model(input_ids=IDS).last_hidden_state
        assert torch.equal(body(input_ids=IDS).last_hidden_state, wanted)
        body.save_pretrained(tmp_path / "body")
        again = AutoModel.from_pretrained(tmp_path / "body")
        assert torch.equal(again(input_ids=IDS).last_hidden_state, wanted)


def test_another_head_on_a_grafted_body(tiny_llama: Path, make: Make) -> None:
    from transformers import AutoModelForSequenceClassification

    out = make(tiny_llama, EDITS["all"])
    model = AutoModelForSequenceClassification.from_pretrained(out, num_labels=3)
    assert type(model) is archspec.GraftedLlamaForSequenceClassification
    whole: Any = archspec.load(out)
    assert torch.equal(model.model.layers[0].merge.weight, whole.model.layers[0].merge.weight)


def test_the_config_tells_host_and_result(tiny_llama: Path, make: Make, tmp_path: Path) -> None:
    from transformers import AutoConfig

    out = make(tiny_llama, EDITS["tied"])
    config = AutoConfig.from_pretrained(out)
    assert type(config) is archspec.GraftedLlamaConfig
    assert config.model_type == "llama"
    assert config.num_hidden_layers == 6
    assert config.archspec["base"] == {"num_hidden_layers": 4}
    config.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["model_type"] == "archspec"
    assert pickle.loads(pickle.dumps(config)).to_dict() == config.to_dict()


def test_building_twice_from_one_config_gives_one_depth(tiny_llama: Path, make: Make) -> None:
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(make(tiny_llama, EDITS["dropped"]))
    depths = [len(AutoModelForCausalLM.from_config(config).model.layers) for _ in range(2)]
    assert depths == [3, 3]
    assert config.num_hidden_layers == 3


def test_tied_embeddings_stay_tied(tmp_path: Path, make: Make, tiny_llama: Path) -> None:
    from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(**{**json.loads((tiny_llama / "config.json").read_text()), "tie_word_embeddings": True})
    torch.manual_seed(0)
    LlamaForCausalLM(config).save_pretrained(tmp_path / "tied")
    out = make(tmp_path / "tied", EDITS["all"])
    for model in (archspec.load(out), AutoModelForCausalLM.from_pretrained(out)):
        found: Any = model
        assert found.lm_head.weight is found.model.embed_tokens.weight
    assert torch.equal(logits(archspec.load(out)), logits(AutoModelForCausalLM.from_pretrained(out)))


def test_linked_files_load_in_silence(tiny_llama: Path, make: Make, caplog: pytest.LogCaptureFixture) -> None:
    import transformers
    from transformers import AutoModelForCausalLM

    out = make(tiny_llama, EDITS["operators"], link=True)
    assert (out / "model.safetensors.index.json").exists()
    transformers.utils.logging.enable_propagation()
    try:
        model = AutoModelForCausalLM.from_pretrained(out)
    finally:
        transformers.utils.logging.disable_propagation()
    assert "UNEXPECTED" not in caplog.text
    assert "MISSING" not in caplog.text
    assert torch.equal(logits(model), logits(archspec.load(make(tiny_llama, EDITS["operators"]))))


def test_a_host_of_no_family(tiny_plain: Path, make: Make, tmp_path: Path) -> None:
    from transformers import AutoModel

    edits = "  - {replace: '\"layers.*.mlp\"', with: {op: low_rank, rank: 4}, init: random}\n"
    out = make(tiny_plain, edits)
    pixels = {"pixel_values": torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))}
    model: Any = archspec.load(out)
    auto = AutoModel.from_pretrained(out)
    assert type(auto) is type(model)
    with torch.no_grad():
        wanted = model(**pixels).last_hidden_state
        assert torch.equal(auto(**pixels).last_hidden_state, wanted)
        auto.save_pretrained(tmp_path / "again")
        again = AutoModel.from_pretrained(tmp_path / "again")
        assert torch.equal(again(**pixels).last_hidden_state, wanted)


def test_gradient_checkpointing_gives_the_same_gradients(tiny_llama: Path, make: Make) -> None:
    model: Any = archspec.load(make(tiny_llama, EDITS["all"])).train()

    def gradients() -> dict[str, torch.Tensor]:
        model.zero_grad()
        model(input_ids=IDS, labels=IDS, use_cache=False).loss.backward()
        return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}

    wanted = gradients()
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    found = gradients()
    assert found.keys() == wanted.keys()
    for name, gradient in wanted.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-7)


ORDERS = {
    "archspec first": "import archspec; from transformers import AutoModelForCausalLM, AutoConfig",
    "transformers first": "from transformers import AutoModelForCausalLM, AutoConfig; import archspec",
    "between": "from transformers import AutoConfig; import archspec; from transformers import AutoModelForCausalLM",
}


@pytest.mark.slow
@pytest.mark.parametrize("order", ORDERS)
def test_any_order_of_imports(tiny_llama: Path, make: Make, order: str) -> None:
    out = make(tiny_llama, EDITS["dropped"])
    code = f"{ORDERS[order]}; AutoConfig.from_pretrained({str(out)!r})"
    code += f"; print(type(AutoModelForCausalLM.from_pretrained({str(out)!r})).__name__)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert found.stdout.strip() == "GraftedLlamaForCausalLM", found.stderr


def test_without_archspec_transformers_refuses_by_name(tiny_llama: Path, make: Make) -> None:
    out = make(tiny_llama, EDITS["dropped"])
    code = f"from transformers import AutoConfig; AutoConfig.from_pretrained({str(out)!r})"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert found.returncode != 0
    assert "archspec" in found.stderr


def test_the_finder_leaves_when_it_is_done() -> None:
    from archspec import hook

    import_line = "import transformers.models.auto.configuration_auto"
    count = "sum(type(f).__module__ == 'archspec.hook' for f in sys.meta_path)"
    code = f"import sys, archspec; print({count}); {import_line}; print({count})"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.split() == ["1", "0"]
    before = list(sys.meta_path)
    hook.install()
    assert sys.meta_path == before
