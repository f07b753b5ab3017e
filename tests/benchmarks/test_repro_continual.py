"""Continual learning at a very small scale: what packs answer never changes, and the page says what was measured."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from benchmarks import continual, continual_page, continual_study
from benchmarks.continual import BOS, EQUALS, FIRST, LETTERS, PROMPT, SEEN, SHAPE, SKILLS, TASKS, WORDS, Course
from benchmarks.continual_page import forgotten, kept, page, picture
from benchmarks.continual_study import Measured, Plan, Row, Study, merge, routed_stages, stays

SMALL = Plan(Course(12, 16), Course(12, 16), Course(12, 16), Course(12, 16), tests=32)


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    return Study(tmp_path_factory.mktemp("continual"), 0, SMALL)


@pytest.fixture(autouse=True)
def one_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(continual_study, "BUDGETS", (20,))


def test_answers_are_what_the_tasks_say() -> None:
    letters = torch.tensor([[3, 1, 9, 9, 0, 5]])
    found = {task: continual.answer(task, letters)[0].tolist() for task in TASKS}
    assert found == {
        "copy": [3, 1, 9, 9, 0, 5],
        "sort": [0, 1, 3, 5, 9, 9],
        "reverse": [5, 0, 9, 9, 1, 3],
        "shift": [6, 4, 2, 2, 3, 8],
    }


def test_sequences_are_a_word_letters_and_their_answer() -> None:
    draws = torch.Generator().manual_seed(0)
    for place, task in enumerate(TASKS):
        batch = continual.sequences(task, 200, draws)
        words = batch[:, 1] - FIRST - LETTERS - WORDS * place
        assert set(words.tolist()) == set(range(SEEN))
        assert (batch[:, 0] == BOS).all()
        assert (batch[:, PROMPT - 1] == EQUALS).all()
        wanted = continual.answer(task, batch[:, 2 : PROMPT - 1] - FIRST)
        assert torch.equal(batch[:, PROMPT:] - FIRST, wanted)
        assert int(batch.max()) < SHAPE["vocab_size"]
    last = FIRST + LETTERS + WORDS * len(TASKS) - 1
    assert int(continual.sequences(TASKS[-1], 200, draws, WORDS)[:, 1].max()) == last < SHAPE["vocab_size"]


def test_right_answers_are_those_of_greedy_decoding() -> None:
    """A model trained for a moment on constant answers is right sometimes; decoding token by token agrees."""
    model = continual.new_model(0)
    batch = continual.sequences("sort", 64, torch.Generator().manual_seed(1))
    batch[:, PROMPT:] = batch[:, 2:3]  # six times the first letter: learnt at once
    weights = torch.optim.AdamW(model.parameters(), 3e-3)
    for _ in range(60):
        weights.zero_grad()
        torch.autograd.backward(continual.answer_loss(model, batch[:32]))
        weights.step()
    model.eval()
    with torch.no_grad():
        told = continual.right(model(batch).logits, batch)
        out = model.generate(batch[:, :PROMPT], max_new_tokens=6, do_sample=False, eos_token_id=None)
    assert told == float((out[:, PROMPT:] == batch[:, PROMPT:]).all(1).float().mean())
    assert 0 < told < 1


def test_what_packs_answer_stays_bit_by_bit(study: Study) -> None:
    before = (study.base / "model.safetensors").read_bytes()
    assert stays(study)
    stages = list(routed_stages(study, "map", 20))
    assert len(stages) == len(SKILLS)
    assert (study.base / "model.safetensors").read_bytes() == before


def test_that_it_stays_is_a_test_that_can_fail(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first skill's pack exchanged at the third stage."""
    first, whole = Study.router, study.pack

    def router(self: Study, by: str, skills: tuple[str, ...], budget: int, top: int = 1) -> Path:
        if len(skills) == len(SKILLS):
            monkeypatch.setattr(Study, "pack", lambda self, skill, budget: whole(SKILLS[-1], budget))
        return first(self, by, skills, budget, top)

    monkeypatch.setattr(Study, "router", router)
    assert not stays(study)


def test_finished_models_are_not_trained_again(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    base, tuned = study.base, study.tuned(SKILLS[0])
    monkeypatch.setattr(continual_study, "teach", lambda *_, **__: pytest.fail("trained again"))
    again = Study(study.out, 0, SMALL)
    assert (again.base, again.tuned(SKILLS[0]), again.sequential(0)) == (base, tuned, tuned)


@pytest.mark.parametrize("title", continual_study.MERGES)
def test_every_setting_of_merges_is_one(study: Study, title: str) -> None:
    texts = continual_study.MERGES[title]
    assert texts
    merged = merge(study, texts[-1], SKILLS[:2])
    assert sum(p.numel() for p in merged.parameters()) == sum(p.numel() for p in continual.new_model(0).parameters())


def row(title: str, *stages: list[float]) -> Row:
    return Row(title, list(stages), 1000)


FORGETS = row("sequential finetuning", [1.0, 0.9, 0.0, 0.0], [0.5, 0.4, 0.8, 0.0], [0.0, 0.1, 0.2, 0.9])


def test_what_is_kept_and_forgotten() -> None:
    assert kept(FORGETS) == pytest.approx((0.1 + 0.2 + 0.9) / 3)
    assert forgotten(FORGETS) == pytest.approx(((0.9 - 0.1) + (0.8 - 0.2)) / 2)
    keeps = row("packs", [1.0, 0.9, 0.0, 0.0], [1.0, 0.9, 0.8, 0.0], [1.0, 0.9, 0.8, 0.7])
    assert forgotten(keeps) == 0


def test_the_page_has_every_row_and_the_picture_every_way(tmp_path: Path) -> None:
    rows = [replace(FORGETS, title=title) for title in (*continual_page.SHOWN, "all tasks at once (joint)")]
    one = Measured(rows, {"classifier": (1.0, 0.9)}, True, 0.5, 30)
    text = page([one, replace(one, exact=False)], "continual.svg")
    for title in (each.title for each in rows):
        assert text.count(f"| {title} |") == (1 if title.startswith("all tasks") else 2)
    assert "in 1 of 2 seeds" in text
    assert "0.400 ± 0.000 | 0.700 ± 0.000 |" in text
    assert "Not all is measured" in page([replace(one, routed={}), one], "continual.svg")
    fewer = replace(one, rows=rows[1:])
    assert f"| {rows[0].title} |" not in page([one, fewer], "continual.svg")
    picture([one, fewer], tmp_path / "fewer.svg")
    drawn = []
    for _ in range(2):
        picture([one, one], tmp_path / "x.svg")
        drawn.append((tmp_path / "x.svg").read_text())
    assert drawn[0] == drawn[1]
    assert all(f">{name}</text>" in drawn[0] for name in (*continual_page.SHOWN.values(), *TASKS))
