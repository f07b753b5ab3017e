"""Packs put on models and checkpoints and taken off again; what is refused, and that the base never changes."""

from __future__ import annotations

import json
import random
import shutil
import struct
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import archspec
from archspec.compiler.packing.make import Made
from archspec.diagnostics import ArchspecError
from archspec.packs.header import read_pack
from archspec.runtime.packs.attach import KEPT, RECORD, Use, attach, detach
from archspec.runtime.packs.reading import Pack, open_pack
from archspec.runtime.packs.verify import verify
from tests.packs import WEIGHTS, packed, rules, tuned_from, weights

LOW_RANK = "rules: [{of: attn, store: [{op: svd, rank: 6, bits: 8}]}, {of: mlp, store: [{op: svd, rank: 6}]}]"


@pytest.fixture(scope="module")
def base(tiny_encoder: Path) -> Path:
    return tiny_encoder


@pytest.fixture(scope="module")
def tuned(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tuned_from(base, tmp_path_factory.mktemp("tuned") / "tuned")


@pytest.fixture(scope="module")
def made(base: Path, tuned: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Made, Path]:
    return packed(tmp_path_factory.mktemp("pack"), base, f"{{tuned: {tuned}, budget: 60%, {LOW_RANK}}}")


@pytest.fixture
def pack(made: tuple[Made, Path]) -> Pack:
    return open_pack(made[1])


def model_of(folder: Path) -> Any:
    from transformers import BertModel

    return BertModel.from_pretrained(folder).eval()


def answer(model: nn.Module) -> Tensor:
    with torch.no_grad():
        found: Tensor = model(torch.arange(24).reshape(2, 12)).last_hidden_state
    return found


def same_files(a: Path, b: Path) -> None:
    names = {p.relative_to(a) for p in a.rglob("*") if p.is_file()}
    assert names == {p.relative_to(b) for p in b.rglob("*") if p.is_file()}
    for name in names:
        assert (a / name).read_bytes() == (b / name).read_bytes()


def test_attached_weights_are_base_plus_difference(base: Path, pack: Pack, tmp_path: Path) -> None:
    attach(base, [Use(pack)], tmp_path / "out")
    before, after = weights(base), weights(tmp_path / "out")
    assert before.keys() == after.keys()
    for name, value in before.items():
        wanted = value + pack.delta(name) if name in pack.header.tensors else value
        assert torch.equal(after[name], wanted)


def test_an_attached_checkpoint_is_near_the_tuned_one(base: Path, tuned: Path, pack: Pack, tmp_path: Path) -> None:
    attach(base, [Use(pack)], tmp_path / "out")
    wanted = answer(model_of(tuned))
    assert (answer(model_of(tmp_path / "out")) - wanted).norm() < 0.5 * (answer(model_of(base)) - wanted).norm()


def test_bfloat16_is_rounded_once(base: Path, tmp_path: Path) -> None:
    tuned = tuned_from(base, tmp_path / "half", dtype=torch.bfloat16)
    half = tmp_path / "half-base"
    _, path = packed(tmp_path / "p", half, f"{{tuned: {tuned}, {rules(half)}}}")
    skill = open_pack(path)
    attach(half, [Use(skill, 0.5), Use(skill, 0.25)], tmp_path / "out")
    before, after = weights(half), weights(tmp_path / "out")
    for name in skill.header.tensors:
        delta = skill.delta(name)
        assert torch.equal(after[name], (before[name].float() + 0.5 * delta + 0.25 * delta).bfloat16())


def test_detach_gives_back_every_byte(base: Path, pack: Pack, tmp_path: Path) -> None:
    before = {p.name: p.read_bytes() for p in base.iterdir() if p.is_file()}
    attach(base, [Use(pack, 1.7)], tmp_path / "out")
    assert {p.name: p.read_bytes() for p in base.iterdir() if p.is_file()} == before
    detach(tmp_path / "out", tmp_path / "again")
    same_files(base, tmp_path / "again")
    detach(tmp_path / "out")  # in its place
    same_files(base, tmp_path / "out")


def test_results_within_the_base_are_not_part_of_it(base: Path, pack: Pack, tmp_path: Path) -> None:
    shutil.copytree(base, tmp_path / "base")
    for name in ("first", "second"):
        attach(tmp_path / "base", [Use(pack)], tmp_path / "base" / name)
    assert not (tmp_path / "base" / "second" / "first").exists()


def test_detach_in_place_keeps_what_is_not_archspecs(base: Path, pack: Pack, tmp_path: Path) -> None:
    attach(base, [Use(pack)], tmp_path / "real")
    (tmp_path / "real" / ".git").mkdir()
    (tmp_path / "real" / ".git" / "HEAD").write_text("ref")
    (tmp_path / "link").symlink_to("real")
    detach(tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real" / ".git" / "HEAD").read_text() == "ref"
    shutil.rmtree(tmp_path / "real" / ".git")
    same_files(base, tmp_path / "real")
    assert {path.name for path in tmp_path.iterdir()} == {"real", "link"}


def test_detach_goes_on_where_it_was_killed(base: Path, pack: Pack, tmp_path: Path) -> None:
    """Between the two renames nothing is under the checkpoint's name."""
    attach(base, [Use(pack)], tmp_path / "out")
    (tmp_path / "out").rename(tmp_path / ".out.former")
    (tmp_path / ".out.partial").mkdir()
    detach(tmp_path / "out")
    same_files(base, tmp_path / "out")
    assert {path.name for path in tmp_path.iterdir()} == {"out"}


def test_detach_needs_the_base_no_more_where_it_was_linked(base: Path, pack: Pack, tmp_path: Path) -> None:
    moved = tmp_path / "base"
    shutil.copytree(base, moved)
    attach(moved, [Use(pack)], tmp_path / "out")
    assert (tmp_path / "out" / KEPT / WEIGHTS).samefile(moved / WEIGHTS)
    shutil.rmtree(moved)
    detach(tmp_path / "out")
    same_files(base, tmp_path / "out")


def test_detach_finds_the_base_or_says_that_it_is_gone(base: Path, pack: Pack, tmp_path: Path) -> None:
    moved = tmp_path / "base"
    shutil.copytree(base, moved)
    attach(moved, [Use(pack)], tmp_path / "out")
    shutil.rmtree(tmp_path / "out" / KEPT)
    detach(tmp_path / "out", tmp_path / "first")
    same_files(base, tmp_path / "first")
    tuned_from(base, tmp_path / "other")
    shutil.copy(tmp_path / "other" / WEIGHTS, moved / WEIGHTS)
    with pytest.raises(ArchspecError, match=r"AS675.*is not what it was"):
        detach(tmp_path / "out", tmp_path / "second")
    assert not (tmp_path / "second").exists()
    detach(tmp_path / "out", tmp_path / "third", base)
    same_files(base, tmp_path / "third")


def test_sharded_checkpoints_stay_sharded(base: Path, pack: Pack, tmp_path: Path) -> None:
    sharded = tmp_path / "sharded"
    model_of(base).save_pretrained(sharded, max_shard_size="40KB")
    assert len(list(sharded.glob("*.safetensors"))) > 1
    attach(sharded, [Use(pack)], tmp_path / "out")
    state = model_of(tmp_path / "out").state_dict()
    assert all(torch.equal(state[n], weights(base)[n] + pack.delta(n)) for n in pack.header.tensors)
    detach(tmp_path / "out")
    same_files(sharded, tmp_path / "out")


def test_a_scale_of_zero_is_the_base(base: Path, pack: Pack, tmp_path: Path) -> None:
    attach(base, [Use(pack, 0.0)], tmp_path / "out")
    assert (tmp_path / "out" / WEIGHTS).read_bytes() == (base / WEIGHTS).read_bytes()
    model = model_of(base)
    before, tensors = answer(model), {name: p.data_ptr() for name, p in model.named_parameters()}
    with archspec.skills(model, pack, scale=0.0):
        assert torch.equal(answer(model), before)
        assert {name: p.data_ptr() for name, p in model.named_parameters()} == tensors


def test_repeats_of_tied_weights_follow(tiny_qwen2: Path, tmp_path: Path) -> None:
    base = tmp_path / "base"
    tuned_from(tiny_qwen2, base, size=0.0)
    tensors = weights(tiny_qwen2)
    save_file(tensors | {"lm_head.weight": tensors["model.embed_tokens.weight"].clone()}, base / WEIGHTS)
    tuned = tuned_from(tiny_qwen2, tmp_path / "tuned")
    _, path = packed(tmp_path / "p", base, f"{{tuned: {tuned}, {rules(base)}}}")
    attach(base, [Use(open_pack(path))], tmp_path / "out")
    after = weights(tmp_path / "out")
    assert not torch.equal(after["lm_head.weight"], tensors["model.embed_tokens.weight"])
    assert torch.equal(after["lm_head.weight"], after["model.embed_tokens.weight"])


@pytest.mark.parametrize("mode", ["weights", "branch"])
def test_skills_run_as_the_attached_checkpoint(base: Path, pack: Pack, tmp_path: Path, mode: Any) -> None:
    attach(base, [Use(pack, 0.8)], tmp_path / "out")
    model, wanted = model_of(base), answer(model_of(tmp_path / "out"))
    before = answer(model)
    with archspec.skills(model, pack.path, scale=0.8, mode=mode):
        found = answer(model)
    assert torch.equal(found, wanted) if mode == "weights" else torch.allclose(found, wanted, atol=2e-5)
    assert not torch.allclose(before, wanted, atol=1e-3)
    assert torch.equal(answer(model), before)


@pytest.mark.parametrize("mode", ["weights", "branch"])
def test_leaving_puts_the_same_memory_back(base: Path, pack: Pack, mode: Any) -> None:
    model = model_of(base)
    places = {name: value.data_ptr() for name, value in model.state_dict().items()}
    bits = {name: value.clone() for name, value in model.state_dict().items()}
    context = archspec.skills(model, pack, mode=mode)
    for _ in range(2):
        with pytest.raises(ZeroDivisionError), context:
            raise ZeroDivisionError
    assert {name: value.data_ptr() for name, value in model.state_dict().items()} == places
    assert all(torch.equal(value, bits[name]) for name, value in model.state_dict().items())
    assert not any(module._forward_hooks for module in model.modules())


def test_a_branch_makes_no_dense_difference(base: Path, pack: Pack) -> None:
    model = model_of(base)
    before = {name: p.data_ptr() for name, p in model.named_parameters()}
    with archspec.skills(model, pack, mode="branch"):
        same = {name for name, p in model.named_parameters() if p.data_ptr() == before[name]}
    assert {name for name in same if "layer.0" in name and name.endswith("dense.weight")} == {
        f"encoder.layer.0.{part}.dense.weight" for part in ("attention.output", "intermediate", "output")
    }


def test_untouched_tensors_share_identity(base: Path, tuned: Path, tmp_path: Path) -> None:
    _, path = packed(tmp_path, base, f"{{tuned: {tuned}, {rules(base, '[none]', mlp='[dense]')}}}")
    model = model_of(base)
    before = {name: p.data_ptr() for name, p in model.named_parameters()}
    with archspec.skills(model, path):
        moved = {name for name, p in model.named_parameters() if p.data_ptr() != before[name]}
    wanted = {n for n in before if ".attention." not in n and n.startswith("encoder") and n.endswith("dense.weight")}
    assert moved == wanted


def test_several_packs_add_up_in_any_order(base: Path, pack: Pack, tmp_path: Path) -> None:
    other = tuned_from(base, tmp_path / "other", rank=2)
    _, path = packed(
        tmp_path / "p", base, f"{{tuned: {other}, {rules(base, '[{op: svd, rank: 6, bits: 4}]')}}}", "other"
    )
    second, model = open_pack(path), model_of(base)
    with archspec.skills(model, pack, second):
        both = answer(model)
        value = dict(model.named_parameters())["pooler.dense.weight"].clone()
    with archspec.skills(model, second, pack):
        assert torch.allclose(answer(model), both, atol=1e-6)
    wanted = weights(base)["pooler.dense.weight"] + pack.delta("pooler.dense.weight")
    assert torch.equal(value, wanted + second.delta("pooler.dense.weight"))


def test_nested_skills_are_refused_and_moved_models_followed(base: Path, pack: Pack) -> None:
    model, name = model_of(base), "pooler.dense.weight"
    first, second = archspec.skills(model, pack), archspec.skills(model, pack, scale=0.5)
    with second:
        pass
    with first:
        with pytest.raises(ArchspecError, match="AS681"), second:
            pass
        assert torch.equal(model.get_parameter(name), weights(base)[name] + pack.delta(name))
    model.get_parameter(name).data = model.get_parameter(name).data.clone()
    with second:
        assert torch.equal(model.get_parameter(name), weights(base)[name] + 0.5 * pack.delta(name))


def test_a_model_that_was_loaded_anew_is_another_base(base: Path, tuned: Path, pack: Pack) -> None:
    model = model_of(base)
    packs = archspec.skills(model, pack)
    with packs:
        pass
    other = {name: value.clone() for name, value in model_of(tuned).state_dict().items()}
    model.load_state_dict(other)
    with pytest.raises(ArchspecError, match="AS681"), packs:
        pass
    assert all(torch.equal(value, other[name]) for name, value in model.state_dict().items())


def test_another_mode_is_refused(base: Path, pack: Pack) -> None:
    mode: Any = "banana"
    with pytest.raises(ValueError, match="write one of"):
        archspec.skills(model_of(base), pack, mode=mode)


@pytest.mark.parametrize("scale", [float("nan"), 1e40, -1e40, 10**400, True, "x", None])
def test_scales_that_float32_cannot_hold_are_refused(base: Path, pack: Pack, scale: Any) -> None:
    with pytest.raises(ArchspecError, match=r"AS143.*'scale' is"):
        archspec.skills(model_of(base), pack, scale=scale)


def test_skills_find_a_model_under_a_head(base: Path, pack: Pack) -> None:
    from transformers import BertForSequenceClassification

    model: Any = BertForSequenceClassification.from_pretrained(base).eval()
    before = model.bert.pooler.dense.weight.clone()
    with archspec.skills(model, pack):
        wanted = before + pack.delta("pooler.dense.weight")
        assert torch.equal(model.bert.pooler.dense.weight, wanted)
    assert torch.equal(model.bert.pooler.dense.weight, before)


def test_a_model_without_a_part_that_the_pack_changes_is_told_how_to_load_it(base: Path, pack: Pack) -> None:
    model = model_of(base)
    model.encoder.layer = model.encoder.layer[:-1]
    with pytest.raises(ArchspecError, match="does not fit this model: the model has no") as caught:
        archspec.skills(model, pack).__enter__()
    assert "load it as BertModel" in str(caught.value.diagnostics[0].hints)


def test_another_base_is_refused_by_name(base: Path, tuned: Path, pack: Pack, tmp_path: Path) -> None:
    with pytest.raises(ArchspecError) as caught:
        attach(tuned, [Use(pack)], tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert {found.code for found in caught.value.diagnostics} == {"AS681"}
    assert str(base) in caught.value.diagnostics[0].hints[0]
    assert "'embeddings.LayerNorm.bias' has other values" in str(caught.value)
    model = model_of(tuned)
    before = answer(model)
    with pytest.raises(ArchspecError, match="AS681"), archspec.skills(model, pack):
        pass
    assert torch.equal(answer(model), before)


def test_another_data_type_is_another_base(base: Path, pack: Pack) -> None:
    with pytest.raises(ArchspecError, match=r"AS681.*bfloat16"), archspec.skills(model_of(base).bfloat16(), pack):
        pass


def test_packs_are_attached_once(base: Path, pack: Pack, tmp_path: Path) -> None:
    attach(base, [Use(pack)], tmp_path / "out")
    with pytest.raises(ArchspecError, match="AS673"):
        attach(tmp_path / "out", [Use(pack)], tmp_path / "twice")
    with pytest.raises(ArchspecError, match="AS674"):
        detach(base, tmp_path / "again")


def test_what_attach_did_not_make_is_not_replaced(base: Path, pack: Pack, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("mine")
    with pytest.raises(ArchspecError, match="AS630"):
        attach(base, [Use(pack)], tmp_path / "out")
    assert (tmp_path / "out" / "mine").read_text() == "mine"


LIES: list[dict[str, Any]] = [
    {"files": {"../x": "h"}}, {"files": {}}, {"model": "../up"}, {"format": 2}, {"packs": 1}, {"packs": ["x"]},
    {"packs": [{}]}, {"tensors": [1]},
]  # fmt: skip


@pytest.mark.parametrize("change", LIES)
def test_a_record_that_lies_is_refused(base: Path, pack: Pack, tmp_path: Path, change: dict[str, Any]) -> None:
    attach(base, [Use(pack)], tmp_path / "out")
    record = tmp_path / "out" / RECORD
    record.write_text(json.dumps(json.loads(record.read_text()) | change))
    with pytest.raises(ArchspecError, match="AS674"):
        detach(tmp_path / "out")


def test_an_overflow_of_the_data_type_is_refused(base: Path, tmp_path: Path) -> None:
    tuned = tuned_from(base, tmp_path / "half", size=1.0, dtype=torch.float16)
    half = tmp_path / "half-base"
    _, path = packed(tmp_path / "p", half, f"{{tuned: {tuned}, {rules(half)}}}")
    with pytest.raises(ArchspecError, match=r"AS683.*overflows F16"):
        attach(tmp_path / "half-base", [Use(open_pack(path), 1e6)], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def header_changed(change: Callable[[dict[str, Any]], Any]) -> Callable[[bytes], bytes]:
    """Return what changes the pack's header within a file and leaves the data alone."""

    def rewrite(data: bytes) -> bytes:
        (length,) = struct.unpack("<Q", data[:8])
        outer = json.loads(data[8 : 8 + length])
        inner = json.loads(outer["__metadata__"]["skillpack"])
        change(inner)
        outer["__metadata__"]["skillpack"] = json.dumps(inner)
        head = json.dumps(outer).encode()
        return struct.pack("<Q", len(head)) + head + data[8 + length :]

    return rewrite


def terms_of(op: str, change: Callable[[dict[str, Any]], Any]) -> Callable[[bytes], bytes]:
    """Return what changes the first term of a form."""

    def edit(header: dict[str, Any]) -> None:
        terms = (t for c in header["tensors"].values() for t in c["terms"])
        change(next(term for term in terms if term["op"] == op))

    return header_changed(edit)


def tensor(header: dict[str, Any], **entries: Any) -> None:
    header["tensors"]["pooler.dense.weight"].update(entries)


DENSE = {"op": "dense", "dtype": "F16"}


def excerpt(of: Any, *terms: Any) -> dict[str, Any]:
    return {"op": "excerpt", "of": of, "terms": list(terms)}


HOSTILE: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda data: b"",
    "cut": lambda data: data[:-100],
    "cut in the header": lambda data: data[:100],
    "longer": lambda data: data + b"\0" * 8,
    "of another format": header_changed(lambda h: h.update(format=3)),
    "without a base": header_changed(lambda h: h.pop("base")),
    "base of numbers": header_changed(lambda h: h.update(base={"from": 1})),
    "without a tensor that it holds": header_changed(lambda h: h["tensors"].pop("pooler.dense.weight")),
    "a larger shape": header_changed(lambda h: tensor(h, shape=[2**20, 2**20])),
    "an impossible shape": header_changed(lambda h: tensor(h, shape=[-1, 32])),
    "a shape of texts": header_changed(lambda h: tensor(h, shape=["32", 32])),
    "an unknown form": header_changed(lambda h: tensor(h, terms=[{"op": "exec"}])),
    "a form without its settings": header_changed(lambda h: tensor(h, terms=[{"op": "dense"}])),
    "an infinite norm": header_changed(lambda h: tensor(h, norm=1e999)),
    "a norm of 400 digits": header_changed(lambda h: tensor(h, norm=10**400)),
    "errors of outputs of 400 digits": header_changed(lambda h: tensor(h, outputs=[10**400, 1])),
    "an unknown data type": header_changed(lambda h: tensor(h, dtype="F99")),
    "a name with commands to a terminal": header_changed(lambda h: h.update(name="a\x1b[31m")),
    "a name that is half a character": header_changed(lambda h: h.update(name="\ud800")),
    "a source that is a text": header_changed(lambda h: h["made"].update(source="tuned")),
    "a unit of 400 digits": terms_of("low_rank", lambda t: t.update(units=[10**400] * len(t["units"]))),
    "bands of no triplets": terms_of("low_rank", lambda t: t.update(bands=[[0, 8]])),
    "bands of too many triplets": terms_of("low_rank", lambda t: t.update(bands=[[10**9, 8]])),
    "bits that are none": terms_of("low_rank", lambda t: t.update(bands=[[6, 9]])),
    "units that are too few": terms_of("low_rank", lambda t: t.update(units=[1.0])),
    "a group of nothing": terms_of("low_rank", lambda t: t.update(group=0)),
    "a group beyond counting": terms_of("low_rank", lambda t: t.update(group=10**30)),
    "a count that is true": terms_of("low_rank", lambda t: t.update(group=True)),
    **{
        f"an excerpt {how}": header_changed(partial(tensor, terms=[excerpt(of, *inner)]))
        for how, of, *inner in (
            ("of nothing", {"start": 2, "stop": 2}, DENSE),
            ("past the end", {"start": 0, "stop": 33}, DENSE),
            ("from before the start", {"start": -1, "stop": 4}, DENSE),
            ("in groups that do not divide", {"start": 0, "stop": 2, "groups": 5}, DENSE),
            ("along a third axis", {"axis": 2, "stop": 2}, DENSE),
            ("of another tensor", {"tensor": "a", "stop": 2}, DENSE),
            ("that is scaled", {"scale": 2.0, "stop": 2}, DENSE),
            ("of a text", "all", DENSE),
            ("without terms", {"stop": 2}),
            ("of an excerpt", {"stop": 2}, {"op": "excerpt", "of": {"stop": 1}, "terms": [DENSE]}),
        )
    },
}


@pytest.mark.parametrize("how", HOSTILE)
def test_hostile_files_are_refused(base: Path, pack: Pack, tmp_path: Path, how: str) -> None:
    bad = tmp_path / "bad.safetensors"
    bad.write_bytes(HOSTILE[how](pack.path.read_bytes()))
    with pytest.raises(ArchspecError) as caught:
        attach(base, [Use(open_pack(bad))], tmp_path / "out")
    assert {found.code for found in caught.value.diagnostics} <= {"AS680", "AS612", "AS614", "AS616", "AS617"}
    assert not (tmp_path / "out").exists()


def text_of(text: str) -> Callable[[bytes], bytes]:
    """Return what puts another text in place of the header."""

    def rewrite(data: bytes) -> bytes:
        (length,) = struct.unpack("<Q", data[:8])
        outer = json.loads(data[8 : 8 + length])
        outer["__metadata__"]["skillpack"] = text
        head = json.dumps(outer).encode()
        return struct.pack("<Q", len(head)) + head + data[8 + length :]

    return rewrite


TOLD = {
    "is not readable JSON: it is nested too deeply": text_of("[" * 100_000),
    "is not readable JSON: NaN is not a number": text_of('{"format": NaN}'),
    "is no map of keys": text_of("[]"),
    "has a licence that cannot be printed": header_changed(lambda h: h.update(licence="a\x07")),
    "describes tensor 'pooler.dense.weight' wrongly: its term 'dense' has an unknown dtype": header_changed(
        lambda h: tensor(h, terms=[{"op": "dense", "dtype": "F8"}])
    ),
}


@pytest.mark.parametrize("told", TOLD)
def test_what_is_wrong_with_a_header_is_a_sentence(pack: Pack, tmp_path: Path, told: str) -> None:
    bad = tmp_path / "bad.safetensors"
    bad.write_bytes(TOLD[told](pack.path.read_bytes()))
    with pytest.raises(ArchspecError) as caught:
        open_pack(bad)
    assert caught.value.diagnostics[0].message == f"the header of 'bad.safetensors' {told}"


def test_a_shape_that_only_the_header_claims_is_never_decoded(base: Path, pack: Pack, tmp_path: Path) -> None:
    """A tensor without terms can claim any size at no cost: the base's shape decides before anything is made."""
    bad = tmp_path / "bomb.safetensors"
    name = next(
        name for name, change in pack.header.tensors.items() if not change.terms or change.terms[0].op == "dense"
    )

    def claim(header: dict[str, Any]) -> None:
        header["tensors"]["bomb"] = {**header["tensors"][name], "terms": [], "shape": [2**20, 2**20]}

    bad.write_bytes(header_changed(claim)(pack.path.read_bytes()))
    with pytest.raises(ArchspecError, match=r"AS681.*there is no 'bomb'"):
        attach(base, [Use(open_pack(bad))], tmp_path / "out")


@pytest.mark.parametrize("how", ["values", "places", "mask"])
def test_parts_that_lie_are_refused_when_they_are_decoded(base: Path, tuned: Path, tmp_path: Path, how: str) -> None:
    code = "mask" if how == "mask" else "gaps"
    mlp = f"[{{op: prune, keep: 0.05, code: {code}}}]"
    _, path = packed(tmp_path, base, f"{{tuned: {tuned}, {rules(base, '[none]', mlp=mlp)}}}")
    tensors, name = load_file(path), "encoder.layer.0.output.dense.weight/0"
    part = f"{name}/{'values' if how == 'values' else code}"
    tensors[part] = torch.full_like(tensors[part], torch.nan if how == "values" else 254)
    head = read_pack(path)[0].to_text()
    save_file(tensors, path, {"skillpack": head})
    with pytest.raises(ArchspecError, match="AS680") as caught:
        attach(base, [Use(open_pack(path))], tmp_path / "out")
    told = f"the term 'sparse' of 'encoder.layer.0.output.dense.weight' in '{path.name}' "
    assert caught.value.diagnostics[0].message.startswith(told)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("mode", ["weights", "branch"])
def test_values_that_are_no_numbers_are_refused_in_both_modes(
    base: Path, tuned: Path, tmp_path: Path, mode: Any
) -> None:
    _, path = packed(tmp_path, base, f"{{tuned: {tuned}, {rules(base, '[none]', mlp='[sign]')}}}")
    tensors, name = load_file(path), "encoder.layer.0.output.dense.weight"
    tensors[f"{name}/0/scales"][0] = torch.inf
    save_file(tensors, path, {"skillpack": read_pack(path)[0].to_text()})
    told = rf"AS680.*'quantized' of '{name}' in '{path.name}' decodes to values that are not finite"
    with pytest.raises(ArchspecError, match=told), archspec.skills(model_of(base), path, mode=mode):
        pass


def test_a_plain_model_is_no_pack(base: Path) -> None:
    with pytest.raises(ArchspecError, match=r"AS680.*is no SkillPack"):
        open_pack(base / WEIGHTS)


def test_a_router_in_place_of_a_pack_is_told(tmp_path: Path) -> None:
    save_file({}, tmp_path / "r.safetensors", {"router": "{}"})
    with pytest.raises(ArchspecError) as caught:
        open_pack(tmp_path / "r.safetensors")
    assert caught.value.diagnostics[0].hints == ("it is a router: `archspec packs route ROUTER`",)


def test_a_pipeline_keeps_its_other_parts(tiny_dit: Path, tmp_path: Path) -> None:
    pipeline, weights_file = tmp_path / "pipeline", "diffusion_pytorch_model.safetensors"
    shutil.copytree(tiny_dit, pipeline / "transformer")
    (pipeline / "scheduler").mkdir()
    (pipeline / "scheduler" / "scheduler_config.json").write_text("{}")
    (pipeline / "model_index.json").write_text('{"_class_name": "DiTPipeline"}')
    tuned = tmp_path / "tuned"
    shutil.copytree(tiny_dit, tuned)
    tensors = load_file(tuned / weights_file)
    save_file({name: value + 0.01 for name, value in tensors.items()}, tuned / weights_file)
    spec = f"{{from: {pipeline}, subfolder: transformer}}"
    _, path = packed(tmp_path / "p", Path(spec), f"{{tuned: {tuned}, {rules(tiny_dit)}}}")
    attach(pipeline, [Use(open_pack(path))], tmp_path / "out")
    after = load_file(tmp_path / "out" / "transformer" / weights_file)
    assert all((after[name] - value - 0.01).abs().max() < 2e-3 for name, value in tensors.items())
    assert (tmp_path / "out" / "scheduler" / "scheduler_config.json").is_file()
    detach(tmp_path / "out")
    same_files(pipeline, tmp_path / "out")


VALUES: tuple[Any, ...] = (
    None,
    True,
    -1,
    0,
    2,
    255,
    2**63,
    10**30,
    1.5,
    1e308,
    1e400,
    "",
    "row",
    [],
    {},
    [[]],
    [[1, 2]],
    [-1],
)


def test_whatever_the_header_says_is_read_or_refused(pack: Pack, tmp_path: Path) -> None:
    """Values of the header exchanged at random: a sound pack or a diagnostic, never another exception."""
    rng, path = random.Random(0), tmp_path / "fuzzed.safetensors"
    outcomes = {"read": 0, "refused": 0}

    def spoil(header: dict[str, Any]) -> None:
        node: Any = header
        while isinstance(node, dict | list) and node:
            keys = list(node) if isinstance(node, dict) else range(len(node))
            key = rng.choice(list(keys))
            if not isinstance(node[key], dict | list) or not node[key] or rng.random() < 0.2:
                node[key] = rng.choice(VALUES)
                return
            node = node[key]

    for _ in range(150):
        path.write_bytes(header_changed(spoil)(pack.path.read_bytes()))
        try:
            verify(path)
            outcomes["read"] += 1
        except ArchspecError:
            outcomes["refused"] += 1
    assert min(outcomes.values()) > 20
