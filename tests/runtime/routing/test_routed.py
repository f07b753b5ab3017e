"""A model whose requests are answered each by their packs: grouping, ensembles, generation, what never changes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import archspec
from archspec.diagnostics import ArchspecError
from archspec.packs.router import Active
from archspec.runtime.routing.router import Choice, Router, open_router
from tests.packs import packed, rules, tuned_from
from tests.runtime.routing.conftest import EXAMPLES, routed_by

INPUTS = torch.arange(3, 15).reshape(4, 3)
MAP = (
    "{name: sql, packs: [sql.skillpack.safetensors]}, {name: code, packs: [code.skillpack.safetensors]}, "
    "{name: both, packs: [sql.skillpack.safetensors, code.skillpack.safetensors, law.skillpack.safetensors]}, "
    "{name: htob, packs: [law.skillpack.safetensors, code.skillpack.safetensors, sql.skillpack.safetensors]}, "
    "{name: half, packs: [{from: sql.skillpack.safetensors, scale: 0.5}]}, {name: chat, packs: []}"
)


@pytest.fixture(scope="module")
def router(shop: Path) -> Router:
    return open_router(routed_by(shop, "map", "by: map", MAP))


def model_of(folder: Path) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder).eval()


@pytest.fixture
def model(shop: Path) -> Any:
    return model_of(shop / "base")


def logits(model: Any, inputs: Tensor = INPUTS) -> Tensor:
    with torch.no_grad():
        found: Tensor = model(inputs).logits
    return found


def test_every_request_is_answered_by_its_packs(shop: Path, model: Any, router: Router) -> None:
    with archspec.routed(model, router) as skills, torch.no_grad():
        found = skills(INPUTS, tasks=["code", "sql", None, "code"])
    with archspec.skills(model, shop / "code.skillpack.safetensors"):
        assert torch.equal(found[[0, 3]], logits(model, INPUTS[[0, 3]]))
    with archspec.skills(model, shop / "sql.skillpack.safetensors"):
        assert torch.equal(found[1:2], logits(model, INPUTS[1:2]))
    assert torch.equal(found[2:3], logits(model, INPUTS[2:3]))
    assert not torch.allclose(found, logits(model), atol=1e-3)


def test_a_set_runs_once_on_its_own_rows(model: Any, router: Router) -> None:
    seen = []

    def run(model: Any, inputs: Any) -> Any:
        seen.append(len(inputs))
        return model(inputs)

    with archspec.routed(model, router) as skills, torch.no_grad():
        skills(INPUTS, ["sql", "chat", "sql", None], run)
    assert seen == [2, 2]


def test_the_order_in_which_packs_are_written_changes_no_bit(model: Any, router: Router) -> None:
    with archspec.routed(model, router) as skills, torch.no_grad():
        assert torch.equal(skills(INPUTS, ["both"] * 4), skills(INPUTS, ["htob"] * 4))


@pytest.mark.parametrize("mode", ["weights", "branch"])
def test_the_base_stays_the_base(model: Any, router: Router, mode: Any) -> None:
    places = {name: value.data_ptr() for name, value in model.state_dict().items()}
    bits = {name: value.clone() for name, value in model.state_dict().items()}
    with archspec.routed(model, router, mode=mode) as skills, torch.no_grad():
        skills(INPUTS, ["code", "sql", None, "half"])
        with pytest.raises(ZeroDivisionError):
            skills(INPUTS, ["sql"] * 4, lambda *_: 1 / 0)
        with skills.task("sql"):
            assert not torch.equal(model.state_dict()["model.norm.weight"], bits["model.norm.weight"])
        with skills.task(None):
            assert torch.equal(model.state_dict()["model.norm.weight"], bits["model.norm.weight"])
    assert {name: value.data_ptr() for name, value in model.state_dict().items()} == places
    assert all(torch.equal(value, bits[name]) for name, value in model.state_dict().items())


def test_one_name_is_the_task_of_every_request(model: Any, router: Router) -> None:
    options = {"max_new_tokens": 3, "do_sample": False}
    with archspec.routed(model, router) as skills, torch.no_grad():
        assert torch.equal(skills(INPUTS, "sql"), skills(INPUTS, ["sql"] * 4))
        assert torch.equal(skills.generate(INPUTS, "sql", **options), skills.generate(INPUTS, ["sql"] * 4, **options))
        with pytest.raises(ArchspecError, match=r"AS687.*'sqll'") as caught:
            skills(INPUTS, "sqll")
    assert len(caught.value.diagnostics) == 1


@pytest.mark.parametrize("tasks", [[], ["sql"], ["sql"] * 5])
def test_more_or_fewer_tasks_than_requests_are_refused(model: Any, router: Router, tasks: list[str]) -> None:
    told = f"AS687.*{len(tasks)} tasks? for 4 requests"
    with archspec.routed(model, router) as skills, torch.no_grad():
        for ask in (skills, skills.generate):
            with pytest.raises(ArchspecError, match=told):
                ask({"input_ids": INPUTS}, tasks)


def chosen(router: Router, monkeypatch: pytest.MonkeyPatch, *weights: dict[str, float]) -> None:
    """Have a map choose these for every batch."""
    monkeypatch.setattr(Router, "route", lambda *_: [Choice(w) for w in weights])


def test_several_tasks_are_a_mean_of_probabilities(model: Any, router: Router, monkeypatch: pytest.MonkeyPatch) -> None:
    shares = {"sql": 0.7, "code": 0.3}
    chosen(router, monkeypatch, shares, {"sql": 1.0}, {}, {"code": 0.5, "chat": 0.5})
    with archspec.routed(model, router) as skills, torch.no_grad():
        found = skills(INPUTS)
        each = {t: skills(INPUTS, [t] * 4).softmax(-1) for t in ("sql", "code")}
        base = logits(model)
        assert torch.allclose(found[0].exp(), 0.7 * each["sql"][0] + 0.3 * each["code"][0], atol=1e-6)
        assert torch.equal(found[1:2], skills(INPUTS[:2], ["sql", "sql"])[1:])
        assert torch.allclose(found[1:2], skills(INPUTS[:2], ["code", "sql"])[1:], atol=1e-5)  # a row of its own
        assert torch.allclose(found[2], base[2], atol=1e-5)
        assert torch.allclose(found[3].exp(), 0.5 * each["code"][3] + 0.5 * base[3].softmax(-1), atol=1e-6)


def test_outputs_that_are_no_logits_are_averaged(model: Any, router: Router, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen(router, monkeypatch, *[{"sql": 0.25, "code": 0.75}] * 4)

    def states(model: Any, inputs: Tensor) -> Tensor:
        found: Tensor = model.model(inputs).last_hidden_state
        return found

    with archspec.routed(model, router) as skills, torch.no_grad():
        a, b = (skills(INPUTS, [t] * 4, states) for t in ("sql", "code"))
        assert torch.allclose(skills(INPUTS, run=states), 0.25 * a + 0.75 * b, atol=1e-6)


def test_tasks_of_one_set_share_a_run(model: Any, router: Router, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen(router, monkeypatch, *[{"both": 0.5, "htob": 0.5}] * 4)
    with archspec.routed(model, router) as skills, torch.no_grad():
        assert torch.equal(skills(INPUTS), skills(INPUTS, ["both"] * 4))


LEFT = {
    "input_ids": torch.tensor([[0, 0, 5, 6], [7, 8, 9, 10], [0, 11, 12, 13]]),
    "attention_mask": torch.tensor([[0, 0, 1, 1], [1, 1, 1, 1], [0, 1, 1, 1]]),
}


def test_generation_by_tasks_is_that_of_each_pack(shop: Path, model: Any, router: Router) -> None:
    options = {"max_new_tokens": 6, "do_sample": False}
    with archspec.routed(model, router) as skills:
        found = skills.generate(LEFT, ["sql", None, "code"], **options)
    for row, pack in enumerate(("sql", None, "code")):
        one = {name: value[row : row + 1] for name, value in LEFT.items()}
        context = archspec.skills(model, *([shop / f"{pack}.skillpack.safetensors"] if pack else []))
        with context:
            wanted = model.generate(**one, **options)[0]
        assert torch.equal(found[row][: len(wanted)], wanted)


@pytest.mark.parametrize("mode", ["weights", "branch"])
def test_generation_by_several_tasks_follows_the_mean(
    model: Any, router: Router, monkeypatch: pytest.MonkeyPatch, mode: Any
) -> None:
    shares: dict[str, float] = {"sql": 0.6, "code": 0.4}
    chosen(router, monkeypatch, *[shares] * 3)
    with archspec.routed(model, router, mode=mode) as skills, torch.no_grad():
        found = skills.generate(LEFT, max_new_tokens=5, do_sample=False, eos_token_id=None)
        for row in range(3):
            ids = LEFT["input_ids"][row][LEFT["attention_mask"][row].bool()][None]
            for step in range(5):
                mean = sum(w * skills(ids, [t]).softmax(-1)[0, -1] for t, w in shares.items())
                assert isinstance(mean, Tensor)
                token = found[row, 4 + step]
                assert mean[token] > mean.max() - 1e-5
                ids = torch.cat([ids, token[None, None]], 1)
        with pytest.raises(ValueError, match="num_beams"):
            skills.generate(LEFT, max_new_tokens=2, num_beams=2)


@pytest.mark.parametrize("by", ["prototypes", "classifier"])
def test_prompts_are_routed_by_the_base(shop: Path, model: Any, by: str) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(shop / "base")
    path = routed_by(shop, by, f"by: {by}, layer: 0, top: 2")
    prompts = ["count users rows", "print sort", "how you", "select"]
    with archspec.routed(model, path, tokenizer) as skills, torch.no_grad():
        choices = skills.route(prompts)
        assert [choice.task for choice in choices] == ["sql", "code", "chat", "sql"]
        assert skills.route([]) == []
        assert skills.route("print sort") == skills.route(["print sort"])
        assert all(len(c.weights) == 2 and abs(sum(c.weights.values()) - 1) < 1e-6 for c in choices)
        tokens = tokenizer(prompts, padding=True, padding_side="left", return_tensors="pt")
        again = skills.route(tokens)
        assert [choice.task for choice in again] == [choice.task for choice in choices]
        assert [choice.score for choice in again] == pytest.approx([choice.score for choice in choices], abs=1e-4)
        with skills.task("sql"):
            with pytest.raises(RuntimeError, match="route before"):
                skills.route(prompts)
            assert skills.router.active("sql") == (Active("sql.skillpack.safetensors"),)
        assert skills(tokens).shape[0] == 4
    for task, lines in EXAMPLES.items():
        found = archspec.routed(model, path, tokenizer).route(lines)
        assert [choice.task for choice in found].count(task) >= len(lines) - 1


def test_what_is_learnt_later_changes_nothing_of_what_there_is(shop: Path, model: Any, tmp_path: Path) -> None:
    """Two packs, then a third: the same base, the same files, the same answers bit by bit."""
    files = [*sorted((shop / "base").iterdir()), *(shop / f"{n}.skillpack.safetensors" for n in ("sql", "code"))]
    before = {path: path.read_bytes() for path in files}
    tasks = [f"{{name: {n}, packs: [{n}.skillpack.safetensors]}}" for n in ("sql", "code")]
    with archspec.routed(model, routed_by(shop, "first", "by: map", ", ".join(tasks))) as skills, torch.no_grad():
        answers = {n: skills(INPUTS, [n] * 4) for n in ("sql", "code")}
    tuned = tuned_from(shop / "base", tmp_path / "tuned", size=0.2, rank=3)
    packed(shop, shop / "base", f"{{tuned: {tuned}, {rules(shop / 'base', '[sign]')}}}", "later")
    tasks.append("{name: later, packs: [later.skillpack.safetensors]}")
    with archspec.routed(model, routed_by(shop, "second", "by: map", ", ".join(tasks))) as skills, torch.no_grad():
        skills(INPUTS, ["later"] * 4)
        assert all(torch.equal(skills(INPUTS, [n] * 4), answer) for n, answer in answers.items())
    assert {path: path.read_bytes() for path in files} == before


def test_a_model_that_is_not_the_base_is_refused_when_it_is_entered(shop: Path, router: Router) -> None:
    with pytest.raises(ArchspecError, match="AS681"), archspec.routed(model_of(shop / "sql-tuned"), router):
        pass


def test_embeddings_of_another_base_are_refused_though_no_pack_changes_it(shop: Path, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    tuned = tuned_from(shop / "base", tmp_path / "tuned")
    only = rules(shop / "base", "[none]", mlp="[{op: quantize, bits: 4}]")
    packed(shop, shop / "base", f"{{tuned: {tuned}, {only}}}", "mlp")
    tasks = "{name: mlp, packs: [mlp.skillpack.safetensors], examples: sql.txt}"
    path = routed_by(shop, "narrow", "by: prototypes", tasks)
    model, tokenizer = model_of(shop / "base"), AutoTokenizer.from_pretrained(shop / "base")
    with archspec.routed(model, path, tokenizer) as skills:
        assert len(skills.route(["count users"])) == 1
    with torch.no_grad():
        model.model.embed_tokens.weight[5] += 0.1
    with pytest.raises(ArchspecError, match=r"AS689.*embed_tokens"), archspec.routed(model, path, tokenizer):
        pass


def test_the_model_may_have_lost_its_head(shop: Path) -> None:
    from transformers import AutoModel, AutoTokenizer

    model: Any = AutoModel.from_pretrained(shop / "base").eval()
    tokenizer = AutoTokenizer.from_pretrained(shop / "base")
    tasks = "{name: chat, packs: [], examples: chat.txt}, {name: sql, packs: [], examples: sql.txt}"
    with archspec.routed(model, routed_by(shop, "headless", "by: prototypes", tasks), tokenizer) as skills:
        assert skills.route(["hello you"])[0].task == "chat"


def test_switching_decodes_nothing(shop: Path, model: Any, router: Router, monkeypatch: pytest.MonkeyPatch) -> None:
    from archspec.runtime.packs.reading import Pack

    with archspec.routed(model, router) as skills, torch.no_grad():
        monkeypatch.setattr(Pack, "delta", lambda *_: pytest.fail("decoded again"))
        for _ in range(2):
            skills(INPUTS, ["sql", "code", "both", "half"])
