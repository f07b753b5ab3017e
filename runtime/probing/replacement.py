"""What replacing one site costs: a new operator in its place, fitted in closed form; how far the host's answer moves.

The score is the squared error of the answer relative to its size, on examples that no fit has seen, with all other
sites as they are: the one-site replacement score of Puzzle (https://arxiv.org/abs/2411.19146, Sec. 3), by which whole
architectures are compared as sums.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from archspec.host.excerpt import Excerpt
from archspec.host.structure import Site
from archspec.instructions import Install
from archspec.operators.base import Signature
from archspec.operators.identity import Identity
from archspec.runtime.learn.feed import Feed
from archspec.runtime.learn.fit import FitSettings, Teacher, fit
from archspec.runtime.learn.parts import Part
from archspec.runtime.learn.taps import Tap
from archspec.runtime.model.excerpts import taken
from archspec.runtime.model.initialize import initialize, path_seed
from archspec.runtime.objectives import first_tensor
from archspec.runtime.operators import build_operator
from archspec.runtime.operators.base import Operator


@dataclass(frozen=True)
class Trial:
    """An operator for a site. `donor`: canonical names to where the host has them, where neurons are to be chosen."""

    site: Site
    config: Signature
    donor: Mapping[str, Excerpt] | None = None


@torch.no_grad()
def scores(
    host: nn.Module,
    trials: Sequence[Trial],
    feed: Feed,
    settings: FitSettings,
    seed: int,
    done: Callable[[int], None] = lambda count: None,
) -> dict[str, float]:
    """Return module path -> score of one operator at each of its sites. All fits share one run of the host."""
    weights = host.state_dict()
    operators = {trial.site.path: made(trial, weights, seed, feed.device) for trial in trials}
    parts = [Part(t.site.path, (t.site.path,), Tap.of(t.site), operators[t.site.path]) for t in trials]
    learning = [part for part in parts if part.readouts]
    if learning:
        donors = {t.site.path: t.donor for t in trials if t.donor}
        fit(learning, Teacher(host), feed, replace(settings, sequential=False), donors)
    found: dict[str, float] = {}
    answers = list(_answers(host, feed))
    for trial in trials:
        path = trial.site.path
        with standing(host, trial.site, operators[path]):
            found[path] = _distance(answers, _answers(host, feed))
        done(1)
    return found


def made(trial: Trial, weights: Mapping[str, Tensor], seed: int, device: torch.device | str) -> Operator:
    """Return the operator with its first weights: inherited where that is possible."""
    site, config = trial.site, trial.config
    install = Install(
        site.path, site.slot, config.name, config.version, config.settings(), site.shape, site.port, site.index
    )
    operator = build_operator(install, device, torch.float32)
    teacher = {role: taken(weight, weights[weight.tensor]) for role, weight in site.teacher.items()}
    initialize(operator, "least_squares", teacher, path_seed(seed, site.path))
    return operator.eval()


@contextmanager
def standing(host: nn.Module, site: Site, module: nn.Module) -> Iterator[None]:
    """Let a module stand at a site of the host for a while; further modules of the site do nothing meanwhile."""
    before = {path: host.get_submodule(path) for path in site.paths}
    ends = [_end(end, before[end.path]) for end in site.ends]
    for path, new in zip(site.paths, (module, *ends), strict=True):
        _put(host, path, new)
    try:
        yield
    finally:
        for path, old in before.items():
            _put(host, path, old)


def _end(site: Site, old: nn.Module) -> nn.Module:
    """Return what stands for a further module of a site: of what it reads, the map of what is not the site's stays."""
    if not site.shape.foreign:
        return nn.Identity()
    weights = {f"{site.path}.{name}": weight for name, weight in old.named_parameters()}
    example = next(iter(weights.values()))
    trial = Trial(site, Identity())
    return made(trial, weights, 0, example.device).to(example.dtype)


def _put(host: nn.Module, path: str, module: nn.Module) -> None:
    parent, _, leaf = path.rpartition(".")
    setattr(host.get_submodule(parent), leaf, module)


def _answers(host: nn.Module, feed: Feed) -> Iterator[Tensor]:
    for _, keywords in feed.batches(feed.held_out, "held-out"):
        yield first_tensor(host(**keywords)).float()


def _distance(wanted: Sequence[Tensor], found: Iterator[Tensor]) -> float:
    lost = sum(float((a - b).double().square().sum()) for a, b in zip(wanted, found, strict=True))
    return lost / sum(float(a.double().square().sum()) for a in wanted)
