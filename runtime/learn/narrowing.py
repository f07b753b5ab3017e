"""A narrower MLP from a wide one, from weights alone. With data, see `neurons`.

    strongest   the neurons of the largest weights, as they are
    nearest     neurons go one at a time, and the neuron that is nearest takes over what it gave: the pair of the least
                |down_j|² |w_i - w_j|² first (Srinivas and Babu 2015, https://arxiv.org/abs/1507.06149, Alg. 1)
    clusters    as many groups of neurons that lie close together as there are to be neurons (k-means from the
                strongest); a group becomes its mean, weighed by |down_j|², and gives what its neurons gave together

w is a neuron's row of W_up with its bias, and of W_gate where there is one: neurons that are equal in it do the same,
so that neither way loses anything of copies.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

from archspec.runtime.learn.scores import norm_scores, select_neurons

Way = Literal["strongest", "nearest", "clusters"]
ROUNDS = 10
"""Of k-means, at most."""


@torch.no_grad()
def narrowed(teacher: Mapping[str, Tensor], hidden: int, way: Way) -> dict[str, Tensor]:
    """Return the teacher's MLP (canonical names) with `hidden` neurons; as it is if it has no more."""
    whole = len(teacher["up.weight"])
    if hidden >= whole:
        return dict(teacher)
    strongest = select_neurons(norm_scores(teacher), hidden)
    if way == "strongest":
        return {name: taken(name, value, strongest.to(value.device)) for name, value in teacher.items()}
    rows, down = _rows(teacher), teacher["down.weight"].detach().to("cpu", torch.float32)
    if way == "nearest":
        kept, owner = _nearest(rows, down, hidden)
        return _merged(teacher, _indicator(torch.arange(hidden), hidden, kept, whole), _indicator(owner, hidden))
    strength = down.square().sum(0).clamp(min=torch.finfo(torch.float32).tiny)
    members = _indicator(_clusters(rows, rows[strongest.cpu()], strength), hidden)
    weights = members * strength
    return _merged(teacher, weights / weights.sum(1, keepdim=True), members)


def taken(name: str, value: Tensor, neurons: Tensor) -> Tensor:
    """Return one of an MLP's tensors, by its canonical name, with these neurons alone."""
    if name.startswith(("up.", "gate.")):
        return value[neurons]
    return value[:, neurons] if name == "down.weight" else value


def _rows(teacher: Mapping[str, Tensor]) -> Tensor:
    """Return (neurons, features) of what decides what a neuron does."""
    parts = (teacher[name] for name in ("up.weight", "up.bias", "gate.weight", "gate.bias") if name in teacher)
    return torch.cat([part.detach().to("cpu", torch.float32).view(len(part), -1) for part in parts], 1)


def _indicator(owner: Tensor, groups: int, neurons: Tensor | None = None, count: int | None = None) -> Tensor:
    """Return (groups, neurons): 1 where a neuron (all, or `neurons` of `count`) belongs to the group `owner`."""
    columns = torch.arange(len(owner)) if neurons is None else neurons
    return torch.zeros(groups, count or len(owner)).index_put_((owner, columns), torch.tensor(1.0))


def _merged(teacher: Mapping[str, Tensor], means: Tensor, sums: Tensor) -> dict[str, Tensor]:
    """Return the MLP whose neurons are means (new, old) of the rows and sums (new, old) of the columns."""
    found = dict(teacher)
    for name, value in teacher.items():
        if name.startswith(("up.", "gate.")):
            found[name] = means.to(value) @ value
    down = teacher["down.weight"]
    found["down.weight"] = down @ sums.to(down).T
    return found


def _nearest(rows: Tensor, down: Tensor, hidden: int) -> tuple[Tensor, Tensor]:
    """Return the neurons that stay, ascending, and for each neuron the place among them of its heir."""
    count, down = len(rows), down.clone()
    alive, heir = torch.ones(count, dtype=torch.bool), torch.arange(count)
    distance, near = torch.full((count,), float("inf")), torch.zeros(count, dtype=torch.long)

    def look(which: Tensor) -> None:
        others = alive.nonzero().flatten()
        for part in torch.split(which, 1024):
            found = torch.cdist(rows[part], rows[others])
            found[part[:, None] == others] = float("inf")
            distance[part], index = found.min(1)
            near[part] = others[index]

    look(torch.arange(count))
    for _ in range(count - hidden):
        cost = down.square().sum(0) * distance.square()
        gone = int(cost.masked_fill(~alive, float("inf")).argmin())
        takes = int(near[gone])
        down[:, takes] += down[:, gone]
        alive[gone], heir[gone] = False, takes
        look((alive & (near == gone)).nonzero().flatten())
    kept = alive.nonzero().flatten()
    while not alive[heir].all():
        heir = heir[heir]
    return kept, torch.searchsorted(kept, heir)


def _clusters(rows: Tensor, centres: Tensor, strength: Tensor) -> Tensor:
    """Return the group of each row; no group is empty."""
    owner = torch.full((len(rows),), -1)
    for _ in range(ROUNDS):
        distances = torch.cat([torch.cdist(part, centres) for part in torch.split(rows, 1024)])
        new = _filled(distances, len(centres))
        if torch.equal(new, owner):
            break
        owner = new
        total = torch.zeros(len(centres)).index_add_(0, owner, strength)
        centres = torch.zeros_like(centres).index_add_(0, owner, rows * strength[:, None]) / total[:, None]
    return owner


def _filled(distances: Tensor, groups: int) -> Tensor:
    """Return the nearest group of each row; a group that nothing is nearest to gets the row farthest from its own."""
    near, owner = distances.min(1)
    counts = torch.bincount(owner, minlength=groups)
    for empty in (counts == 0).nonzero().flatten().tolist():
        lonely = int(near.masked_fill(counts[owner] < 2, -1.0).argmax())
        counts[owner[lonely]] -= 1
        owner[lonely], near[lonely] = empty, 0.0
        counts[empty] = 1
    return owner
