"""Attention with donors' keys: identities that the arithmetic must have."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from archspec.runtime.features.attention import Keys, adapted, attend, attend_grafted

HEADS, TOKENS, WIDTH = 2, 12, 8
ALL = torch.ones(TOKENS, dtype=torch.bool)
IMAGE = slice(4, TOKENS)


def draw(seed: int, tokens: int = TOKENS) -> Tensor:
    return torch.randn(HEADS, tokens, WIDTH, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


Q, K, V = draw(0), draw(1), draw(2)


def dense(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | float = 0.0) -> Tensor:
    return (q @ k.transpose(1, 2) / math.sqrt(WIDTH) + bias).softmax(-1) @ v


@pytest.mark.parametrize("times", [1, 3])
def test_copies_of_keys_are_a_logarithm_on_their_logits(times: int) -> None:
    keys = [Keys(K[:, IMAGE], V[:, IMAGE], ALL)] * times
    bias = torch.zeros(TOKENS, dtype=torch.float64)
    bias[IMAGE] = math.log(1 + times)
    found = attend_grafted(Q, K, V, keys, IMAGE)
    torch.testing.assert_close(found, dense(Q, K, V, bias), rtol=0, atol=1e-14)
    assert (found - dense(Q, K, V)).abs().max() > 1e-2


def test_a_copy_of_every_key_changes_nothing() -> None:
    found = attend_grafted(Q, K, V, [Keys(K, V, ALL)], IMAGE)
    torch.testing.assert_close(found, attend(Q[None], K[None], V[None])[0], rtol=0, atol=1e-14)


def test_strength_is_added_to_logits() -> None:
    k, v = draw(3, 5), draw(4, 5)
    bias = torch.cat([torch.zeros(TOKENS).double(), torch.full((5,), -0.7, dtype=torch.float64)])
    found = attend_grafted(Q, K, V, [Keys(k, v, ALL, strength=-0.7)], IMAGE)
    torch.testing.assert_close(found, dense(Q, torch.cat([K, k], 1), torch.cat([V, v], 1), bias), rtol=0, atol=1e-14)


def test_queries_that_do_not_see_donors_are_as_they_were() -> None:
    seen = torch.arange(TOKENS) % 3 == 0
    k, v = draw(3, 5), draw(4, 5)
    found = attend_grafted(Q, K, V, [Keys(k, v, seen)], IMAGE)
    wide = dense(Q, torch.cat([K, k], 1), torch.cat([V, v], 1))
    torch.testing.assert_close(found, torch.where(seen[:, None], wide, dense(Q, K, V)), rtol=0, atol=1e-14)


def test_the_order_of_donors_does_not_count() -> None:
    one, two = Keys(draw(3, 5), draw(4, 5), ALL), Keys(draw(5, 3), draw(6, 3), torch.arange(TOKENS) > 2)
    there, back = attend_grafted(Q, K, V, [one, two], IMAGE), attend_grafted(Q, K, V, [two, one], IMAGE)
    torch.testing.assert_close(there, back, rtol=0, atol=1e-14)


def test_replaced_keys_leave_the_context() -> None:
    k, v = draw(3, 5), draw(4, 5)
    found = attend_grafted(Q, K, V, [Keys(k, v, ALL, replaces=True)], IMAGE)
    wanted = dense(Q, torch.cat([K[:, :4], k], 1), torch.cat([V[:, :4], v], 1))
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-14)


def test_weights_mix_outputs() -> None:
    k, v = draw(3, 5), draw(4, 5)
    found = attend_grafted(Q, K, V, [Keys(k, v, ALL, weight=0.3)], IMAGE)
    wide = dense(Q, torch.cat([K, k], 1), torch.cat([V, v], 1))
    torch.testing.assert_close(found, 0.7 * dense(Q, K, V) + 0.3 * wide, rtol=0, atol=1e-14)


@pytest.mark.parametrize("boolean", [True, False])
def test_a_hosts_mask_is_kept(boolean: bool) -> None:
    hidden = torch.zeros(1, 1, TOKENS, dtype=torch.bool)
    hidden[..., :2] = True
    mask = ~hidden if boolean else torch.zeros(1, 1, TOKENS, dtype=torch.float64).masked_fill(hidden, -torch.inf)
    k, v = draw(3, 5), draw(4, 5)
    found = attend_grafted(Q, K, V, [Keys(k, v, torch.arange(TOKENS) > 5)], IMAGE, mask)
    plain = dense(Q, K[:, 2:], V[:, 2:])
    wide = dense(Q, torch.cat([K[:, 2:], k], 1), torch.cat([V[:, 2:], v], 1))
    wanted = torch.where((torch.arange(TOKENS) > 5)[:, None], wide, plain)
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-14)


def test_statistics_are_the_donors() -> None:
    x, donor = draw(3, 40), 3 * draw(4, 50) + 1
    found = adapted(x, donor, eps=0.0)
    torch.testing.assert_close(found.mean(1), donor.mean(1), rtol=0, atol=1e-12)
    torch.testing.assert_close(found.var(1, correction=0), donor.var(1, correction=0), rtol=0, atol=1e-12)
    assert torch.equal(adapted(x, donor, weight=0.0), x)
