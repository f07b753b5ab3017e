"""The small skill: its language, what is tuned and measured, at a very small scale, and its page."""

from __future__ import annotations

import json
import re
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from benchmarks import skill_page, skill_sql, skill_study, skill_tune
from benchmarks.skill_sql import NUMBERS, TABLES, VALUES, examples
from benchmarks.skill_study import Exam, Tuning, measure, recorded
from benchmarks.skill_tune import IGNORED, Setting, batched


def test_every_answer_is_sql_about_its_table() -> None:
    for example in examples(400, 5, held=False):
        schema = example.prompt.splitlines()[0]
        database = sqlite3.connect(":memory:")
        database.execute(f"CREATE TABLE {schema}")
        database.execute(example.answer)
        database.close()


def test_what_is_asked_of_held_out_was_never_taught() -> None:
    taught, held = examples(600, 0, held=False), examples(300, 1, held=True)
    assert len({e.prompt for e in taught}) == 600
    names, values = TABLES[1].split(), [v for _, some in VALUES.values() for v in some.split()]
    for example in taught:
        words = set(re.findall(r"\w+", example.prompt + example.answer))
        assert not words & {*names, *values}
    assert all(re.match(r"\w+", example.prompt)[0] in names for example in held)  # type: ignore[index]


def test_examples_are_drawn_by_their_seed() -> None:
    assert examples(50, 3, held=False) == examples(50, 3, held=False)
    assert examples(50, 3, held=False) != examples(50, 4, held=False)


def test_adjectives_of_two_columns_are_not_asked_of_both() -> None:
    writer = skill_sql.Writer(0, held=False)
    both = skill_sql.Table("ships", ("age", "year"), ("city", "brand"), held=False)
    assert NUMBERS["age"][2] == NUMBERS["year"][3] == "oldest"
    assert not [q for q, _ in (skill_sql._top(writer, both) for _ in range(200)) if "oldest" in q]


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A tiny Llama that reads letters in place of SmolLM2, few steps, few questions: both tunings, measured."""
    folder = tmp_path_factory.mktemp("skill")
    write_tiny(folder / "base")
    with pytest.MonkeyPatch.context() as patch:
        for kind in skill_tune.SETTINGS:
            patch.setitem(skill_tune.SETTINGS, kind, Setting(2e-2, 6, 4))
        patch.setattr(skill_tune, "RANK", 2)
        patch.setattr(skill_study, "QUESTIONS", 6)
        patch.setattr(skill_study, "BUDGETS", (50,))
        patch.setattr(skill_page, "BUDGETS", (50,))
        for kind in skill_tune.SETTINGS:
            measure(Tuning(kind, folder))
        yield folder


def write_tiny(folder: Path) -> None:
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    letters = ["<eos>", "<unk>", *map(chr, range(32, 127)), "\n"]
    words = Tokenizer(models.WordLevel({letter: i for i, letter in enumerate(letters)}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Split(Regex("[\\s\\S]"), "isolated")
    names = {"eos_token": "<eos>", "bos_token": "<eos>", "unk_token": "<unk>"}
    PreTrainedTokenizerFast(tokenizer_object=words, **names).save_pretrained(folder)
    torch.manual_seed(0)
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = LlamaConfig(**shape, num_key_value_heads=2, vocab_size=len(letters), tie_word_embeddings=True)
    LlamaForCausalLM(config).save_pretrained(folder)


def test_what_is_measured_is_on_record(out: Path) -> None:
    for kind in skill_tune.SETTINGS:
        rows = recorded(Tuning(kind, out))
        assert set(rows) == {"base", "tuned", *skill_page.wanted()}
        assert rows["tuned"].error == 0 < rows["pack-50"].error < rows["bitdelta"].error < rows["base"].error == 1
        assert rows["pack-50"].size <= rows["tuned"].size / 2
        assert len(rows["tuned"].right) == 6
        taught, before = (skill_page.loss(rows[name], skill_page.SKILL) for name in ("tuned", "base"))
        assert taught < before


def test_a_lora_changes_linear_maps_alone(out: Path) -> None:
    names = Tuning("lora", out).subject.delta
    assert names
    assert all(name.split(".")[-2] in skill_tune.MAPS for name in names)
    assert "model.embed_tokens.weight" in Tuning("full", out).subject.delta


def test_right_is_what_greedy_decoding_writes(out: Path) -> None:
    exam = Exam(out)
    short = [{"input_ids": [40, 50, 60], "labels": [IGNORED, IGNORED, 60]}]
    written = exam.model.generate(torch.tensor([[40, 50]]), max_new_tokens=2, min_new_tokens=2, do_sample=False)[0]
    exam.asked = [{"input_ids": written.tolist(), "labels": [IGNORED, IGNORED, *written.tolist()[2:]]}, *short]
    row = exam.row("", 0, 1.0, {})
    assert row.right == [1, int(written[2] == 60)]
    assert row.tokens == [2, 1]


def test_a_stopped_study_goes_on(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tuning = Tuning("full", out)
    path = tuning.folder / "pruning-50.json"
    before = path.read_text()
    path.unlink()
    measure(tuning)
    again, known = (json.loads(text) for text in (path.read_text(), before))
    assert again["loss"] == pytest.approx(known["loss"])
    assert again["size"] == known["size"]
    assert capsys.readouterr().out.count("full: ") == 1


def test_the_page_has_every_row(out: Path) -> None:
    found = {kind: recorded(Tuning(kind, out)) for kind in skill_tune.SETTINGS}
    text = skill_page.page(found, out)
    assert text.count("| SkillPack |") == 2
    others = [(name, rows) for rows in found.values() for name in skill_page.ordered(rows) if name != "pack-50"]
    assert text.count("| 50 % |") == sum(skill_page.beside(name, rows) == 50 for name, rows in others) > 3
    assert "Not measured" not in text
    some = {name: row for name, row in found["full"].items() if name != "bitdelta"}
    assert "Not measured: bitdelta." in skill_page.page({"full": some}, out)


def test_labels_are_the_answer_and_its_end() -> None:
    rows = [{"input_ids": [5, 6, 7], "labels": [IGNORED, 6, 7]}, {"input_ids": [8], "labels": [8]}]
    batch = batched(rows, pad=0)
    assert batch["input_ids"].tolist() == [[5, 6, 7], [8, 0, 0]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 0, 0]]
    assert batch["labels"].tolist() == [[IGNORED, 6, 7], [8, IGNORED, IGNORED]]
