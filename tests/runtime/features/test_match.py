"""Matching: exact on rolled features, the same by chunks, right on any grid."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor

from archspec.injection import Match
from archspec.runtime.features.match import accepted, distance, owners, pair


def features(count: int, width: int = 24, seed: int = 0) -> Tensor:
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("grid", [(6, 6), (5, 9), (3, 17)])
def test_rolled_features_give_back_the_roll(grid: tuple[int, int]) -> None:
    rows, columns = grid
    donor = features(rows * columns).reshape(rows, columns, -1)
    target = donor.roll((2, 3), (0, 1))
    places = torch.arange(rows * columns).reshape(rows, columns)
    wanted = torch.empty_like(places)
    for row in range(rows):
        for column in range(columns):
            wanted[row, column] = places[(row + 2) % rows, (column + 3) % columns]
    found = pair(donor.flatten(0, 1), target.flatten(0, 1))
    assert torch.equal(found.target, wanted.flatten())
    assert torch.equal(found.back, places.flatten())
    assert accepted(found, Match(threshold=0.99, cycle=0.0, mutual=True), grid).all()


def test_permuted_targets_permute_the_matches() -> None:
    donor, target = features(40), features(40, seed=1)
    order = torch.randperm(40, generator=torch.Generator().manual_seed(2))
    plain, permuted = pair(donor, target), pair(donor, target[order])
    assert torch.equal(order[permuted.target], plain.target)


@pytest.mark.parametrize("chunk", [1, 7, 39, 4096])
def test_chunks_change_nothing(chunk: int) -> None:
    donor, target = features(40), features(33, seed=1)
    whole, parts = pair(donor, target), pair(donor, target, chunk)
    assert torch.equal(whole.target, parts.target)
    assert torch.equal(whole.donor, parts.donor)
    torch.testing.assert_close(whole.similarity, parts.similarity, rtol=0, atol=1e-6)


def test_it_is_the_dense_argmax() -> None:
    donor, target = features(30).double(), features(20, seed=1).double()
    cosines = torch.nn.functional.cosine_similarity(donor[:, None], target[None], dim=-1)
    found = pair(donor, target, 8)
    assert torch.equal(found.target, cosines.argmax(1))
    assert torch.equal(found.donor, cosines.argmax(0))


def test_half_precision_is_matched_in_float32() -> None:
    donor = features(64).bfloat16()
    found = pair(donor, donor)
    assert found.similarity.dtype == torch.float32
    assert torch.equal(found.target, torch.arange(64))


def test_thresholds_and_cycles_are_monotone() -> None:
    found = pair(features(64), features(64, seed=1))
    for name, values in (("threshold", [0.6, 0.4, 0.2, -1.0]), ("cycle", [0.0, 1.0, 3.0, 99.0])):
        changes: list[dict[str, Any]] = [{name: value} for value in values]
        kept = [accepted(found, Match(**change), (8, 8)) for change in changes]
        for tight, loose in itertools.pairwise(kept):
            assert not (tight & ~loose).any()
        assert kept[0].sum() < kept[-1].sum()


def test_a_cycle_of_zero_is_the_mutual_nearest() -> None:
    found = pair(features(64), features(64, seed=1))
    assert torch.equal(accepted(found, Match(cycle=0.0), (8, 8)), accepted(found, Match(mutual=True), (8, 8)))


def test_distances_in_tokens_do_not_know_the_grid_and_normalised_ones_do() -> None:
    for rows, columns in ((4, 8), (16, 8)):
        back = torch.arange(rows * columns)
        back[0] = columns + 2
        assert distance(back, (rows, columns))[0] == pytest.approx(5**0.5)
        wanted = ((2 / rows) ** 2 + (4 / columns) ** 2) ** 0.5
        assert distance(back, (rows, columns), "normalised")[0] == pytest.approx(wanted)


def test_candidates_are_within_their_masks() -> None:
    donor, target = features(30), features(30, seed=1)
    donors, targets = torch.arange(30) < 10, torch.arange(30) >= 20
    found = pair(donor, target, 7, donors, targets)
    assert (found.target[:10] >= 20).all()
    assert (found.donor[20:] < 10).all()
    assert not accepted(found, Match(), (5, 6))[10:].any()


def test_a_token_has_one_owner() -> None:
    target = features(30)
    near, far = target + 0.01 * features(30, seed=3), target + 0.5 * features(30, seed=4)
    pairs = [pair(far, target), pair(near, target)]
    owned = owners(pairs)
    assert owned[1].all()
    assert not owned[0].any()
