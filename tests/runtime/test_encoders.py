"""Encoders of text and of images: compiled, loaded in plain transformers, taught by their plans."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

import archspec
from archspec.compiler.driver import compile_spec, prepare
from archspec.diagnostics import ArchspecError, Severity
from archspec.runtime.execution.execute import execute, read_plan
from archspec.runtime.execution.workspace import Workspace
from archspec.runtime.objectives import Classification, Features, MaskedToken, make_objective
from archspec.runtime.store.home import home

Make = Callable[..., Path]
WORDS = [f"w{n}" for n in range(40)]
EDITS = {
    "mixers": '  - {replace: "blocks[0].attn", with: {op: local_attention, window: 3}}\n'
    '  - {replace: "blocks[2].attn", with: linear_attention}\n',
    "grouped": '  - {replace: "blocks[*].attn", with: {op: attention, kv_heads: 1}}\n',
    "mlps": '  - {replace: "blocks[1].mlp", with: {op: mlp, ratio: 1}}\n'
    '  - {replace: "blocks[3].mlp", with: {op: moe, experts: 4, top_k: 2}}\n',
    "low rank": '  - {replace: "blocks[*].attn | blocks[*].mlp", with: {op: low_rank, rank: 5}}\n',
    "shared": '  - {share: "blocks[1:4].attn"}\n  - {share: "blocks[0:2].mlp"}\n',
    "replaced and shared": '  - {replace: "blocks[1:3].mlp", with: mlp}\n  - {share: "blocks[1:3].mlp"}\n',
    "pairs": '  - {replace: "blocks[0].attn", with: attention}\n  - {parallelize: "blocks[*]", by: 2}\n',
    "repeated": '  - {replace: "blocks[1].mlp", with: mlp}\n  - {repeat: "blocks[1]", times: 3}\n',
    "dropped and inserted": '  - {drop: "blocks[0]"}\n'
    '  - {insert: "blocks[2]", with: {op: mlp, ratio: 1}, init: random}\n',
    "inserted mixers": '  - {insert: "blocks[1]", with: {op: local_attention, window: 3}, init: random}\n'
    '  - {insert: "blocks[2]", with: {op: mix_ffn, ratio: 1, causal: false}, init: random}\n',
    "nothing": '  - {freeze: "blocks[0].attn"}\n',
}


def sentences() -> dict[str, Tensor]:
    """Two texts, the second padded on the right."""
    ids = torch.randint(5, 64, (2, 12), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    mask[1, 7:] = 0
    return {"input_ids": ids, "attention_mask": mask}


def images() -> dict[str, Tensor]:
    return {"pixel_values": torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))}


HOSTS: dict[str, tuple[str, Callable[[], dict[str, Tensor]]]] = {
    "tiny_bert": ("AutoModelForMaskedLM", sentences),
    "tiny_encoder": ("AutoModel", sentences),
    "tiny_vit": ("AutoModelForImageClassification", images),
}


def answer(model: Any, inputs: dict[str, Tensor]) -> Tensor:
    with torch.no_grad():
        found: Tensor = model.eval()(**inputs)[0]
    return found


@pytest.mark.parametrize("edits", EDITS)
@pytest.mark.parametrize("host", HOSTS)
def test_saved_and_loaded_again_to_the_bit(
    host: str, edits: str, make: Make, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    import transformers

    name, inputs = HOSTS[host]
    auto, folder = getattr(transformers, name), request.getfixturevalue(host)
    out = make(folder, EDITS[edits])
    model: Any = auto.from_pretrained(out)
    wanted = answer(model, inputs())
    assert bool(wanted.isfinite().all())
    assert torch.equal(answer(archspec.load(out), inputs()), wanted)
    model.save_pretrained(tmp_path / "again")
    assert torch.equal(answer(auto.from_pretrained(tmp_path / "again"), inputs()), wanted)
    same = torch.equal(answer(auto.from_pretrained(folder), inputs()), wanted)
    assert same == (edits == "nothing")


@pytest.mark.parametrize("edits", ["mixers", "grouped", "mlps", "low rank", "inserted mixers"])
def test_padding_changes_nothing(edits: str, make: Make, tiny_encoder: Path) -> None:
    model, both = archspec.load(make(tiny_encoder, EDITS[edits])), sentences()
    alone = answer(model, {name: value[1:, :7] for name, value in both.items()})
    torch.testing.assert_close(answer(model, both)[1:, :7], alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("edits", ["mixers", "inserted mixers"])
def test_masked_patches_are_not_seen(edits: str, make: Make, tiny_vit: Path) -> None:
    """transformers passes the mask of an image by place."""
    model, both, mask = archspec.load(make(tiny_vit, EDITS[edits])), images(), torch.ones(2, 17, dtype=torch.long)
    mask[:, 9:] = 0
    first = answer(model, {**both, "attention_mask": mask})
    pixels = both["pixel_values"].clone()
    pixels[:, :, 8:] += 1.0  # of patches 8 to 15, tokens 9 to 16
    torch.testing.assert_close(answer(model, {"pixel_values": pixels, "attention_mask": mask}), first)
    assert (answer(model, {"pixel_values": pixels}) - answer(model, both)).abs().max() > 1e-3


def test_a_sites_second_module_becomes_the_identity(make: Make, tiny_bert: Path) -> None:
    model = archspec.load(make(tiny_bert, EDITS["mlps"]))
    assert type(model.get_submodule("bert.encoder.layer.1.output.dense")).__name__ == "Identity"
    assert type(model.get_submodule("bert.encoder.layer.0.output.dense")).__name__ == "Linear"
    assert "bert.encoder.layer.1.output.dense.weight" not in model.state_dict()


def with_tokenizer(folder: Path, home: Path) -> Path:
    """Return a copy of a host with a tokenizer of a few words."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(special + WORDS)}, "[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    names = {f"{token[1:-1].lower()}_token": token for token in special}
    copy = Path(shutil.copytree(folder, home / folder.name))
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names).save_pretrained(copy)
    return copy


