"""Questions, terms and pairs are what the page says of them; measures are what their names say."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch

from benchmarks import retrieval
from benchmarks.retrieval import Wanted, difference, difference_of_spearman, kept, read, score, spearman, texts


def test_questions_are_many_of_many_topics_and_none_is_asked_twice() -> None:
    rows = read("questions")
    topics = Counter(row["topic"] for row in rows)
    assert len(rows) >= 200
    assert set(retrieval.AT_HOME) < set(topics)
    assert min(topics.values()) >= 14
    assert len({row["question"] for row in rows}) == len({row["answer"] for row in rows}) == len(rows)
    assert 0.4 < retrieval.at_home().mean() < 0.7


def test_terms_and_sentences_are_there_once() -> None:
    for some in (texts()["terms"], texts()["descriptions"], texts()["sentences"]):
        assert len(some) == len(set(some)) >= 140
        assert all(text.strip() for text in some)


def test_pairs_have_every_grade() -> None:
    grades = Counter(row["score"] for row in read("similarity"))
    assert sorted(grades) == [0, 1, 2, 3, 4, 5]
    assert min(grades.values()) >= 20


def test_measures_of_embeddings_that_are_known() -> None:
    sets = {name: torch.nn.functional.one_hot(torch.arange(len(some)), 400).float() for name, some in texts().items()}
    wanted = Wanted.of(sets.__getitem__)
    found = score(sets.__getitem__, wanted)
    for values in (found.cosine, found.order, found.same, found.rank, found.first, found.terms, found.pairs):
        assert values == pytest.approx(np.ones(len(values)))
    sets["questions"] = sets["questions"].roll(1, 0)  # every question finds its neighbour's answer
    lost = score(sets.__getitem__, wanted)
    assert lost.same.sum() == lost.first.sum() == 0
    assert (lost.rank < 1).all()
    assert lost.cosine == pytest.approx(found.cosine)


def test_intervals_are_paired_and_hold_the_truth() -> None:
    rng = np.random.default_rng(1)
    a = rng.random(300)
    assert difference(a + 0.01, a) == pytest.approx((0.01, 0.01))
    low, high = difference(rng.random(300), a)
    assert low < 0 < high
    assert kept(2 * a, a) == pytest.approx((2, 2))
    order = np.arange(100.0)
    low, high = difference_of_spearman(order, -order, order)
    assert spearman(order, order) == pytest.approx(1)
    assert (low, high) == pytest.approx((2, 2))
