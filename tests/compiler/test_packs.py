"""Packs as files: what they hold of a tuned model, at what size, and that the same input gives the same bytes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from archspec.compiler.packing.make import Made
from archspec.compiler.packing.pack import pack_budgets
from archspec.diagnostics import ArchspecError, Diagnostic, Severity
from archspec.host.locate import fingerprint
from archspec.packs.header import read_pack
from archspec.packs.terms import size_of
from archspec.runtime.packs.reading import open_pack
from tests.packs import WEIGHTS, packed, rules, tuned_from, weights

EXACT = "rules: [{of: mlp, store: [{op: dense, dtype: F32}]}]"
WORDS, POOLER = "embeddings.word_embeddings.weight", "pooler.dense.bias"


@pytest.fixture(scope="module")
def tuned(tiny_encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tuned_from(tiny_encoder, tmp_path_factory.mktemp("tuned") / "tuned")


@pytest.fixture(scope="module")
def third(tiny_encoder: Path, tuned: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Made, Path]:
    return packed(
        tmp_path_factory.mktemp("third"), tiny_encoder, f"{{tuned: {tuned}, budget: 30%, licence: Apache-2.0}}"
    )


def code(stanza: str, base: Path, folder: Path) -> str:
    """Return the code of the one error that packing ends in; nothing stands under the pack's name then."""
    with pytest.raises(ArchspecError) as caught:
        packed(folder, base, stanza)
    assert not list(folder.glob("*.safetensors"))
    assert not list(folder.glob(".*"))
    assert len(caught.value.diagnostics) == 1
    return f"{caught.value.diagnostics[0].code} {caught.value.diagnostics[0].message}"


def test_what_is_kept_dense_comes_back(tiny_encoder: Path, tuned: Path, tmp_path: Path) -> None:
    exact = rules(tiny_encoder, "[{op: dense, dtype: F32}]")
    made, path = packed(tmp_path, tiny_encoder, f"{{tuned: {tuned}, {exact}}}")
    assert made.error == 0
    base, wanted = weights(tiny_encoder), weights(tuned)
    pack = open_pack(path)
    assert set(pack.header.tensors) == {name for name in wanted if wanted[name].is_floating_point()}
    for name in pack.header.tensors:
        assert torch.equal(pack.delta(name), wanted[name] - base[name])


def test_the_errors_in_the_header_are_those_of_what_is_decoded(
    tiny_encoder: Path, tuned: Path, third: tuple[Made, Path]
) -> None:
    made, path = third
    base, wanted, pack = weights(tiny_encoder), weights(tuned), open_pack(path)
    for name, change in pack.header.tensors.items():
        delta = wanted[name] - base[name]
        assert change.norm == pytest.approx(float(delta.norm()), rel=1e-5)
        assert change.error == pytest.approx(float((delta - pack.delta(name)).norm()), rel=1e-4, abs=1e-7)
    assert 0 < made.error < 0.3


def test_two_builds_are_the_same_bytes(
    tiny_encoder: Path, tuned: Path, tmp_path: Path, third: tuple[Made, Path]
) -> None:
    _, again = packed(tmp_path, tiny_encoder, f"{{tuned: {tuned}, budget: 30%, licence: Apache-2.0}}")
    assert third[1].read_bytes() == again.read_bytes()


def test_packs_of_several_budgets_are_those_made_by_themselves(
    tiny_encoder: Path, tuned: Path, tmp_path: Path, third: tuple[Made, Path]
) -> None:
    stanza = f"{{tuned: {tuned}, budget: 1kB, licence: Apache-2.0}}"
    (tmp_path / "spec.yaml").write_text(f"name: skill\nbase: {tiny_encoder}\npack: {stanza}\n")
    outs = {0.5: tmp_path / "half.safetensors", 0.3: tmp_path / "third.safetensors"}
    half, other = pack_budgets(tmp_path / "spec.yaml", outs)
    assert outs[0.3].read_bytes() == third[1].read_bytes()
    assert other.size < half.size == outs[0.5].stat().st_size <= half.whole / 2
    assert half.error < other.error


@pytest.mark.parametrize("budget", ["20%", "40kB"])
def test_the_file_keeps_to_its_budget(tiny_encoder: Path, tuned: Path, tmp_path: Path, budget: str) -> None:
    made, path = packed(tmp_path, tiny_encoder, f"{{tuned: {tuned}, budget: {budget}}}")
    whole = sum(t.numel() * 4 for t in weights(tiny_encoder).values() if t.is_floating_point())
    limit = 40_000 if budget == "40kB" else float(budget[:-1]) / 100 * whole
    assert made.whole == whole
    assert path.stat().st_size == made.size
    assert 0.9 * limit < made.size <= limit


def test_the_file_is_header_and_the_parts_of_the_formulas(third: tuple[Made, Path]) -> None:
    _, path = third
    header, _ = read_pack(path)
    head = 8 + int.from_bytes(path.read_bytes()[:8], "little")
    terms = sum(size_of(term, change.shape) for change in header.tensors.values() for term in change.terms)
    assert path.stat().st_size == head + terms


