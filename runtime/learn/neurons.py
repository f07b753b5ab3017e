"""Which neurons of a wide MLP a narrower one keeps: those whose loss the remaining ones can least make up for.

With h the teacher's hidden activations, C their Gram matrix and W its output map, dropping neuron j and refitting the
rest raises the squared error by |W_j|^2 / [C^-1]_jj (Hassibi & Stork 1993, Eq. 5, for a whole column). Neurons go one
at a time, the cheapest first, and W and C^-1 follow by rank-one updates: O(hidden^2) each, from one hidden x hidden
matrix whatever the number of tokens. A set that is torn down was better than one that is built up (orthogonal matching
pursuit), whether most neurons stay or few: no choice is made before the company that a neuron will keep is known
(docs/log.md).
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from archspec.diagnostics import fail
from archspec.host.excerpt import Excerpt
from archspec.runtime.learn.least_squares import GramAccumulator
from archspec.runtime.learn.narrowing import taken
from archspec.runtime.learn.taps import Record
from archspec.runtime.model.excerpts import taken as excerpt_of

DAMPING = 1e-4
"""Ridge on the Gram matrix, as a fraction of its mean diagonal."""


@torch.no_grad()
def surviving_neurons(gram: Tensor, down: Tensor, keep: int) -> Tensor:
    """Return the ascending indices of the `keep` neurons that stay.

    `gram` (hidden, hidden) is centred where the read-out has a bias; `down` (width, hidden) is the teacher's map.
    """
    tiny = torch.finfo(torch.float64).tiny
    ridge = DAMPING * gram.diagonal().mean().clamp_min(tiny)
    inverse = torch.linalg.inv(gram.double() + ridge * torch.eye(len(gram), dtype=torch.float64, device=gram.device))
    weights = down.detach().double().to(gram.device).clone()
    alive = torch.ones(len(gram), dtype=torch.bool, device=gram.device)
    for _ in range(len(gram) - keep):
        cost = weights.square().sum(0) / inverse.diagonal().clamp_min(tiny)
        worst = int(cost.masked_fill(~alive, float("inf")).argmin())
        row = inverse[worst] / inverse[worst, worst]
        weights -= torch.outer(weights[:, worst].clone(), row)
        inverse -= torch.outer(inverse[:, worst].clone(), row)
        alive[worst] = False
    return alive.nonzero().flatten()


class NeuronWatch:
    """Gathers the Gram matrix of one teacher MLP's hidden activations, from calls of that MLP.

    `names` are canonical weight names (`up.weight`, `down.bias`) to where the host has them.
    """

    def __init__(self, host: nn.Module, site: str, names: Mapping[str, Excerpt]) -> None:
        self.site = host.get_submodule(site)
        self.down = host.get_submodule(names["down.weight"].tensor.rpartition(".")[0])
        self.whole = self.down in set(self.site.modules())
        self.teacher = {name: _tensor(host, weight) for name, weight in names.items()}
        weight = self.teacher["down.weight"]
        self.sums = GramAccumulator.empty(weight.shape[1], weight.shape[0], weight.device)

    def update(self, record: Record) -> None:
        """Add the hidden activations of a recorded call: run the MLP on it, or, where the host maps down in another
        module, take what that was given."""
        if not self.whole:
            assert record.read is not None  # its map down is the site's last module, and is called by place
            self.sums.update(record.real(record.read), record.real(record.output))
            return
        handle = self.down.register_forward_hook(
            lambda _, args, y: self.sums.update(record.real(args[0]), record.real(y))
        )
        try:
            self.site(*record.args, **record.kwargs)
        finally:
            handle.remove()

    def choose(self, keep: int) -> dict[str, Tensor]:
        """Return the teacher's MLP with the neurons that stay alone, by canonical names."""
        gram = self.sums.centred()[0] if "down.bias" in self.teacher else self.sums.raw()[0]
        chosen = surviving_neurons(gram, self.teacher["down.weight"], keep)
        return {name: taken(name, tensor, chosen.to(tensor.device)) for name, tensor in self.teacher.items()}


def _tensor(host: nn.Module, weight: Excerpt) -> Tensor:
    try:
        return excerpt_of(weight, host.get_parameter(weight.tensor).detach())
    except AttributeError as error:
        hint = "give the base that the spec was compiled for: `--base PATH`"
        raise fail("AS725", f"the host has no tensor '{weight.tensor}'", None, hint) from error
