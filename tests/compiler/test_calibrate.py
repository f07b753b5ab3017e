"""Packs by outputs: the tuned model run on data once, what the header says of it, and what is refused."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from archspec.compiler.packing import calibrate
from archspec.compiler.packing.make import Made
from archspec.compiler.packing.sources import Vector
from archspec.diagnostics import ArchspecError
from archspec.runtime.data import open_data
from archspec.runtime.data.needs import needs_of
from archspec.runtime.learn.feed import Feed
from archspec.runtime.learn.moments import Moments, gather, linear_maps
from archspec.runtime.objectives import make_objective
from archspec.runtime.packs.reading import open_pack
from archspec.runtime.store.home import home
from archspec.runtime.store.opening import open_model
from tests.packs import WEIGHTS, packed, rules, tuned_from, weights

CALIBRATE = "calibrate: {data: tokens.jsonl, samples: 12, batch: 5, length: 8}"
DOWN, UP = "model.layers.1.mlp.down_proj", "model.layers.1.mlp.up_proj"


@pytest.fixture(scope="module")
def shop(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tuned model and tokens."""
    folder = tmp_path_factory.mktemp("shop")
    tuned_from(tiny_llama, folder / "tuned")
    ids = torch.randint(0, 64, (40, 20), generator=torch.Generator().manual_seed(0))
    (folder / "tokens.jsonl").write_text("".join(json.dumps({"input_ids": row}) + "\n" for row in ids.tolist()))
    return folder


def feed_of(base: Path, shop: Path) -> Feed:
    examples = open_data({"from": "tokens.jsonl"}, shop, needs_of(base, 8))
    return Feed(examples, make_objective(home(base)), 0, 5)


@pytest.fixture(scope="module")
def given(shop: Path) -> dict[str, Tensor]:
    """What each linear map of the tuned model is given in calibration: path -> (tokens, inputs), float64."""
    from transformers import AutoModelForCausalLM

    model: Any = AutoModelForCausalLM.from_pretrained(shop / "tuned", dtype=torch.float32).eval()
    seen: dict[str, list[Tensor]] = {}
    for path, module in model.named_modules():
        if isinstance(module, nn.Linear):
            own = seen.setdefault(path, [])
            module.register_forward_pre_hook(lambda _, x, own=own: own.append(x[0].detach().flatten(0, 1)))
    with torch.no_grad():
        for _, keywords in feed_of(shop / "tuned", shop).batches(12):
            model(**keywords)
    return {path: torch.cat(rows).double() for path, rows in seen.items()}


@pytest.fixture(scope="module")
def made(tiny_llama: Path, shop: Path) -> tuple[Made, Path]:
    return packed(shop, tiny_llama, f"{{tuned: tuned, budget: 50%, {CALIBRATE}}}")


@pytest.mark.parametrize("path", [DOWN, UP, "lm_head"])
def test_the_header_tells_what_outputs_lose(
    tiny_llama: Path, shop: Path, made: tuple[Made, Path], given: dict[str, Tensor], path: str
) -> None:
    name, pack, x = f"{path}.weight", open_pack(made[1]), given[path]
    assert len(x) == 12 * 8
    tuned, base = weights(shop / "tuned")[name], weights(tiny_llama)[name]
    size = (x @ tuned.double().T).norm()
    moved, missed = (x @ (tuned - base).double().T).norm(), (x @ (tuned - base - pack.delta(name)).double().T).norm()
    found = pack.change(name).outputs
    assert found is not None
    assert found == pytest.approx((float(moved / size), float(missed / size)), rel=1e-3)
    assert found[1] < found[0]


def test_what_is_no_linear_map_is_judged_by_its_own_size(tiny_llama: Path, shop: Path, made: tuple[Made, Path]) -> None:
    pack, tuned = open_pack(made[1]), weights(shop / "tuned")
    for name in ("model.embed_tokens.weight", "model.norm.weight"):
        change = pack.change(name)
        wanted = change.norm / float(tuned[name].norm()), change.error / float(tuned[name].norm())
        assert change.outputs == pytest.approx(wanted, rel=1e-4)
    assert pack.header.output_error == made[0].to_json(made[1])["output_error"] > 0
    assert pack.header.made["source"]["calibration"]["samples"] == 12