def test_errors_fall_as_budgets_rise(tiny_encoder: Path, tuned: Path, tmp_path: Path) -> None:
    errors = [packed(tmp_path / str(b), tiny_encoder, f"{{tuned: {tuned}, budget: {b}%}}")[0].error for b in (20, 60)]
    assert errors == sorted(errors, reverse=True)
    assert errors[0] > 1.5 * errors[-1]


def test_rules_say_how_tensors_are_kept(tiny_encoder: Path, tuned: Path, tmp_path: Path) -> None:
    fixed = (
        "[{of: norm, store: [dense]}, {of: bias, store: [none]}, "
        "{of: 'blocks[0].mlp', store: [{op: quantize, bits: 8}]}, "
        "{of: mlp, store: [sign, {op: svd, rank: 2, bits: 8}]}, "
        "{of: 'blocks[1:3].attn', store: [{op: svd, bands: [[2, 8], [4, 3]]}]}, "
        "{of: attn, store: [{op: svd, energy: 0.9, bits: 8}]}, "
        "{of: embed, store: [{op: prune, keep: 10%}]}]"
    )
    _, path = packed(tmp_path, tiny_encoder, f"{{tuned: {tuned}, budget: 90%, rules: {fixed}}}")
    found = {n: [t.op for t in change.terms] for n, change in open_pack(path).header.tensors.items()}
    assert found["encoder.layer.0.intermediate.dense.weight"] == ["quantized"]
    assert found["encoder.layer.1.intermediate.dense.weight"] == ["quantized", "low_rank"]
    assert found["encoder.layer.1.output.dense.weight"] == ["quantized", "low_rank"]
    assert found["encoder.layer.1.intermediate.dense.bias"] == []
    assert found["encoder.layer.1.attention.self.query.weight"] == ["low_rank"]
    assert found["embeddings.word_embeddings.weight"] == ["sparse"]
    assert found["encoder.layer.3.output.LayerNorm.bias"] == ["dense"]
    term = open_pack(path).header.tensors["encoder.layer.2.attention.output.dense.weight"].terms[0]
    assert getattr(term, "bands") == ((2, 8), (4, 3))  # noqa: B009
    assert open_pack(path).header.tensors["pooler.dense.weight"].terms  # no rule: from the budget


def test_the_header_tells_where_a_pack_comes_from(tiny_encoder: Path, tuned: Path, third: tuple[Made, Path]) -> None:
    _, path = third
    with safe_open(path, framework="pt") as file:
        header = json.loads(file.metadata()["skillpack"])
    assert header["format"] == 1
    assert header["base"]["fingerprint"] == fingerprint(tiny_encoder)
    assert header["base"]["architecture"] == "BertModel"
    assert header["made"]["source"] == {"kind": "tuned", "from": str(tuned)}
    assert header["licence"] == "Apache-2.0"


def test_tied_weights_are_packed_once(tiny_qwen2: Path, tmp_path: Path) -> None:
    base, repeated = tmp_path / "base", tmp_path / "tuned"
    for side, folder in ((tiny_qwen2, base), (tuned_from(tiny_qwen2, tmp_path / "once"), repeated)):
        tuned_from(side, folder, size=0.0)  # a copy
        tensors = weights(side)
        tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
        save_file(tensors, folder / WEIGHTS, {"format": "pt"})
    _, path = packed(tmp_path / "pack", base, f"{{tuned: {repeated}, {rules(base)}}}")
    names = open_pack(path).header.tensors
    assert "model.embed_tokens.weight" in names
    assert "lm_head.weight" not in names


def test_differences_are_of_float32(tiny_encoder: Path, tmp_path: Path) -> None:
    """bf16 minus bf16 in bf16 loses most of a small difference."""
    tuned = tuned_from(tiny_encoder, tmp_path / "half", dtype=torch.bfloat16)
    base = tmp_path / "half-base"
    exact = rules(base, "[none]", mlp="[{op: dense, dtype: F32}]")
    _, path = packed(tmp_path, base, f"{{tuned: {tuned}, {exact}}}")
    name = "encoder.layer.0.output.dense.weight"
    delta = open_pack(path).delta(name)
    assert torch.equal(delta, weights(tuned)[name].float() - weights(base)[name].float())
    assert not torch.equal(delta, (weights(tuned)[name] - weights(base)[name]).float())


def test_a_file_of_differences(tiny_encoder: Path, tmp_path: Path) -> None:
    name = "encoder.layer.2.output.dense.weight"
    vector = {name: 0.01 * torch.randn(weights(tiny_encoder)[name].shape)}
    save_file(vector, tmp_path / "vector.safetensors")
    _, path = packed(
        tmp_path / "p",
        tiny_encoder,
        "{delta: ../vector.safetensors, rules: [{of: mlp, store: [{op: dense, dtype: F32}]}]}",
    )
    assert list(open_pack(path).header.tensors) == [name]
    assert torch.equal(open_pack(path).delta(name), vector[name])