def write_texts(file: Path, count: int = 120) -> None:
    """Write texts of one to fourteen words, each word the successor of the one before."""
    draws = torch.Generator().manual_seed(0)
    starts, lengths = (torch.randint(1, most, (count,), generator=draws).tolist() for most in (40, 15))
    lines = [
        " ".join(WORDS[(start + n) % 40] for n in range(length)) for start, length in zip(starts, lengths, strict=True)
    ]
    file.write_text("\n".join(lines))


def taught(tmp_path: Path, host: Path, data: str, stages: str) -> tuple[Path, list[dict[str, Any]]]:
    """Compile and run a plan; return the folder and the report of every task."""
    spec = f"archspec: 1\nname: t\nbase: {host}\ndata: {data}\nedits:\n"
    init = "init: {kind: least_squares, samples: 256}"
    edits = (
        f"  - {{replace: 'blocks[1:3].mlp', with: {{op: mlp, ratio: 1}}, {init}}}\n"
        f"  - {{replace: 'blocks[3].mlp', with: {{op: moe, experts: 4, top_k: 2}}, {init}}}\n"
        f"  - {{replace: 'blocks[0].attn', with: linear_attention, {init}}}\n"
    )
    (tmp_path / "spec.yaml").write_text(spec + edits + stages)
    out = compile_spec(tmp_path / "spec.yaml", tmp_path / "out").out
    assert execute(out, device="cpu").complete
    workspace = Workspace(out)
    return out, [workspace.report(task.key) for task in read_plan(out).tasks]


DISTILL = "distill: {samples: 96, epochs: 2, batch: 16, lr: 1e-3}\n"
TUNE = "finetune: {steps: 6, batch: 8, distill_weight: 1, lr: 1e-4, ema: null}\n"


def assert_learned(reports: list[dict[str, Any]]) -> None:
    assert [r["kind"] for r in reports] == ["fit"] * 4 + ["regress"] * 4 + ["finetune"]
    outcomes = [report["outcomes"][0] for report in reports[:4]]
    assert sum(o["after"] < 0.98 * o["before"] for o in outcomes) >= 3