def test_two_builds_are_the_same_bytes(tiny_llama: Path, shop: Path) -> None:
    ways = {"attn": "[sign, {op: svd, bands: [[2, 8], [6, 3]], method: gptq}]"}
    ways |= {"mlp": "[{op: quantize, bits: 3, method: gptq, act_order: true}]"}
    stanza = f"{{tuned: tuned, {rules(tiny_llama, **ways)}, {CALIBRATE}}}"
    first, second = (packed(shop, tiny_llama, stanza, "twice")[1].read_bytes() for _ in range(2))
    assert first == second
    assert not [path for path in shop.iterdir() if path.name.startswith(".")]


def test_outputs_lose_less_than_without_calibration(
    tiny_llama: Path, shop: Path, made: tuple[Made, Path], given: dict[str, Tensor]
) -> None:
    """At the same bytes, summed over all tensors as the allocator sums."""
    plain, path = packed(shop / "plain", tiny_llama, "{tuned: ../tuned, budget: 50%}")
    assert plain.header.output_error is None
    pack, tuned, base, lost = open_pack(path), weights(shop / "tuned"), weights(tiny_llama), 0.0
    for name, value in tuned.items():
        held = pack.delta(name) if name in pack.header.tensors else torch.zeros(())
        error, whole = (m.double().reshape(-1, m.shape[-1]) for m in (value - base[name] - held, value))
        x = given.get(name.removesuffix(".weight"), torch.eye(value.shape[-1], dtype=torch.float64))
        lost += float((x @ error.T).square().sum() / (x @ whole.T).square().sum())
    found = sum(c.outputs[1] ** 2 for c in made[0].header.tensors.values() if c.outputs)
    assert found < 0.6 * lost


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each block is applied while something is packed."""
    counts: Counter[str] = Counter()
    opened = open_model

    def counted(*arguments: Any) -> nn.Module:
        model = opened(*arguments)
        for name, module in model.named_modules():
            if name.rpartition(".")[0] == "model.layers":
                module.register_forward_hook(lambda *_, name=name: counts.update([name]))
        return model

    monkeypatch.setattr(calibrate, "open_model", counted)
    return counts


@pytest.mark.parametrize("bands", ["[[8, 4]]", "[[2, 8], [4, 3], [8, 2]]"])
def test_every_block_is_applied_once_whatever_the_bands(
    tiny_llama: Path, shop: Path, calls: Counter[str], bands: str, tmp_path: Path
) -> None:
    """12 examples in batches of 5. Released code applied each block once per band (and so to its own output)."""
    fixed = rules(tiny_llama, "[none]", attn=f"[{{op: svd, bands: {bands}, method: gptq}}]")
    packed(
        tmp_path, tiny_llama, f"{{tuned: {shop / 'tuned'}, {fixed}, {CALIBRATE.replace('data: ', f'data: {shop}/')}}}"
    )
    assert calls == {f"model.layers.{i}": 3 for i in range(4)}


@pytest.mark.parametrize(
    ("store", "better"),
    [
        ("{op: quantize, bits: 3%}", 0.95),
        ("{op: quantize, bits: 3, axis: column, group: 16%}", 0.95),
        ("{op: sign%}", 1.0),
        ("{op: svd, bands: [[4, 4], [12, 2]]%}", 1.0),
    ],
)
def test_rules_code_by_gptq(tiny_llama: Path, shop: Path, store: str, better: float) -> None:
    lost: list[float] = []
    for way in ("", ", method: gptq", ", method: gptq, act_order: true"):
        fixed = rules(tiny_llama, "[none]", mlp=f"[{store.replace('%', way)}]")
        found, _ = packed(shop / f"way{len(lost)}", tiny_llama, f"{{tuned: ../tuned, {fixed}, {CALIBRATE}}}".replace(
            "data: ", "data: ../"))  # fmt: skip
        lost.append(sum(c.outputs[1] ** 2 for n, c in found.header.tensors.items() if "mlp" in n and c.outputs))
    assert lost[1] < better * lost[0]
    assert lost[2] < better * lost[0]


def refused(stanza: str, base: Path, folder: Path) -> ArchspecError:
    with pytest.raises(ArchspecError) as caught:
        packed(folder, base, stanza)
    return caught.value


def test_gptq_needs_a_linear_map(tiny_llama: Path, shop: Path) -> None:
    gptq = "{op: quantize, bits: 4, method: gptq}"
    error = refused(f"{{tuned: tuned, {rules(tiny_llama, f'[{gptq}]')}, {CALIBRATE}}}", tiny_llama, shop)
    assert {found.code for found in error.diagnostics} == {"AS666"}
    assert [found.message.split("'")[1] for found in error.diagnostics] == [
        "model.embed_tokens.weight",
        "model.layers.0.input_layernorm.weight",
    ]


def test_activations_that_are_no_numbers(tiny_llama: Path, shop: Path, tmp_path: Path) -> None:
    tuned = weights(shop / "tuned")
    tuned_from(tiny_llama, tmp_path / "tuned", size=0.0)
    save_file({n: v * 1e30 if "layers.2.mlp" in n else v for n, v in tuned.items()}, tmp_path / "tuned" / WEIGHTS)
    error = refused(f"{{tuned: {tmp_path / 'tuned'}, budget: 30%, {CALIBRATE}}}", tiny_llama, shop)
    (found,) = error.diagnostics
    assert found.code == "AS667"
    assert "'model.layers.2.mlp.down_proj' is given is not finite" in found.message


def test_a_base_whose_tensors_its_library_renames(tiny_encoder: Path) -> None:
    """Differences have the names of the file; all that the model has not are told at once."""
    from transformers import BertModel

    vector: dict[str, Any] = {"old.0.weight": None, "pooler.dense.bias": None, "old.1.weight": None}
    with pytest.raises(ArchspecError) as caught:
        calibrate.tune(BertModel.from_pretrained(tiny_encoder), Ones(vector), None)
    assert [found.code for found in caught.value.diagnostics] == ["AS668", "AS668"]


class Ones(Vector):
    """Differences of ones."""

    def __init__(self, names: dict[str, Any]) -> None:
        super().__init__(names, names)

    def delta(self, name: str) -> Tensor:
        return torch.ones(32)


class Given:
    """A feed of given keywords."""

    batch = 2

    def __init__(self, *keywords: dict[str, Tensor]) -> None:
        self.keywords = keywords

    def batches(self, count: int) -> Iterator[tuple[int, dict[str, Tensor]]]:
        return ((2 * place, keywords) for place, keywords in enumerate(self.keywords))


def test_padding_does_not_count(tiny_encoder: Path, tmp_path: Path) -> None:
    from transformers import BertModel

    model = BertModel.from_pretrained(tiny_encoder).eval()
    name = "encoder.layer.1.output.dense.weight"
    ids, mask = torch.arange(12).reshape(2, 6), torch.ones(2, 6, dtype=torch.int64)
    mask[:, 4:] = 0
    feed: Any = Given({"input_ids": ids, "attention_mask": mask})
    padded = gather(model, {name: name}, feed, 2, tmp_path)
    feed = Given({"input_ids": ids[:, :4], "attention_mask": mask[:, :4]})
    short = gather(model, {name: name}, feed, 2, tmp_path)
    assert padded.rows == short.rows == {name: 8}
    (one, other) = (found.moment(name) for found in (padded, short))
    assert one is not None
    assert other is not None
    assert torch.allclose(one, other, rtol=1e-4, atol=1e-6)


def test_sums_lie_in_a_file_without_a_name(tmp_path: Path) -> None:
    moments = Moments.of({"a": 3, "b": 5}, tmp_path)
    assert not list(tmp_path.iterdir())
    x = torch.arange(12.0).reshape(4, 3)
    moments.add("a", x[:1])
    moments.add("a", x[1:])
    found = moments.moment("a")
    assert found is not None
    assert torch.allclose(found, (x.T @ x / 4).double())
    assert moments.moment("b") is None
    assert moments.moment("c") is None


def test_a_weight_that_an_embedding_shares_is_no_linear_maps(tiny_qwen2: Path, tiny_llama: Path) -> None:
    from transformers import AutoModelForCausalLM

    for folder, tied in ((tiny_qwen2, True), (tiny_llama, False)):
        maps = linear_maps(AutoModelForCausalLM.from_pretrained(folder))
        assert ("lm_head.weight" in maps) is not tied
        assert "model.embed_tokens.weight" not in maps
        assert maps[f"{UP}.weight"] == [UP]