def damaged(tuned: Path, out: Path, name: str, value: torch.Tensor | None) -> Path:
    tuned_from(tuned, out, size=0.0)
    tensors = weights(tuned)
    tensors.pop(name, None)
    if value is not None:
        tensors[name] = value
    save_file(tensors, out / WEIGHTS, {"format": "pt"})
    return out


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("pooler.dense.bias", None, "AS682 the tuned model lacks 'pooler.dense.bias'"),
        ("new.weight", torch.zeros(2), "AS682 the tuned model has 'new.weight', which the base has not"),
        (
            "embeddings.word_embeddings.weight",
            torch.zeros(66, 32),
            "AS682 the tuned model has 'embeddings.word_embeddings",
        ),
        (
            "pooler.dense.bias",
            torch.full((32,), torch.nan),
            "AS683 the difference of 'pooler.dense.bias' is not finite in 32",
        ),
        (
            "pooler.dense.bias",
            torch.full((32,), torch.inf),
            "AS683 the difference of 'pooler.dense.bias' is not finite in 32",
        ),
    ],
)
def test_what_is_no_tuning_of_the_base(
    tiny_encoder: Path, tuned: Path, tmp_path: Path, name: str, value: torch.Tensor | None, said: str
) -> None:
    other = damaged(tuned, tmp_path / "other", name, value)
    before = (tiny_encoder / WEIGHTS).read_bytes()
    assert code(f"{{tuned: {other}, budget: 30%}}", tiny_encoder, tmp_path / "p").startswith(said)
    assert (tiny_encoder / WEIGHTS).read_bytes() == before


def test_old_buffers_of_the_base_alone_are_no_matter(tiny_encoder: Path, tuned: Path, tmp_path: Path) -> None:
    """all-MiniLM-L6-v2 stores the numbers of positions; a fine-tune of it that was saved later does not."""
    base = damaged(tiny_encoder, tmp_path / "base", "embeddings.position_ids", torch.arange(64)[None])
    made, _ = packed(tmp_path / "p", base, f"{{tuned: {tuned}, {rules(base)}}}")
    assert "embeddings.position_ids" not in made.header.tensors


def test_the_base_itself_is_nothing_to_pack(tiny_encoder: Path, tmp_path: Path) -> None:
    assert code(f"{{tuned: {tiny_encoder}, budget: 30%}}", tiny_encoder, tmp_path).startswith("AS685 nothing differs")


def test_a_budget_that_cannot_be_met_names_the_least_that_can(tiny_encoder: Path, tuned: Path, tmp_path: Path) -> None:
    fixed = rules(tiny_encoder, "[sign]")
    with pytest.raises(ArchspecError) as caught:
        packed(tmp_path, tiny_encoder, f"{{tuned: {tuned}, budget: 4kB, {fixed}}}")
    (found,) = caught.value.diagnostics
    assert found.code == "AS684"
    least = int(next(word for word in found.hints[0].split() if word.isdigit()))
    made, _ = packed(tmp_path, tiny_encoder, f"{{tuned: {tuned}, budget: {least}, {fixed}}}")
    assert least - 32 < made.size <= least
    less = f"{{tuned: {tuned}, budget: {least - 32}, {fixed}}}"
    assert code(less, tiny_encoder, tmp_path / "less").startswith("AS684")


def test_a_budget_that_keeps_nothing_names_one_that_keeps_something(
    tiny_encoder: Path, tuned: Path, tmp_path: Path
) -> None:
    def said(hint: str) -> int:
        return int(next(word for word in hint.split() if word.isdigit()))

    def made(stanza: str) -> tuple[bool, tuple[Diagnostic, ...]]:
        found, _ = packed(tmp_path, tiny_encoder, f"{{tuned: {tuned}, {stanza}}}")
        return any(change.terms for change in found.header.tensors.values()), found.warnings

    assert made(rules(tiny_encoder, "[none]")) == (False, ())  # as it was asked for
    with pytest.raises(ArchspecError) as caught:
        made("budget: 1kB")
    keeps, warnings = made(f"budget: {said(caught.value.diagnostics[0].hints[0])}")
    assert (keeps, warnings[0].code, warnings[0].severity) == (False, "AS684", Severity.WARNING)
    assert made(f"budget: {said(warnings[0].hints[0])}") == (True, ())


def test_without_a_budget_every_tensor_needs_a_rule(tiny_encoder: Path, tuned: Path, tmp_path: Path) -> None:
    said = code(f"{{tuned: {tuned}, rules: [{{of: mlp, store: [dense]}}]}}", tiny_encoder, tmp_path)
    assert said.startswith("AS684 no rule names 'embeddings")


def test_a_spec_without_a_pack(tiny_encoder: Path, tmp_path: Path) -> None:
    from archspec.compiler.packing.pack import pack_spec

    (tmp_path / "spec.yaml").write_text(f"name: x\nbase: {tiny_encoder}\n")
    with pytest.raises(ArchspecError, match="AS672"):
        pack_spec(tmp_path / "spec.yaml")
    assert load_file(tiny_encoder / WEIGHTS)