@pytest.mark.parametrize("host", ["tiny_bert", "tiny_encoder"])
def test_a_plan_of_texts(host: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    folder = with_tokenizer(request.getfixturevalue(host), tmp_path / "hosts")
    write_texts(tmp_path / "texts.txt")
    out, reports = taught(tmp_path, folder, "texts.txt", DISTILL + TUNE)
    assert_learned(reports)
    assert read_plan(out).tasks[-1].settings["objective"]["name"] == ("mlm" if host == "tiny_bert" else "features")
    assert bool(answer(archspec.load(out), sentences()).isfinite().all())


def test_a_plan_of_images(tmp_path: Path, tiny_vit: Path) -> None:
    host = Path(shutil.copytree(tiny_vit, tmp_path / "host"))
    drawn = torch.randn(80, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    save_file({"x": drawn, "label": torch.arange(80) % 2}, tmp_path / "images.safetensors")
    _, reports = taught(tmp_path, host, "{from: images.safetensors, kind: latents}", DISTILL + TUNE)
    assert_learned(reports)


def test_finetuning_without_a_head_needs_a_teacher(tmp_path: Path, tiny_encoder: Path) -> None:
    (tmp_path / "texts.txt").write_text("w1")
    text = (
        f"archspec: 1\nname: t\nbase: {tiny_encoder}\ndata: texts.txt\nedits:\n{EDITS['mlps']}finetune: {{steps: 2}}\n"
    )
    (tmp_path / "spec.yaml").write_text(text)
    with pytest.raises(ArchspecError, match="AS235"):
        compile_spec(tmp_path / "spec.yaml", tmp_path / "out")


def test_text_without_a_tokenizer_is_told_by_the_compiler(tmp_path: Path, tiny_encoder: Path, tiny_dit: Path) -> None:
    """At the data's name; a plan says it as a note, since the files may come later."""
    path = tmp_path / "spec.yaml"
    (tmp_path / "texts.txt").write_text("w1")
    for host, hint in ((tiny_encoder, "put the tokenizer's files"), (tiny_dit, "learns from images or latents")):
        path.write_text(f"archspec: 1\nname: t\nbase: {host}\ndata: texts.txt\nedits:\n{EDITS['mlps']}distill: {{}}\n")
        (noted,) = prepare(path).warnings
        assert (noted.code, noted.severity) == ("AS708", Severity.NOTE)
        with pytest.raises(ArchspecError) as caught:
            compile_spec(path, tmp_path / "out")
        (one,) = caught.value.diagnostics
        assert one.primary is not None
        assert one.primary.span is not None
        assert (one.code, one.primary.span.line, one.primary.span.column) == ("AS708", 4, 7)
        assert hint in one.hints[0]
        assert not (tmp_path / "out").exists()


def test_masks_as_bert_does() -> None:
    objective = MaskedToken(mask=4, vocabulary=64, special=(2, 3))
    ids = torch.randint(5, 64, (64, 50), generator=torch.Generator().manual_seed(0))
    ids[:, 0], mask = 2, torch.ones_like(ids)
    mask[:, 40:] = 0
    keywords, target = objective.inputs({"input_ids": ids, "attention_mask": mask}, torch.Generator().manual_seed(1))
    asked = target != objective.ignored
    assert not asked[:, 0].any()
    assert not asked[:, 40:].any()
    assert torch.equal(target[asked], ids[asked])
    assert torch.equal(keywords["input_ids"][~asked], ids[~asked])
    assert float(asked[:, 1:40].float().mean()) == pytest.approx(0.15, abs=0.02)
    shown = keywords["input_ids"][asked]
    assert float((shown == 4).float().mean()) == pytest.approx(0.8, abs=0.06)
    assert float((shown == ids[asked]).float().mean()) == pytest.approx(0.1, abs=0.05)
    right = torch.nn.functional.one_hot(ids, 64).float() * 100
    assert float(objective.loss(right, target)) < 1e-3
    assert float(objective.loss(right, torch.full_like(target, objective.ignored))) == 0.0


def test_objectives_of_encoders(tmp_path: Path, tiny_bert: Path, tiny_encoder: Path, tiny_vit: Path) -> None:
    assert isinstance(make_objective(home(tiny_encoder)), Features)
    assert isinstance(make_objective(home(tiny_vit)), Classification)
    with pytest.raises(ArchspecError, match="AS708"):
        make_objective(home(tiny_bert))
    found = make_objective(home(with_tokenizer(tiny_bert, tmp_path)))
    assert isinstance(found, MaskedToken)
    assert (found.mask, found.vocabulary, set(found.special)) == (4, 64, {0, 1, 2, 3})
    with pytest.raises(ArchspecError, match="needs labels"):
        Classification().inputs({"x": torch.zeros(1)}, torch.Generator())
