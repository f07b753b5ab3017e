from __future__ import annotations

import torch

from archspec.runtime.learn.draws import generator
from archspec.runtime.learn.neurons import surviving_neurons


def loss(gram: torch.Tensor, down: torch.Tensor, kept: torch.Tensor) -> float:
    """Squared error of the best map from the kept neurons to the whole output."""
    best = torch.linalg.solve(gram[kept][:, kept], (down @ gram)[:, kept].T).T
    rest = down.clone()
    rest[:, kept] -= best
    return float(torch.trace(rest @ gram @ rest.T))


def example(hidden: int, width: int = 5) -> tuple[torch.Tensor, torch.Tensor]:
    draws = generator("neurons", hidden)
    h = (
        torch.randn(200, hidden, generator=draws, dtype=torch.float64)
        @ torch.randn(hidden, hidden, generator=draws).double()
    )
    return h.T @ h, torch.randn(width, hidden, generator=draws, dtype=torch.float64)


def test_repeated_and_silent_neurons_go_first() -> None:
    gram, down = example(6)
    wide = torch.zeros(8, 8, dtype=torch.float64)
    spread = torch.cat([torch.eye(6), torch.zeros(1, 6), torch.eye(6)[:1]]).double()  # 6: silent, 7: a copy of 0
    wide = spread @ gram @ spread.T
    kept = surviving_neurons(wide, torch.cat([down, down[:, :2]], dim=1), 6)
    assert 6 not in kept
    assert len({0, 7} & set(kept.tolist())) == 1


def test_one_neuron_less_is_the_best_choice() -> None:
    gram, down = example(7)
    kept = surviving_neurons(gram, down, 6)
    losses = [loss(gram, down, torch.tensor([i for i in range(7) if i != gone])) for gone in range(7)]
    assert loss(gram, down, kept) == min(losses)


def test_all_or_one_may_stay() -> None:
    gram, down = example(5)
    assert surviving_neurons(gram, down, 5).tolist() == [0, 1, 2, 3, 4]
    assert len(surviving_neurons(gram, down, 1)) == 1
